"""Whether validation ordered networks as test does (S19): counted again from the files, and said where it did not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from study.proxy_against_truth import FEWEST, LEAST_TAU, agreements
from study.report.robustness_section import wrong_target_texts
from study.results import Results, load
from tests.checked_folder import Checks, drawn_at_random, masked, write_checked
from tests.study_folder import Plan, attacked

EPSILON = 1 / 16
PLAN = Plan(trials=18, attacked=4, epochs=1, images=120, shard=60)
CHECKS = Checks(plan=PLAN, replicates=1, random=5)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return load(write_checked(tmp_path_factory.mktemp("s19"), CHECKS))


def robust_on_test(folder: Path, trial: int) -> float:
    """Count images that are right and that no attack at the epsilon broke, from the shards alone."""
    right: dict[int, bool] = {}
    for path in folder.glob(f"robustness/student-{trial:06d}/*/survivors.npz"):
        with np.load(path) as stored:
            alive = stored["clean_correct"] & ~stored["broken"][0].any(axis=0)  # 1/16 is the first epsilon
            for image, stands in zip(stored["image_id"].tolist(), alive.tolist(), strict=True):
                right[image] = right.get(image, True) and stands
    return sum(right.values()) / len(right)


def with_proxy(results: Results, order: dict[int, float]) -> Results:
    """Return the study as if the search had seen other values."""
    seen = results.trials["trial"].map(order).fillna(results.trials["adversarial_accuracy"])
    return replace(results, trials=results.trials.assign(adversarial_accuracy=seen))


def test_chosen_and_dismissed_students_are_compared_with_what_their_files_say(results: Results) -> None:
    search, front = agreements(results, EPSILON, draws=50)
    expected = sorted({*attacked(PLAN), *drawn_at_random(CHECKS)} - {masked(PLAN)})
    assert list(search.trials) == expected
    assert search.left_out == 1, "the masked one's number is an upper bound"
    assert [t for t, drawn in zip(search.trials, search.at_random, strict=True) if drawn] == drawn_at_random(CHECKS)
    assert search.final == pytest.approx([robust_on_test(results.path, trial) for trial in expected])
    proxy = results.trials.set_index("trial")["adversarial_accuracy"]
    assert search.seen == pytest.approx(proxy.loc[expected].tolist())
    assert search.ranks.tau == pytest.approx(kendalltau(search.seen, search.final).statistic)
    assert set(front.trials) <= set(attacked(PLAN)), "nobody else was measured on val_front"


def test_a_search_that_saw_the_opposite_is_told_on_the_first_page(results: Results) -> None:
    found = agreements(results, EPSILON, 20)[0]
    final = dict(zip(found.trials, found.final, strict=True))
    alike, _ = agreements(with_proxy(results, final), EPSILON, 50)
    assert alike.ranks.tau == 1.0
    assert not alike.is_wrong
    turned, _ = agreements(with_proxy(results, {t: 1 - value for t, value in final.items()}), EPSILON, 50)
    assert turned.ranks.tau == -1.0
    (text,) = wrong_target_texts([turned])
    assert text.startswith("THE SEARCH OPTIMISED THE WRONG THING")
    assert f"orders {turned.ranks.n} students" in text
    assert f"below {LEAST_TAU}" in text


def test_too_few_networks_say_nothing_of_an_order(results: Results) -> None:
    found = agreements(results, EPSILON, 20)[0]
    assert found.ranks.n >= FEWEST
    few = replace(found, ranks=replace(found.ranks, tau=-1.0, n=FEWEST - 1))
    assert not few.is_wrong
    assert replace(found, ranks=replace(found.ranks, tau=-1.0, n=FEWEST)).is_wrong
