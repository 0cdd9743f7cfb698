"""Every sampler on one conditional two-objective space: valid points, reproducible, and unchanged by restarts."""

import json
import logging
import math
import warnings
from types import SimpleNamespace

import optuna
import pytest

from study.errors import SpaceError
from study.points import grid_points
from study.samplers import distribution_of
from study.sampling import StudyView

FIXED_STEP = ("euler", "rk4")


def parameter(name, kind, low=None, high=None, *, log=False, step=None, choices=(), when=None):
    return SimpleNamespace(
        name=name, kind=kind, low=low, high=high, log=log, step=step, choices=choices, when=when or {}
    )


def space_of(sampler, *, seed=0, anchors=(), finite=False, startup=6):
    step = {"step": 5.0} if finite else {}
    parameters = (
        parameter("temperature", "float", 1, 21, log=not finite, **step),
        parameter("solver", "choice", choices=(*FIXED_STEP, "dopri5")),
        parameter("width", "int", 2, 4),
        parameter("residual", "choice", choices=(True, False)),
        parameter("arch", "fixed", choices=("odenet",)),
        parameter("evaluations", "choice", choices=(4, 8), when={"solver": FIXED_STEP}),
        parameter(
            "rtol",
            "choice" if finite else "float",
            1e-4,
            1e-2,
            log=not finite,
            choices=(1e-4, 1e-2) * finite,
            when={"solver": ("dopri5",)},
        ),
        parameter("head", "int", 0, 1, when={"arch": ("odenet",), "evaluations": (8,)}),
        parameter("never", "float", 0, 1, when={"arch": ("other",)}),
    )
    return SimpleNamespace(
        parameters=parameters,
        anchors=anchors,
        sampler=SimpleNamespace(name=sampler, startup_trials=startup),
        study=SimpleNamespace(seed=seed),
    )


def outcome_of(number, point):
    """A cheap stand-in for training: two objectives that pull apart, and some trials that do not end well."""
    if number % 7 == 3:
        return {"state": "FAIL", "reason": "diverged", "values": None}
    if number % 11 == 5:
        return {"state": "FAIL", "reason": "worker died", "values": None}
    if number % 13 == 6:
        return {"state": "PRUNED", "reason": "rung 1", "values": None}
    good = math.exp(-((math.log(point["temperature"]) - 1) ** 2)) + 0.1 * (point["solver"] == "rk4")
    return {"state": "COMPLETE", "values": {"accuracy": good / 2, "adversarial_accuracy": 0.5 - good / 4}}


def search(space, path, trials=30, *, restart_every=0, in_flight=1, before_restart=None):
    """Ask and tell as the search stage does, with up to `in_flight` open trials; return points and outcomes."""
    records, running = {}, []
    view = StudyView(space, 10, path)
    for step in range(trials):
        if restart_every and step and step % restart_every == 0:
            view.close()
            if before_restart is not None:
                before_restart()
            view = StudyView(space, 10, path)
            assert view.reconcile([(n, *record) for n, record in records.items()]) == []
        asked = view.ask()
        if asked is None:
            break
        number, point = asked
        records[number] = (json.loads(json.dumps(point)), None)
        running.append(number)
        if len(running) == in_flight:
            done = running.pop(len(running) // 2)
            records[done] = (records[done][0], outcome_of(done, records[done][0]))
            view.tell(done, records[done][1])
            view.tell(done, records[done][1])
    view.close()
    return records


def check_point(space, point):
    expected = {"temperature", "solver", "width", "residual"}
    expected |= {"rtol"} if point["solver"] == "dopri5" else {"evaluations"}
    expected |= {"head"} if point.get("evaluations") == 8 else set()
    assert set(point) == expected
    for searched in space.parameters:
        if searched.name in point:
            value = point[searched.name]
            assert distribution_of(searched)._contains(distribution_of(searched).to_internal_repr(value))
    assert isinstance(point["residual"], bool)
    assert isinstance(point["width"], int)


def is_finite(name):
    return name == "grid"


GP = pytest.param("gp", marks=pytest.mark.slow)


@pytest.fixture(params=["tpe", "nsga2", "qmc", "random", "grid", GP])
def name(request, monkeypatch):
    monkeypatch.setattr("study.samplers.NSGA2_POPULATION", 5)  # several generations in few trials
    return request.param


class TestEverySampler:
    def test_points_are_valid_numbered_and_reproducible(self, name, recwarn, capfd):
        space = space_of(name, finite=is_finite(name))
        first = search(space, None)
        assert sorted(first) == list(range(30))
        for point, _ in first.values():
            check_point(space, point)
        assert search(space, None) == first
        assert search(space_of(name, finite=is_finite(name), seed=1), None) != first
        distinct = {json.dumps(point, sort_keys=True) for point, _ in first.values()}
        assert len(distinct) >= (15 if name == "nsga2" else 30)  # crossover may repeat a parent
        assert not [w for w in recwarn if issubclass(w.category, UserWarning | optuna.exceptions.ExperimentalWarning)]
        assert capfd.readouterr() == ("", "")

    def test_restart_changes_nothing(self, name, tmp_path):
        space = space_of(name, finite=is_finite(name), anchors=({"temperature": 6, "solver": "rk4"},), startup=4)
        whole = search(space, None, 14, in_flight=3)
        assert search(space, tmp_path / "b.db", 14, in_flight=3, restart_every=6) == whole

    @pytest.mark.slow
    def test_many_restarts_change_nothing(self, name, tmp_path):
        space = space_of(name, finite=is_finite(name), anchors=({"temperature": 6, "solver": "rk4"},))
        whole = search(space, None, in_flight=3)
        assert search(space, tmp_path / "b.db", in_flight=3, restart_every=5) == whole

    def test_deleted_database_is_rebuilt_and_changes_nothing(self, name, tmp_path):
        """With one worker; with several NSGA-II forgets who was there when a generation was chosen (see rebuild)."""
        space = space_of(name, finite=is_finite(name), startup=4)
        whole = search(space, None, 12)
        path = tmp_path / "b.db"
        assert search(space, path, 12, restart_every=9, before_restart=path.unlink) == whole

    @pytest.mark.parametrize("kill_at", ["suggest_float", "suggest_int"])
    def test_half_made_suggestion_is_completed_as_it_would_have_been(self, name, kill_at, tmp_path, monkeypatch):
        space = space_of(name, finite=is_finite(name), startup=4)
        whole = search(space, None, trials=9, in_flight=2)
        records = search(space, tmp_path / "b.db", trials=8, in_flight=2)

        class Killed(BaseException):
            pass

        view = StudyView(space, 10, tmp_path / "b.db")

        def kill(*_, **__):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Trial, kill_at, kill)
            with pytest.raises(Killed):
                view.ask()
        view.close()
        view = StudyView(space, 10, tmp_path / "b.db")
        late = {n: (p, o or outcome_of(n, p)) for n, (p, o) in records.items()}  # a worker outlived the driver
        assert view.reconcile([(n, *record) for n, record in late.items()]) == [(8, whole[8][0])]
        view.close()


def test_anchors_come_first_once_and_partial_ones_are_completed(tmp_path):
    anchors = (
        {"temperature": 4, "solver": "rk4", "width": 3, "residual": True, "evaluations": 8, "head": 1, "why": "usual"},
        {"solver": "dopri5", "rtol": 1e-3},
    )
    space = space_of("tpe", anchors=anchors)
    records = search(space, tmp_path / "a.db", trials=4, restart_every=1)
    expected = {name: value for name, value in anchors[0].items() if name != "why"}
    assert records[0][0] == expected
    assert isinstance(records[0][0]["temperature"], float)
    assert (records[1][0]["solver"], records[1][0]["rtol"]) == ("dopri5", 1e-3)
    check_point(space, records[1][0])
    assert all(point != expected for number, (point, _) in records.items() if number)


def test_anchor_left_waiting_by_a_kill_is_taken_once(tmp_path):
    space = space_of("random", anchors=({"solver": "rk4"}, {"solver": "dopri5"}))
    view = StudyView(space, 10, tmp_path / "a.db")
    view._study.enqueue_trial({"solver": "rk4"})
    view.close()
    view = StudyView(space, 10, tmp_path / "a.db")
    assert view.reconcile([]) == []
    asked = [view.ask() for _ in range(3)]
    assert [number for number, _ in asked] == [0, 1, 2]
    assert [point["solver"] for _, point in asked][:2] == ["rk4", "dopri5"]


def told_rows(view):
    return {trial.number: trial for trial in view._rows()}


# ---------------------------------------------------------------- what is told


@pytest.mark.parametrize("reason", ["diverged", "capped", "infeasible"])
def test_divergence_is_told_as_infeasible_chance(reason):
    view = StudyView(space_of("tpe"), 4, None)
    number, _ = view.ask()
    view.tell(number, {"state": "FAIL", "reason": reason, "values": None})
    row = told_rows(view)[number]
    assert (row.state.name, row.values, row.constraints) == ("COMPLETE", [0.25, 0.0], {"infeasible": 1.0})
    assert view._study.best_trials == []
    assert view.told == [0]


@pytest.mark.parametrize(
    ("outcome", "state", "values"),
    [
        ({"state": "COMPLETE", "values": {"accuracy": 0.5, "adversarial_accuracy": 0.1}}, "COMPLETE", [0.5, 0.1]),
        ({"state": "COMPLETE", "values": {"accuracy": 0.5, "adversarial_accuracy": None}}, "COMPLETE", [0.25, 0.0]),
        ({"state": "COMPLETE", "values": {"accuracy": math.nan, "adversarial_accuracy": 0.1}}, "COMPLETE", [0.25, 0.0]),
        ({"state": "PRUNED", "values": None}, "PRUNED", None),
        ({"state": "FAIL", "reason": "worker died", "values": None}, "FAIL", None),
    ],
)
def test_outcomes_in_optunas_words(outcome, state, values):
    view = StudyView(space_of("tpe"), 4, None)
    number, _ = view.ask()
    view.tell(number, outcome)
    row = told_rows(view)[number]
    assert (row.state.name, row.values) == (state, values)
    is_good = values == [0.5, 0.1]
    assert bool(view._study.best_trials) == is_good


MASKED = {
    "state": "COMPLETE",
    "values": {"accuracy": 0.99, "adversarial_accuracy": 0.99},
    "metrics": {"infeasible": ["G2 (gradient agrees with differences) fails: correlation 0.4"]},
}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "grid"])
def test_a_failed_check_keeps_its_values_and_never_wins(sampler, tmp_path):
    space = space_of(sampler, finite=is_finite(sampler))
    view = StudyView(space, 10, tmp_path / "a.db")
    honest = {"state": "COMPLETE", "values": {"accuracy": 0.5, "adversarial_accuracy": 0.1}}
    records = []
    for outcome in (MASKED, {**honest, "metrics": {"infeasible": []}}, honest):
        number, point = view.ask()
        view.tell(number, outcome)
        records.append((number, point, outcome))
    view.close()
    for path in (tmp_path / "a.db", None):  # as told, and rebuilt from the ledger
        view = StudyView(space, 10, path)
        view.reconcile(records)
        row = told_rows(view)[0]
        assert (row.state.name, row.values, row.constraints) == ("COMPLETE", [0.99, 0.99], {"infeasible": 1.0})
        assert {trial.number for trial in view._study.best_trials} == {1, 2}
        view.close()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_leaves_what_fails_its_checks(sampler, monkeypatch):
    """Where euler masks, its values are the best by far; the search that is told so turns away, the other does not."""
    monkeypatch.setattr("study.samplers.NSGA2_POPULATION", 8)

    def euler_share(masked):
        view = StudyView(space_of(sampler), 10, None)
        chosen = []
        for _ in range(48):
            number, point = view.ask()
            chosen.append(point["solver"] == "euler")
            view.tell(number, masked if chosen[-1] else outcome_of(0, point))
        return sum(chosen[24:]) / 24

    assert euler_share(MASKED) < 0.35
    assert euler_share({**MASKED, "metrics": {}}) > 0.6


@pytest.mark.parametrize("wrong", ["values", "point", "missing", "unsettled"])
def test_ledger_wins_over_the_view(wrong):
    """A row that the ledger contradicts or never had makes the view start over from the ledger."""
    view = StudyView(space_of("random"), 10, None)
    ledger = []
    for _ in range(8):
        number, point = view.ask()
        ledger.append((number, point, outcome_of(number, point)))
        view.tell(number, ledger[-1][2])
    number, point, outcome = ledger[4]
    better = {**outcome, "values": {"accuracy": 0.9, "adversarial_accuracy": 0.9}}
    ledger[4:5] = {
        "values": [(number, point, better)],
        "point": [(number, {**point, "width": 2 if point["width"] != 2 else 3}, outcome)],
        "missing": [],
        "unsettled": [(number, point, None)],
    }[wrong]
    assert view.reconcile(ledger) == []
    rows = told_rows(view)
    assert sorted(rows) == list(range(8))
    assert view.told == [n for n in range(8) if (wrong, n) != ("unsettled", 4)]
    if wrong == "values":
        assert rows[4].values == [0.9, 0.9]
    elif wrong == "point":
        assert rows[4].params["width"] == ledger[4][1]["width"]
    elif wrong == "missing":
        assert (rows[4].state.name, rows[4].params) == ("FAIL", {})
    assert view.ask()[0] == 8


def test_what_was_told_is_kept_as_ranges():
    """Of many trials only the gaps are written; what is in flight is not seen."""
    view = StudyView(space_of("random"), 10, None)
    asked = [view.ask() for _ in range(9)]
    for number, point in asked:
        if number not in (3, 8):
            view.tell(number, outcome_of(number, point))
    assert view.told == [0, 1, 2, 4, 5, 6, 7]
    assert view.seen == [[0, 2], [4, 7]]


def test_an_ask_that_fails_does_not_shift_the_numbers(monkeypatch):
    """The view counts its trials itself; after an exception it looks again."""
    space = space_of("random", anchors=({"temperature": 6}, {"temperature": 7}))
    whole = search(space, None, 4)
    view = StudyView(space, 10, None)
    assert view.ask() == (0, whole[0][0])
    with monkeypatch.context() as patch:
        patch.setattr(view._study, "ask", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            view.ask()
    assert [view.ask() for _ in range(3)] == [(number, whole[number][0]) for number in (1, 2, 3)]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_asking_looks_through_all_trials_as_rarely_as_the_sampler_does(sampler, monkeypatch):
    view, looks = StudyView(space_of(sampler), 10, None), []
    counted = view._rows
    monkeypatch.setattr(view, "_rows", lambda *states: looks.append(states) or counted(*states))
    for _ in range(5):
        number, point = view.ask()
        view.tell(number, outcome_of(number, point))
    assert len(looks) == 1


def test_asked_but_unwritten_trial_is_handed_back(tmp_path):
    view = StudyView(space_of("tpe"), 10, tmp_path / "a.db")
    asked = view.ask()
    view.close()
    view = StudyView(space_of("tpe"), 10, tmp_path / "a.db")
    assert view.reconcile([]) == [asked]
    assert view.reconcile([(*asked, None)]) == []


def test_damaged_database_is_set_aside_and_rebuilt(tmp_path):
    space = space_of("tpe")
    whole = search(space, None, trials=9)
    records = search(space, tmp_path / "b.db", trials=8)
    path = tmp_path / "b.db"
    path.write_bytes(path.read_bytes()[:5000] + b"garbage" * 500)
    view = StudyView(space, 10, path)
    view.reconcile([(n, *record) for n, record in records.items()])
    assert view.ask() == (8, whole[8][0])
    assert (tmp_path / "b.db.damaged-1").exists()
    view.close()


def test_grid_visits_every_point_once_and_ends():
    space = space_of("grid", finite=True)
    points = list(grid_points(space.parameters))
    assert len(points) == 5 * 3 * 2 * ((1 + 2) * 2 + 2)
    records = search(space, None, trials=1000, in_flight=3)
    tried = [json.dumps(point, sort_keys=True) for point, _ in records.values()]
    assert len(tried) == len(points) == len(set(tried))


def test_endless_grid_is_refused():
    with pytest.raises(SpaceError, match=r"space\.temperature is a range of floats without a step"):
        StudyView(space_of("grid"), 10, None)


def test_unknown_sampler_is_refused():
    with pytest.raises(SpaceError, match="tpe, nsga2, gp, qmc, random, grid, but got 'cma'"):
        StudyView(space_of("cma"), 10, None)


def test_other_warnings_and_loggers_are_left_alone():
    before = logging.getLogger().level
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        StudyView(space_of("tpe"), 10, None)
        warnings.warn("mine", optuna.exceptions.ExperimentalWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["mine"]
    assert logging.getLogger().level == before


def test_model_samplers_learn():
    """TPE's later points are better than its random ones: the outcomes arrive with the right sign."""
    records = search(space_of("tpe"), None, trials=60)
    scores = [abs(math.log(point["temperature"]) - 1) for point, _ in records.values()]
    assert sum(scores[40:]) / 20 < sum(scores[:6]) / 6
