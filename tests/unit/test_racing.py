"""Racing: its tests against a restatement, its guarantee by exact sums and by simulation, and that it saves work."""

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest, hypergeom

from study.fronts import non_dominated
from study.racing import LEVEL, LOOKS, beaten, joined, parts


def test_parts_end_at_the_looks_and_at_the_last_image() -> None:
    assert parts(5000) == (100, 250, 500, 1000, 5000)
    assert parts(1000) == (100, 250, 500, 1000)
    # Of 270 images a look at 250 could save 20 at most: not worth a part of its own.
    assert parts(270) == (100, 270)
    assert parts(100) == (100,)
    assert parts(16) == (16,)
    assert parts(1) == (1,)
    for n in range(1, 1500):
        assert list(parts(n)) == sorted(set(parts(n)))
        assert set(parts(n)) <= {*LOOKS, n}


def _restated(clean: list[float], robust: np.ndarray, racing: list[bool], looks: int, level: float) -> dict[int, int]:
    """Say who leaves, one hypothesis at a time, with the binomial test of a library."""
    m, gone = len(clean), {}
    rivals = {i: [j for j in range(m) if j != i and clean[j] >= clean[i]] for i in range(m)}
    while True:
        counted = sum(len(rivals[i]) for i in range(m) if racing[i] and i not in gone)
        found = []
        for i in range(m):
            for j in rivals[i]:
                if racing[i] and racing[j] and i not in gone:
                    only_j = int((~robust[i] & robust[j]).sum())
                    only_i = int((robust[i] & ~robust[j]).sum())
                    n = only_i + only_j
                    p = binomtest(only_j, n, alternative="greater").pvalue if n else 1.0
                    found.append((p, i, j))
        if not found or min(found)[0] > level / (looks * counted):
            return gone
        _, i, j = min(found)
        gone[i] = j


@pytest.mark.parametrize("seed", range(8))
def test_who_leaves_is_what_one_test_after_the_other_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = 7, 120
    clean = rng.integers(90, 95, m).astype(float).tolist()
    skill = rng.uniform(0.2, 0.8, m)
    robust = rng.random((m, n)) < skill[:, None]
    racing = (rng.random(m) < 0.8).tolist()
    got = beaten(clean, robust, racing, looks=3, level=0.05)
    expected = _restated(clean, robust, racing, 3, 0.05)
    assert {each.candidate: each.by for each in got} == expected
    for each in got:
        assert racing[each.candidate]
        assert racing[each.by]
        assert clean[each.by] >= clean[each.candidate]
        assert each.images == n
    assert [each.p_value for each in got] == sorted(each.p_value for each in got)


def test_nobody_leaves_for_one_that_is_less_accurate() -> None:
    robust = np.stack([np.zeros(200, bool), np.ones(200, bool)])
    assert beaten([95, 94], robust, [True, True], looks=1) == []
    (only,) = beaten([95, 95], robust, [True, True], looks=1)
    assert (only.candidate, only.by, only.images) == (0, 1, 200)
    assert only.p_value == pytest.approx(0.5**200)


def test_equal_candidates_never_leave() -> None:
    robust = np.tile(np.random.default_rng(0).random(500) < 0.5, (5, 1))
    assert beaten([90] * 5, robust, [True] * 5, looks=1) == []


def test_the_level_is_shared_by_looks_and_pairs() -> None:
    # Nine images that the other alone gets right: p = 2^-9 = .00195. Two candidates of equal accuracy are two pairs.
    robust = np.zeros((2, 50), bool)
    robust[1, :9] = True
    p = 0.5**9
    assert beaten([1, 1], robust, [True, True], looks=1, level=2 * p * 1.001)
    assert not beaten([1, 1], robust, [True, True], looks=1, level=2 * p * 0.999)
    assert not beaten([1, 1], robust, [True, True], looks=2, level=2 * p * 1.001)
    assert beaten([1, 2], robust, [True, True], looks=1, level=p * 1.001)


def test_pairs_leave_the_count_with_whom_they_would_remove_and_not_with_whom_they_favour() -> None:
    """Candidate 0 falls first; then its two pairs are off, and the pair (1, 2), too weak before, counts alone."""
    robust = np.zeros((3, 60), bool)
    robust[1, :20] = True
    robust[2, :29] = True  # nine more than candidate 1
    p = 0.5**9
    gone = beaten([1, 2, 3], robust, [True] * 3, looks=1, level=p * 1.001)
    assert [each.candidate for each in gone] == [0, 1]
    # Candidate 0 has left before; 1 could only be beaten by 2 in any case, so nothing changes for it.
    assert [e.candidate for e in beaten([1, 2, 3], robust, [False, True, True], looks=1, level=p * 1.001)] == [1]
    # Candidate 2 has left: nobody is there to beat 1, but the pair would still be counted for 0.
    nobody = beaten([1, 2, 3], robust[:, :9], [True, True, False], looks=1, level=p * 1.001)
    assert nobody == []
    assert beaten([1, 2, 3], robust[:, :9], [True, True, False], looks=1, level=3 * p * 1.001)


def test_a_candidate_that_was_never_measured_counts_for_nothing() -> None:
    robust = np.zeros((3, 50), bool)
    robust[1, :9] = True
    gone = beaten([1, 2, float("nan")], robust, [True, True, False], looks=1, level=0.5**9 * 1.001)
    assert [each.candidate for each in gone] == [0]


def test_the_binomial_p_value_is_safe_when_images_are_drawn_without_return() -> None:
    """Exact: of D disagreements over all images at most half favour j; a sample of m of them rejects too rarely."""
    for total in range(1, 41):
        for met in range(1, total + 1):
            tail = [sum(comb(met, k) for k in range(x, met + 1)) / 2**met for x in range(met + 1)]
            for favourable in (total // 2, total // 3):
                for x in range(met + 1):
                    if tail[x] <= 0.05:
                        assert hypergeom.sf(x - 1, total, favourable, met) <= tail[x] * (1 + 1e-9)


def _raced(clean: np.ndarray, robust: np.ndarray, level: float = LEVEL) -> tuple[set[int], int]:
    """Race over images in the given order: who left, and how many attacks that took."""
    m, n = robust.shape
    racing, spent, gone, ends = np.ones(m, bool), 0, set[int](), parts(n)
    for start, end in zip((0, *ends[:-1]), ends, strict=True):
        spent += int(racing.sum()) * (end - start)
        if end < n:
            left = [each.candidate for each in beaten(clean, robust[:, :end], racing, len(ends) - 1, level)]
            racing[left] = False
            gone |= set(left)
    return gone, spent


def _near_a_front(rng: np.random.Generator, m: int, n: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw candidates that trade accuracy for robustness, scattered about a front, their bits correlated by image."""
    place = rng.random(m)
    difficulty = rng.normal(0, 1, n)
    behind = np.abs(rng.normal(0, spread, m))
    clean = difficulty + rng.normal(0, 0.5, (m, n)) < 1.6 + 0.5 * place[:, None] - behind[:, None]
    robust = clean & (difficulty + rng.normal(0, 0.5, (m, n)) < 0.3 - 0.6 * place[:, None] - behind[:, None])
    return clean.sum(1).astype(float), robust


def _lost(rng: np.random.Generator, repeats: int, m: int, n: int, spread: float, level: float) -> tuple[int, float]:
    lost, spent = 0, 0
    for _ in range(repeats):
        clean, robust = _near_a_front(rng, m, n, spread)
        order = rng.permutation(n)
        gone, cost = _raced(clean, robust[:, order], level)
        front = np.flatnonzero(non_dominated(np.column_stack([clean, robust.sum(1)])))
        lost += bool(gone & set(front.tolist()))
        spent += cost
    return lost, spent / (repeats * m * n)


def _at_most(lost: int, repeats: int, level: float) -> bool:
    """Tell whether so many losses are compatible with the level: one-sided, at 1 in 1000."""
    return binomtest(lost, repeats, level, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("level", [0.01, 0.2])
def test_members_of_the_front_are_lost_no_more_often_than_stated(level: float) -> None:
    repeats = 60
    lost, cost = _lost(np.random.default_rng(0), repeats, 30, 1000, 0.05, level)
    assert _at_most(lost, repeats, level)
    assert cost < 1


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3])
def test_members_of_the_front_are_not_lost_in_many_races(spread: float) -> None:
    """Near and far candidates; the upper end of a 95 % interval of the share of lost fronts stays at the level."""
    repeats = 600
    lost, cost = _lost(np.random.default_rng(1), repeats, 30, 1000, spread, LEVEL)
    assert binomtest(lost, repeats).proportion_ci(0.9, method="exact").high <= LEVEL
    assert cost < (0.7 if spread == 0.3 else 1)


@pytest.mark.slow
def test_under_the_global_null_hardly_anybody_leaves() -> None:
    """All equally accurate and equally robust in truth: who leads does so by chance."""
    rng, repeats, lost, left = np.random.default_rng(2), 400, 0, 0
    for _ in range(repeats):
        difficulty = rng.normal(0, 1, 1000)
        robust = difficulty + rng.normal(0, 0.5, (30, 1000)) < 0
        gone, _ = _raced(np.full(30, 900.0), robust)
        best = robust.sum(1).max()
        lost += any(robust[i].sum() == best for i in gone)
        left += len(gone)
    assert _at_most(lost, repeats, LEVEL)
    # The order of images is random here, too, so leaving at all is an error of the test in its usual sense.
    assert left <= 0.05 * repeats


def test_the_worst_case_for_the_order_holds_the_level() -> None:
    """One rival exactly as robust as a member of the front over all images: only the order can make it look better."""
    rng, repeats, lost, level = np.random.default_rng(3), 400, 0, 0.2
    robust = np.zeros((2, 1000), bool)
    robust[0, :150] = robust[1, 150:300] = True
    for _ in range(repeats):
        gone, _ = _raced(np.array([900.0, 901.0]), robust[:, rng.permutation(1000)], level)
        lost += 0 in gone
    assert _at_most(lost, repeats, level)
    assert lost > 0  # the level is not kept by never deciding


def test_clear_races_are_short() -> None:
    """One network beats 29 by far: after the first look it runs alone."""
    rng = np.random.default_rng(4)
    robust = rng.random((30, 1000)) < np.where(np.arange(30) == 0, 0.9, 0.3)[:, None]
    gone, spent = _raced(np.where(np.arange(30) == 0, 950.0, 940.0), robust)
    assert gone == set(range(1, 30))
    assert spent == 30 * 100 + 900


def _part(shard: int, n: int, survivors: int, shards: int = 2, nfe: float | None = 16.0) -> dict:
    entry = {"epsilon": 0.1, "norm": "linf", "survivors": survivors, "n": n, "invalid": {}}
    clean = {"clean": {"correct": 240, "n": 270}} if shard == 0 else {}
    return {"shard": shard, "shards": shards, "n": n, "nfe": nfe, "robust": [entry], "accuracy": 0.1, **clean}


def test_joined_parts_are_the_measurement_of_all_images() -> None:
    both = [_part(1, 170, 70, nfe=20.0), _part(0, 100, 50, nfe=14.0)]
    found = joined(both)
    assert found == {
        "accuracy": 240 / 270,
        "n": 270,
        "nfe": pytest.approx((100 * 14 + 170 * 20) / 270),
        "robust": [
            {"epsilon": 0.1, "norm": "linf", "survivors": 120, "n": 270, "robust_accuracy": pytest.approx(120 / 270)}
        ],
    }
    assert joined([_part(0, 100, 50, nfe=None), _part(1, 170, 70)])["nfe"] is None
    assert joined([]) is None
    assert joined(both[:1]) is None
    assert joined(both[1:]) is None


@pytest.mark.parametrize("name", ["shard", "shards", "n", "nfe", "robust", "clean"])
def test_a_part_without_what_a_part_has_is_missing(name: str) -> None:
    first = _part(0, 100, 50)
    del first[name]
    assert joined([first, _part(1, 170, 70)]) is None


def test_parts_that_cannot_belong_together_end_in_no_crash() -> None:
    assert joined([_part(0, 100, 50, shards=2**50), _part(1, 170, 70)]) is None
    assert joined([{**_part(0, 100, 50), "shards": None}, _part(1, 170, 70)]) is None
    levels = joined([{**_part(0, 100, 50), "robust": []}, _part(1, 170, 70)])
    assert levels is not None
    assert levels["robust"] == []
