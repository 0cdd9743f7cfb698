"""What is read back of the robustness stage: parts joined, what is no longer in force out, doubt where it belongs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.attacked import CHECKED, SPECIFICATION, read_attacked
from study.checks.expected import NEGATIVE, POSITIVE
from study.controls import FOLDER, read_controls
from study.ledger import Ledger

N = 100
EPSILONS = [0.1, 0.2]
IDS = np.arange(N) + 7


def bits(*broken: int) -> np.ndarray:
    row = np.zeros(N, dtype=bool)
    row[list(broken)] = True
    return row


class Folder:
    """A study's folder as the robustness stage leaves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(SPECIFICATION, {"schema": 2, "specification": "s", "checks": "c", "pool": "p"})

    def write(self, name: str, document: dict[str, Any]) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))

    def outcome(self, key: str, metrics: dict[str, Any]) -> None:
        self.write(f"{key}/config.json", {"schema": 1})
        self.write(f"{key}/outcome.json", {"schema": 1, "state": "COMPLETE", "reason": None, "metrics": metrics})

    def attack(
        self, model: str, part: str, columns: dict[str, list[np.ndarray]], key: str | None = None, **more: Any
    ) -> None:
        key = key or f"robustness/{model}/s-{part}"
        identity = {"model": model, "kind": more.pop("kind", "student"), "trial": 1, "part": part, "specification": "s"}
        self.outcome(key, identity | {"epsilons": EPSILONS, "norm": "linf", "split": "test", "shards": 1} | more)
        broken = np.stack([[column[level] for column in columns.values()] for level in range(2)])
        np.savez(
            self.root / key / "survivors.npz",
            image_id=IDS,
            clean_correct=~bits(99),
            columns=np.array(list(columns)),
            broken=broken,
            attempted=np.ones_like(broken),
        )

    def check(
        self,
        model: str,
        attacks: dict[str, list[np.ndarray]],
        measured: Any = (),
        key: str = "",
        further: list[np.ndarray] | None = None,
        solver_broken: np.ndarray | None = None,
        correct: int = 50,
        **more: Any,
    ) -> None:
        key = key or f"robustness/{model}/s-checks-c"
        identity = {"model": model, "kind": "student", "trial": 1, "part": "checks", "specification": "c"}
        said = {"epsilons": EPSILONS, "measured": list(measured), "protocol": "batch"}
        self.outcome(key, identity | said | more)
        broken = np.stack([[column[level] for column in attacks.values()] for level in range(2)])
        arrays = {"further": np.stack(further)[:, :50]} if further is not None else {}
        if solver_broken is not None:
            of_solvers = {"solvers": np.array(["rk4:16", "euler:16"]), "solver_converged": np.array([True, False])}
            arrays |= of_solvers | {"solver_correct": np.ones((2, 50), dtype=bool), "solver_broken": solver_broken}
        np.savez(
            self.root / key / "diagnosis.npz",
            image_id=IDS[:50],
            clean_correct=np.arange(50) < correct,
            attacks=np.array(list(attacks)),
            broken=broken[..., :50],
            **arrays,
        )

    def read(self):
        self.problems: list[str] = []
        return read_attacked(Ledger(self.root), self.problems)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


NOTHING = [bits(), bits()]


def test_the_worst_case_is_over_all_parts_and_what_a_smaller_epsilon_broke_stays_broken(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": [bits(1), bits(2)]})
    folder.attack("a", "transfer", {"transfer-b": [bits(3), bits()]}, closed_pool="p")
    folder.attack("a", "adaptive", {"carried": [bits(50)] * 2, "square-20000": [bits(), bits(4)]}, closed_pool="p")
    found = folder.read().survivors["a"]
    assert found.columns == ("carried", "pgd-20", "transfer-b", "square-20000")
    assert np.flatnonzero(~found.robust(0.1)).tolist() == [1, 3, 99]
    assert np.flatnonzero(~found.robust(0.2)).tolist() == [1, 2, 3, 4, 99]
    assert folder.problems == []


def test_what_the_checks_broke_is_broken(folder: Folder):
    """The attacks of the checks are attacks: alone, with more steps, or through another solver judged as deployed."""
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": [bits(1), bits(1, 2)]})
    folder.check("a", {"square": [bits(4), bits()], "pgd-20": [bits(), bits(5)]}, further=[bits(6), bits(7)])
    found = folder.read().survivors["a"]
    assert found.columns == ("carried", "pgd-20", CHECKED)
    assert np.flatnonzero(~found.robust(0.1)).tolist() == [1, 4, 6, 99]
    assert np.flatnonzero(~found.robust(0.2)).tolist() == [1, 2, 4, 5, 6, 7, 99]
    assert found.counts(0.1)[-1] == (CHECKED, 50, 2)
    matrix = np.zeros((2, 2, 2, 50), dtype=bool)
    matrix[0, 1, 0, 8] = True  # through another solver, judged under the deployed one
    matrix[0, 0, 1, 9] = True  # the other way round: says nothing about the deployed one
    folder.check("a", {"square": NOTHING}, solver_broken=matrix)
    assert np.flatnonzero(~folder.read().survivors["a"].robust(0.1)).tolist() == [1, 8, 99]


def test_checks_of_other_shapes_are_a_sentence_and_no_crash(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.check("a", {"square": NOTHING}, further=[bits(6)[:40], bits(7)[:40]])
    assert folder.read().survivors["a"].columns == ("carried", "pgd-20")
    assert "its further should be of 50 images, but has shape (2, 40)" in folder.problems[0]


def test_checks_at_other_epsilons_add_nothing(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.check("a", {"square": [bits(4), bits()]}, epsilons=[0.1, 0.3])
    assert folder.read().survivors["a"].columns == ("carried", "pgd-20")


def test_attacks_on_the_features_that_break_more_make_a_number_unreliable(folder: Folder):
    """A14 is of all images, after the attacks before it; two images decide nothing here either."""
    folder.check("a", {"pgd-20": NOTHING, "fgsm": NOTHING})
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.attack("a", "adaptive", {"feature-l1": [bits(1), bits(1)], "feature-l2": [bits(2)] * 2}, closed_pool="p")
    assert folder.read().checked["a"][0.1].trust.word == "reliable"
    folder.attack("a", "adaptive", {"feature-l1": [bits(1, 5), bits(1)], "feature-l2": [bits(2)] * 2}, closed_pool="p")
    here, larger = folder.read().checked["a"].values()
    (found,) = [each for each in here.judged if each.measured.id == "A14"]
    assert (found.verdict, found.measured.count, found.measured.n) == ("fail", 3, 99)
    assert (here.trust.word, larger.trust.word) == ("unreliable", "reliable")


def test_who_is_right_by_chance_wherever_images_may_be_moved_was_not_attacked(folder: Folder):
    """A8's limit is one over the classes: three of ten fail there, and only warn where two classes are."""
    stays = {"id": "A8", "epsilon": None, "value": 0.3, "count": 15, "n": 50, "said": ""}
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    for classes, word in ((10, "unreliable"), (2, "suspect"), (100, "unreliable")):
        folder.check("a", {"pgd-20": NOTHING}, [stays], classes=classes)
        assert folder.read().trust_of("a", 0.1).word == word


def test_parts_under_another_specification_or_pool_are_not_shown(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.attack("a", "transfer", {"transfer-b": [bits(3), bits(3)]}, closed_pool="an earlier one")
    folder.attack(
        "a", "cascade", {"carried": NOTHING, "pgd-20": [bits(5), bits(5)]}, "robustness/a/t-0", specification="t"
    )
    assert folder.read().survivors["a"].columns == ("carried", "pgd-20")


def test_a_part_that_only_some_models_have_is_named(folder: Folder):
    for model in ("a", "b"):
        folder.attack(model, "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.attack("a", "transfer", {"transfer-b": NOTHING}, closed_pool="p")
    assert folder.read().incomplete == {"b": ["transfer"]}


def test_transfers_that_gradients_do_not_find_make_a_number_unreliable(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.attack("a", "transfer", {"transfer-b": [bits(*range(9)), bits(*range(9))]}, closed_pool="p")
    folder.check("a", {"pgd-20": NOTHING, "fgsm": NOTHING})
    attacked = folder.read()
    checked = attacked.checks_of("a", 0.1)
    assert checked is not None
    assert checked.trust.word == "unreliable"
    assert "A11" in checked.trust.reasons[0]
    assert attacked.is_upper_bound("a", 0.1)
    assert attacked.is_doubted("a")


def test_transfers_that_gradients_find_too_are_no_alarm(folder: Folder):
    both = [bits(*range(9)), bits(*range(9))]
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": both})
    folder.attack("a", "transfer", {"transfer-b": both}, closed_pool="p")
    folder.check("a", {"pgd-20": both, "fgsm": both})
    attacked = folder.read()
    assert attacked.checked["a"][0.1].trust.word == "reliable"
    assert not attacked.is_doubted("a")


def test_two_images_decide_nothing(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.attack("a", "transfer", {"transfer-b": [bits(1, 2), bits(1, 2)]}, closed_pool="p")
    folder.check("a", {"pgd-20": NOTHING, "fgsm": NOTHING})
    assert folder.read().checked["a"][0.1].trust.word == "reliable"


def test_an_upper_bound_that_is_dominated_anyway_is_not_attacked_again(folder: Folder):
    masked = [bits(*range(60)), bits(*range(60))]
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": masked})
    folder.attack("a", "transfer", {"transfer-b": [bits(*range(9, 19))] * 2}, closed_pool="p")
    folder.check("a", {"pgd-20": NOTHING, "fgsm": [bits(*range(9, 19))] * 2})
    assert folder.read().is_doubted("a")
    folder.attack("b", "cascade", {"carried": NOTHING, "pgd-20": [bits(0), bits(0)]})
    folder.attack("b", "transfer", {"transfer-a": NOTHING}, closed_pool="p")
    folder.check("b", {"pgd-20": NOTHING, "fgsm": NOTHING})
    attacked = folder.read()
    assert attacked.is_upper_bound("a", 0.1)
    assert not attacked.is_doubted("a")


def test_numbers_of_one_epsilon_and_of_all_are_told_apart(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    at = {"id": "A3", "epsilon": 0.2, "value": 0.5, "count": 25, "n": 50, "said": ""}
    of_all = {"id": "G2", "epsilon": None, "value": 0.95, "count": None, "n": None, "said": ""}
    folder.check("a", {"pgd-20": NOTHING}, [at, of_all])
    checked = folder.read().checked["a"]
    assert [each.measured.id for each in checked[0.1].judged if each.verdict != "pass"] == ["G2"]
    assert checked[0.1].trust.word == "suspect"
    assert checked[0.2].trust.word == "unreliable"


def test_damaged_checks_are_a_sentence_and_no_crash(folder: Folder):
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.check("a", {"pgd-20": NOTHING})
    (folder.root / "robustness/a/s-checks-c/diagnosis.npz").write_bytes(b"PK")
    assert folder.read().checked == {}
    assert "was left out" in folder.problems[0]


def test_a_silent_check_fails_its_own_test_and_a_healthy_network_must_be_let_alone(folder: Folder):
    folder.write("controls/specification.json", {"specification": "c"})
    speaks = {"id": "P5", "epsilon": None, "value": 1.0, "count": None, "n": None, "said": ""}
    for name, measured in {"softmax": [speaks], "quantised": [], "rk4": [speaks], "dopri5": []}.items():
        folder.check(name, {"pgd-20": NOTHING, "fgsm": NOTHING}, measured, f"{FOLDER}/{name}-c")
    problems: list[str] = []
    controls = read_controls(Ledger(folder.root), problems)
    assert {each.name: each.passed for each in controls.found} == {
        "quantised": False,
        "softmax": True,
        "rk4": False,
        "dopri5": True,
    }
    assert controls.faults == [
        "G1, A8 stay silent about the control quantised, which is broken on purpose",
        "P5 speaks up about the control rk4, which is healthy",
        *(f"the control {name} is missing" for name in controls.missing),
    ]
    assert set(controls.missing) == {*POSITIVE, *NEGATIVE} - {each.name for each in controls.found}
    assert "adversarial" in controls.missing


def test_all_checks_that_must_speak_up_about_a_broken_network_must(folder: Folder):
    folder.write("controls/specification.json", {"specification": "c"})
    flat = {"id": "G1", "epsilon": None, "value": 1.0, "count": 50, "n": 50, "said": ""}
    for entries, silent in (([flat], ("A8",)), ([flat, flat | {"id": "A8"}], ())):
        folder.check("quantised", {"pgd-20": NOTHING, "fgsm": NOTHING}, entries, f"{FOLDER}/quantised-c")
        assert {(each.silent, each.passed) for each in read_controls(Ledger(folder.root), []).found} == {
            (silent, not silent)
        }


@pytest.mark.parametrize(
    ("name", "correct", "broken", "passed"),
    [
        ("rk4", 50, 50, True),
        ("rk4", 7, 0, False),
        ("adversarial", 50, 40, True),
        ("adversarial", 50, 47, False),
        ("adversarial", 50, 50, False),
    ],
)
def test_silence_about_a_healthy_network_counts_only_where_there_was_something_to_doubt(
    folder: Folder, name: str, correct: int, broken: int, passed: bool
):
    folder.write("controls/specification.json", {"specification": "c"})
    row = [bits(*range(broken))] * 2
    folder.check(name, {"pgd-20": row, "fgsm": row}, key=f"{FOLDER}/{name}-c", correct=correct)
    for control in read_controls(Ledger(folder.root), []).found:
        assert control.passed == passed
        assert passed or control.sentence().startswith(f"too few images of the control {name} are right")


def promise(folder: Folder, **more: Any) -> None:
    parts = {"cascade": 1, "transfer": 1, "checks": 1}
    models = {"a": "student", "b": "student"}
    document = {"schema": 2, "specification": "s", "checks": "c", "pool": "p", "parts": parts, "models": models}
    folder.write(SPECIFICATION, document | more)


def test_a_number_without_all_its_attacks_and_checks_is_an_upper_bound(folder: Folder):
    promise(folder)
    for model in ("a", "b"):
        folder.attack(model, "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
        folder.attack(model, "transfer", {"transfer-x": NOTHING}, closed_pool="p")
        folder.check(model, {"pgd-20": NOTHING, "fgsm": NOTHING})
    assert folder.read().incomplete == {}
    (folder.root / "robustness/b/s-checks-c/diagnosis.npz").write_bytes(b"torn")
    (folder.root / "robustness/a/s-transfer/survivors.npz").write_bytes(b"torn")
    attacked = folder.read()
    assert attacked.incomplete == {"a": ["transfer"], "b": ["checks"]}
    assert attacked.is_upper_bound("a", 0.1)
    assert attacked.is_upper_bound("b", 0.2)
    assert "missing" in attacked.trust_of("a", 0.1).reasons[0]
    assert not attacked.is_doubted("a"), "more attacks do not mend a missing one"


def test_a_half_done_adaptive_tier_doubts_whom_it_doubted(folder: Folder):
    """The first shard may make a network look dominated; the others are attacked all the same."""
    folder.attack("a", "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    folder.attack("a", "transfer", {"transfer-b": [bits(*range(9))] * 2}, closed_pool="p")
    folder.check("a", {"pgd-20": NOTHING, "fgsm": NOTHING})
    folder.attack("b", "cascade", {"carried": NOTHING, "pgd-20": [bits(*range(20))] * 2})
    folder.attack("b", "transfer", {"transfer-a": NOTHING}, closed_pool="p")
    folder.check("b", {"pgd-20": [bits(*range(20))] * 2, "fgsm": NOTHING})
    assert folder.read().is_doubted("a")
    folder.attack("a", "adaptive", {"carried": NOTHING, "apgd-ce-1000": [bits(*range(70))] * 2}, closed_pool="p")
    assert not folder.read().is_doubted("a")
    assert read_attacked(Ledger(folder.root), [], adaptive=False).is_doubted("a")


def test_networks_have_the_role_of_the_specification_in_force_and_withdrawn_ones_are_gone(folder: Folder):
    promise(folder, models={"a": "random"})
    for model in ("a", "b"):
        folder.attack(model, "cascade", {"carried": NOTHING, "pgd-20": NOTHING})
    found = folder.read().survivors
    assert {name: bits.kind for name, bits in found.items()} == {"a": "random"}


def test_a_crash_under_an_earlier_specification_is_no_problem_of_this_one(folder: Folder):
    promise(folder)
    failed = {"schema": 1, "state": "FAIL", "reason": "error: OutOfMemoryError", "metrics": {}}
    for name in ("old-000", "s-transfer-q-000", "s-000"):
        folder.write(f"robustness/a/{name}/config.json", {"schema": 1})
        folder.write(f"robustness/a/{name}/outcome.json", failed)
    folder.read()
    assert folder.problems == ["robustness/a/s-000 has no bits: error: OutOfMemoryError"]
