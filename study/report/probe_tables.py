"""Tables of what was probed, and the sentences that say what they mean."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan
from typing import Any

import numpy as np

from study.comparisons import over_seeds
from study.designs import Design, records
from study.effects import Mean, detectable
from study.report.design_tables import MOST_CELLS, cells_table
from study.report.markup import details, paragraphs
from study.report.measures import RATES, detectable_text, mean_text, unit_text
from study.report.probe_figures import kind_text, student_probes
from study.report.stats import Rate
from study.report.tables import Cell, Row, table
from study.report.wording import PERCENT, epsilon_text, interval_text
from study.results import Results

FLOW_MARGIN = 0.02
"""A student that loses more accuracy than this when it is solved more exactly is called no flow; our threshold."""
_MEAN_RATIO = "mean over noises (mCE-like)"
_NOISE_WORDS = (
    "Noise that nobody chose to harm, so no bound on what an attack finds. An image gets the same noise in every "
    "network. Corruption-like noise is our own, made after the published corruptions, and its numbers may not be "
    "compared with theirs. Accuracy is the mean over draws; the worst of the draws counts an image only if it is "
    "right under all of them, and falls with their number. Blur, contrast and published files are drawn once."
)
_STRETCH: Mapping[str, str] = {
    "sigma": "|dh(T)| / |dh(0)|, median",
    "sigma_high": "90 % quantile",
    "relative": "relative to |h(T)| / |h(0)|, median",
    "relative_high": "its 90 % quantile",
    "exponent": "log(median) / T (FTLE)",
}
_STRETCH_WORDS = (
    "The largest singular value of the flow's Jacobian at each image, by the power method: how far the worst small "
    "perturbation dh of the first state grows until T. A norm layer in front of the head takes the scale of the state "
    "out again, so damping shows in the first column and may change nothing: the relative columns divide by the growth "
    "of the state itself. FTLE is the finite-time Lyapunov exponent. None of this is a certificate."
)
_LIKENESS = ("teacher_agreement", "teacher_kl", "agreement_attacked", "kl_attacked", "transfer")


def likeness_table(of: Design) -> str:
    """One row per cell: how much students resemble their teacher, clean and attacked."""
    return cells_table(of, "likeness", "Students and their teacher on the same images", _LIKENESS)


def likeness_words(of: Design) -> str:
    """Say how to read the table."""
    if not set(_LIKENESS) & set(of.measures):
        return ""
    words = (
        "Agreement is the share of images that student and teacher put in the same class; KL is from the teacher to "
        "the student. The last column is the share of the teacher's adversarial images, those that fool the teacher, "
        "that fool the student too: a student that only copied its teacher shares its errors."
    )
    return paragraphs([words])


def calibration_tables(results: Results, of: Design) -> str:
    """Calibration by cell, and of every probed model."""
    cells_shown = cells_table(of, "calibration", "Calibration: means over replicates", ("ece", "nll"))
    rows: list[Row] = []
    for model, probe in sorted(results.probes.items()):
        found = probe.get("calibration")
        if found:
            trial = probe.get("trial")
            cells: list[Cell] = [(model, None), (f"{probe.get('split')}, n = {probe.get('n')}", None)]
            cells += [_stored(found.get(name), name) for name in ("accuracy", "ece", "nll")]
            rows.append((trial if isinstance(trial, int) else None, cells))
    header = ["model", "images", "accuracy", "ECE", "negative log-likelihood (nats)"]
    every = table("calibration-models", "Calibration of every probed model", header, rows) if rows else ""
    return cells_shown + (details("Every probed model", every) if every else "")


def solvers_table(results: Results, of: Design) -> str:
    """Trained solver by solver at test time: accuracy over students, and how many images change class."""
    found = _solved(results, of)
    tests = list(dict.fromkeys(test for _, row in sorted(found.items()) for test in row))
    rows: list[Row] = []
    for trained, by_test in sorted(found.items()):
        own = _own_accuracy(by_test)
        cells: list[Cell] = [(trained, None), _mean_cell(own, "accuracy", of)]
        rows.append((None, cells + [_solver_cell(by_test.get(test, []), of) for test in tests]))
    header = ["trained with", "as trained", *[f"solved by {test}" for test in tests]]
    caption = "Accuracy when solved by another solver; small print: interval, then images that change class"
    return table("solvers", caption, header, rows) if rows else ""


def flow_words(results: Results, of: Design) -> str:
    """Say whether students are still flows: whether accuracy holds when they are solved more exactly (Ott et al.)."""
    found, said = _solved(results, of), []
    for trained, by_test in sorted(found.items()):
        finer = {test: kept for test, own in by_test.items() if (kept := [e for e in own if e["finer"]])}
        if not finer:
            continue
        finest = max(finer, key=lambda test: _exactness(finer[test][0]["entry"]))
        drop = over_seeds([{**e, "drop": e["own"] - e["accuracy"]} for e in finer[finest]], "drop", "seed")
        if drop.n:
            said.append(_flow_sentence(trained, finest, drop))
    if not said:
        return ""
    rule = (
        "A network that is the flow of an ODE gives the same answer when it is solved more exactly; one that was "
        "trained too coarsely has its solver built in, and its accuracy drops (Ott et al., 2021). Called no flow here: "
        f"a mean drop of more than {100 * FLOW_MARGIN:.0f} points."
    )
    return paragraphs([rule, *said])


def noise_table(results: Results, of: Design) -> str:
    """Accuracy under noise: one row per kind of student, one column per noise; what it means; and every network."""
    mean = _by_kind(
        results, of, "noise", lambda e: (noise_text(e), "accuracy"), "Accuracy under noise, over all severities"
    )
    if not mean:
        return ""
    worst = _by_kind(results, of, "noise", _worst_column, "Worst of the draws, image by image, over all severities")
    every = details("Every network under every noise", noise_models_table(results))
    return mean + paragraphs([_NOISE_WORDS]) + worst + relative_noise_table(results, of) + every


def noise_text(entry: Mapping[str, Any]) -> str:
    """Name a noise: our own is like the published corruptions, and not those."""
    return f"{entry.get('noise')}{'' if entry.get('source') == 'file' else ', corruption-like'}"


def relative_noise_table(results: Results, of: Design) -> str:
    """One row per kind of student: error under noise over the teacher's, noise by noise and their mean."""
    reference = teacher_noise(results)
    kinds: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row, probe in student_probes(results, of):
        ratios = relative_errors(probe.get("noise") or [], reference)
        mean = {_MEAN_RATIO: float(np.mean(list(ratios.values())))} if ratios else {}
        for name, value in (ratios | mean).items():
            kinds[kind_text(row)][name].append({"value": value, "seed": row["seed"]})
    columns = list(dict.fromkeys(name for found in kinds.values() for name in found if name != _MEAN_RATIO))
    columns = [_MEAN_RATIO, *columns]
    rows: list[Row] = [
        (None, [(kind, None), *[_ratio_cell(found.get(name, []), of) for name in columns]])
        for kind, found in list(kinds.items())[:MOST_CELLS]
    ]
    caption = "Error under noise relative to the teacher's, over all severities: below 1 the student errs less"
    return table("noise-relative", caption, ["student", *columns], rows) if rows else ""


def relative_errors(
    entries: Sequence[Mapping[str, Any]], reference: Mapping[tuple[Any, ...], float]
) -> dict[str, float]:
    """Give the sum of errors over severities divided by the reference's, by noise; none where the reference has none.

    This is the corruption error of ImageNet-C with the teacher in the place of AlexNet.

    Args:
        entries: A probe's noise.
        reference: Accuracy by noise, severity and source.
    """
    errors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in entries:
        at = _noise_key(entry)
        if at in reference and entry.get("accuracy") is not None:
            errors[noise_text(entry)].append((1 - float(entry["accuracy"]), 1 - reference[at]))
    sums = {name: tuple(map(sum, zip(*pairs, strict=True))) for name, pairs in errors.items()}
    return {name: own / theirs for name, (own, theirs) in sums.items() if theirs > 0}


def teacher_noise(results: Results) -> dict[tuple[Any, ...], float]:
    """Give the teachers' mean accuracy by noise, severity and source."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for probe in results.probes.values():
        for entry in (probe.get("noise") or []) if probe.get("kind") == "teacher" else []:
            if entry.get("accuracy") is not None:
                found[_noise_key(entry)].append(float(entry["accuracy"]))
    return {at: float(np.mean(values)) for at, values in found.items()}


def noise_models_table(results: Results) -> str:
    """One row per network and noise, one column per severity: mean over draws, worst of them, interval, n."""
    probed = [(m, p, e) for m, p in sorted(results.probes.items()) for e in p.get("noise") or []]
    severities = sorted({int(entry["severity"]) for _, _, entry in probed})
    found: dict[tuple[str, str], dict[int, Cell]] = defaultdict(dict)
    for model, _, entry in probed:
        found[model, noise_text(entry)][int(entry["severity"])] = _counted_cell(entry)
    trials = {model: probe.get("trial") for model, probe, _ in probed}
    rows: list[Row] = [
        (trials[model], [(model, None), (noise, None), *[cells.get(at, ("", None)) for at in severities]])
        for (model, noise), cells in found.items()
    ]
    header = ["network", "noise", *[f"severity {at}" for at in severities]]
    caption = "Accuracy under noise; small print: 95 % interval over images, then the worst of the draws"
    return table("noise-models", caption, header, rows) if rows else ""


def stretch_table(results: Results, of: Design) -> str:
    """One row per kind of ODE student: how far its flow can stretch a small perturbation."""
    kinds: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row, probe in student_probes(results, of):
        for name in _STRETCH:
            value = (probe.get("stretch") or {}).get(name)
            if value is not None:
                kinds[kind_text(row)][name].append({"value": float(value), "seed": row["seed"]})
    rows: list[Row] = [
        (None, [(kind, None), *[_ratio_cell(found.get(name, []), of) for name in _STRETCH]])
        for kind, found in list(kinds.items())[:MOST_CELLS]
    ]
    caption = "Stretch of the flow along its worst direction at each image"
    shown = table("stretch", caption, ["student", *_STRETCH.values()], rows) if rows else ""
    return shown + paragraphs([_STRETCH_WORDS]) if shown else ""


def published_table(results: Results, of: Design) -> str:
    """One row per kind of student, one column per published attack and epsilon; each attack alone, no worst case."""

    def column(entry: dict[str, Any]) -> tuple[str, str]:
        return f"{entry.get('attack')}, epsilon {epsilon_text(float(entry.get('epsilon') or nan))}", "accuracy"

    return _by_kind(results, of, "published_attacks", column, "Accuracy under the published attacks, each alone")


def legacy_words(results: Results) -> str:
    """Say where the published PGD left the ball it was given."""
    entries = [e for p in results.probes.values() for e in p.get("published_attacks") or [] if e.get("epsilon")]
    legacy = [e for e in entries if e.get("attack") == "pgd-legacy" and e.get("largest_perturbation") is not None]
    if not legacy:
        return ""
    worst = max(legacy, key=lambda e: float(e["largest_perturbation"]) / float(e["epsilon"]))
    ratio = float(worst["largest_perturbation"]) / float(worst["epsilon"])
    beyond = sum(float(e["largest_perturbation"]) > 1.0001 * float(e["epsilon"]) for e in legacy)
    words = (
        "pgd-legacy is the published PGD, which projects around its random start and not around the clean image, so it "
        f"may move by up to 2 epsilon. It left the epsilon ball in {beyond} of {len(legacy)} measurements and reached "
        f"{ratio:.2f} epsilon (at epsilon {epsilon_text(float(worst['epsilon']))}): its numbers may not be compared "
        "with those of attacks that keep to epsilon. Each attack stands alone here; the worst case is in Robustness."
    )
    return paragraphs([words])


def ensemble_words(of: Design) -> str:
    """Say what the teachers' ensemble reaches, where it was measured."""
    rows = [row for row in records(of.table) if isfinite(row["ensemble_accuracy"])]
    by_size: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_size[str(row["ensemble"] or 1)].append(row["ensemble_accuracy"])
    if not by_size:
        return ""
    listed = ", ".join(
        f"{100 * (1 - float(np.mean(values))):.1f}{PERCENT} with {unit_text(int(float(size)), 'teacher')}"
        for size, values in sorted(by_size.items(), key=lambda item: float(item[0]))
    )
    return paragraphs([f"Error of the teachers' ensemble, over the trials that used it (val_search): {listed}."])


def _by_kind(results: Results, of: Design, part: str, column: Any, caption: str) -> str:
    kinds: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row, probe in student_probes(results, of):
        for entry in probe.get(part) or []:
            name, measure = column(entry)
            if entry.get(measure) is not None:
                kinds[kind_text(row)][name].append({"value": float(entry[measure]), "seed": row["seed"]})
    columns = list(dict.fromkeys(name for found in kinds.values() for name in found))
    rows: list[Row] = [
        (None, [(kind, None), *[_value_cell(found.get(name, []), of) for name in columns]])
        for kind, found in list(kinds.items())[:MOST_CELLS]
    ]
    return table(part.replace("_", "-"), caption, ["student", *columns], rows) if rows else ""


def _worst_column(entry: dict[str, Any]) -> tuple[str, str]:
    draws = int(entry.get("draws") or 1)
    return f"{noise_text(entry)}, {unit_text(draws, 'draw')}", "worst_accuracy"


def _noise_key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return entry.get("noise"), entry.get("severity"), entry.get("source")


def _counted_cell(entry: Mapping[str, Any]) -> Cell:
    """Write an accuracy with the interval of a single draw: images are what was sampled, draws are not."""
    if entry.get("accuracy") is None:
        return "not measured", None
    accuracy, n, draws = float(entry["accuracy"]), int(entry.get("n") or 0), int(entry.get("draws") or 1)
    ends = interval_text(Rate(round(accuracy * n), n)) + f", n = {n}" if n else "n unknown"
    worst = entry.get("worst_accuracy")
    more = f", worst of {draws}: {100 * float(worst):.1f}{PERCENT}" if draws > 1 and worst is not None else ""
    return f"{100 * accuracy:.1f}{PERCENT}\n{ends}{more}", accuracy


def _ratio_cell(entries: Iterable[dict[str, Any]], of: Design) -> Cell:
    mean = over_seeds(entries, "value", "seed")
    return mean_text(mean, "ratio", of.unit), mean.value if mean.n else None


def _value_cell(entries: Iterable[dict[str, Any]], of: Design) -> Cell:
    mean = over_seeds(entries, "value", "seed")
    return _mean_cell(mean, "accuracy", of)


def _mean_cell(mean: Mean, measure: str, of: Design) -> Cell:
    return mean_text(mean, measure, of.unit), mean.value if mean.n else None


def _stored(value: Any, measure: str) -> Cell:
    if value is None:
        return "not measured", None
    return (f"{100 * float(value):.1f}{PERCENT}" if measure in RATES else f"{float(value):.4g}"), float(value)


def _solved(results: Results, of: Design) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Group by trained solver and solver at test time: accuracy, own accuracy on the same images, disagreement."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row, probe in student_probes(results, of):
        own = probe.get("accuracy", (probe.get("calibration") or {}).get("accuracy"))
        for entry in probe.get("test_solvers") or []:
            if entry.get("accuracy") is not None:
                kept = {"accuracy": float(entry["accuracy"]), "disagreement": _float(entry.get("disagreement"))}
                kept |= {"own": _float(own), "seed": row["seed"], "entry": entry, "finer": _is_finer(row, entry)}
                found[_trained_text(row)][_solver_text(entry)].append(kept)
    return {trained: dict(by_test) for trained, by_test in found.items()}


def _own_accuracy(by_test: dict[str, list[dict[str, Any]]]) -> Mean:
    first = next(iter(by_test.values()), [])
    return over_seeds(first, "own", "seed")


def _solver_cell(entries: list[dict[str, Any]], of: Design) -> Cell:
    mean = over_seeds(entries, "accuracy", "seed")
    changed = over_seeds(entries, "disagreement", "seed")
    text = mean_text(mean, "accuracy", of.unit)
    more = f", {100 * changed.value:.1f}{PERCENT} change class" if changed.n else ""
    return text + more, mean.value if mean.n else None


def _trained_text(row: dict[str, Any]) -> str:
    held = [
        f"{row[name]:g} {name.replace('_', ' ')}" for name in ("steps", "step_size", "evaluations") if _is(row[name])
    ]
    held += [f"rtol {row['rtol']:g}"] if not held and _is(row["rtol"]) else []
    horizon = f"horizon {row['horizon']:g}" if _is(row["horizon"]) else ""
    return ", ".join([str(row["solver"]), *held, *([horizon] if horizon else [])])


def _is(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)


def _solver_text(entry: dict[str, Any]) -> str:
    given = f"{entry['evaluations']}" if entry.get("evaluations") is not None else f"rtol {entry.get('rtol')}"
    return (
        f"{entry.get('solver')}, {given}"
        if entry.get("evaluations") is None
        else f"{entry.get('solver')}, {given} evaluations"
    )


def _is_finer(row: dict[str, Any], entry: dict[str, Any]) -> bool:
    """Tell whether a solver at test time is more exact than the one trained with."""
    if entry.get("rtol") is not None:
        return not _is(row["rtol"]) or float(entry["rtol"]) < row["rtol"]
    return not _is(row["rtol"]) and _float(entry.get("nfe") or entry.get("evaluations")) > row["nfe"]


def _exactness(entry: dict[str, Any]) -> tuple[int, float]:
    """Rank solvers at test time: adaptive ones by tolerance, then fixed ones by evaluations."""
    if entry.get("rtol") is not None:
        return 1, -float(entry["rtol"])
    return 0, float(entry.get("evaluations") or 0)


def _flow_sentence(trained: str, finest: str, drop: Mean) -> str:
    ends = ", no interval"
    if drop.known:
        least = detectable_text(detectable(drop), "accuracy")
        ends = f", 95 % {100 * drop.low:.1f} to {100 * drop.high:.1f}, smallest detectable drop {least}"
    verdict = (
        "are no flows but networks of their solver" if drop.value > FLOW_MARGIN else "are still flows by this measure"
    )
    size = f"{100 * drop.value:.1f} points ({unit_text(drop.n, 'seed')}{ends})"
    return f"Students trained with {trained} lose {size} when solved by {finest}: they {verdict}."


def _float(value: Any) -> float:
    return nan if value is None else float(value)
