"""The page's sections on robustness: the front on test, and whether its numbers can be believed."""

from collections.abc import Mapping, Sequence
from math import isfinite

from study.checks.rules import LEAST_IMAGES
from study.fronts_on_test import FrontOnTest
from study.proxy_against_truth import FEWEST, LEAST_TAU, Agreement
from study.report import paired_tables, tables, trust_tables
from study.report.chart import Chart
from study.report.flat import flat_text
from study.report.markup import Section, details, figure, missing, paragraphs, warning
from study.report.networks_shown import MOST_SHOWN, checked_networks, network_text
from study.report.on_test import OnTest
from study.report.optimism import mean_optimism, optimism
from study.report.stats import headline_epsilon
from study.report.trust_wording import NO_PROOF, UPPER_BOUND, counts_text, left_out_text
from study.report.wording import (
    alike_text,
    epsilon_text,
    headline_rule_text,
    neighbours_text,
    points_text,
    tau_text,
    twins_text,
)
from study.results import Results

_SPLIT_WORDS = {"val_search": "the search's proxy", "val_front": "adversarial accuracy on val_front"}
_OPTIMISM = (
    "Hollow: val_front, where the student was chosen; filled: test. A cross is a student that others dominate on test. "
    "The choice is lucky where the filled point lies lower; the means stand in the table of the next section."
)
_CURVES = (
    "Bands: Wilson 95 % intervals; they cover the choice of images, not of seeds. Lines join the epsilons that were "
    "attacked and say nothing about those between. "
)
_ALONE = (
    "Every attack by itself on the same diagnostic images, with no cascade and nothing carried over, so the bars can "
    "be compared: blue is what a bar adds to those on its left. Transfer is what stored images of other networks "
    "break. The worst case of the tables is measured on more images. "
)
_SOLVERS = (
    "Images made through one solver (row), judged under another (column), the same weights everywhere; the diagonal "
    "is the attack that goes through its own solver. A number below the diagonal's in the same column means that the "
    "own attack is not the strongest, so the robust accuracy is too high. "
)

_CUBE = (
    "The study's reference point, trained once under each solver and all else equal. A row that is darker than the "
    "diagonal's cell in its column is an attack that the deployed solver's own gradients do not find. "
)


def robustness_section(results: Results, drawn: Mapping[str, Chart], found: OnTest) -> str:
    """Give the body of the section on the front."""
    if "robustness" not in drawn:
        return missing("No model has been attacked on test yet; the robustness stage comes after search and front.")
    words = (
        "Both axes are measured on test, bars are Wilson 95 % intervals. Robust accuracy is the worst case over the "
        "attacks that were run, so each point is an upper bound. The paler a student, the fewer resamples put it on "
        f"the front. {headline_rule_text(results)} {UPPER_BOUND}"
    )
    parts = [_controls_failed(results), figure(drawn["robustness"], words)]
    for place, (epsilon, front) in enumerate(found.fronts.items()):
        said = [front_text(front), left_out_text(front.left_out)]
        said += [text(results, epsilon) for text in (neighbours_text, twins_text, alike_text)]
        body = warning(flat_text(results, epsilon)) + paragraphs([sentence for sentence in said if sentence])
        body += trust_tables.members_table(front) + paired_tables.neighbours_table(results, epsilon)
        parts.append(f'<div data-variant="robustness-{place}">{body}</div>')
    return "".join([*parts, *_further(results, drawn), _agreement(found.agreements, drawn)])


def front_text(front: FrontOnTest) -> str:
    """Say how large the front on test is, and what its interval covers."""
    at = f"At epsilon {epsilon_text(front.epsilon)}"
    if front.resampled is None or front.interval is None:
        return f"{at} no student's number may be believed, so there is no front on test and no hypervolume."
    low, high = front.interval
    corner = f"({front.reference[0]:.4g}, {front.reference[1]:.4g})"
    rises = front.resampled.mean - front.area
    luck = (
        f" The mean over resamples is {rises:.4f} higher: chance favours the best of many, and the interval is that of "
        "the resamples."
        if rises > 0
        else ""
    )
    return (
        f"{at} the hypervolume on test is {front.area:.4f} (95 % {low:.4f} to {high:.4f}; above the stored reference "
        f"{corner} of accuracy and robust accuracy; {front.resampled.draws} resamples of {front.n} images"
        f"{' and of seeds' if front.replicated else ''}).{luck} {_seeds_text(front)}"
    )


def _seeds_text(front: FrontOnTest) -> str:
    members, again = len(front.members), front.replicated
    alone = "the interval and the shares cover the choice of images alone, not of seeds"
    if not again:
        return f"No student was trained again under new seeds (robustness.replicates): {alone}."
    rule = "the seed that won the search is drawn and never averaged; neighbours are compared as they were chosen"
    if again == members:
        return f"New seeds speak for every student; {rule}."
    return f"New seeds speak for {again} of {members} students ({rule}); for the others {alone}."


def _further(results: Results, drawn: Mapping[str, Chart]) -> list[str]:
    captions = {"epsilons": _CURVES + UPPER_BOUND, "optimism": " ".join([_OPTIMISM, *_optimism_texts(results)])}
    return [figure(drawn[name], words) for name, words in captions.items() if name in drawn]


def _optimism_texts(results: Results) -> list[str]:
    return [
        f"Mean of val_front less test, {'robust' if mean.measure == 'robust' else 'clean'}: "
        f"{points_text(mean.difference[0])} points (95 % {points_text(mean.difference[1])} to "
        f"{points_text(mean.difference[2])}, {mean.students} students)."
        for mean in mean_optimism(optimism(results))
    ]


def _agreement(found: Sequence[Agreement], drawn: Mapping[str, Chart]) -> str:
    """Say whether validation ordered the students as test does (S19); nothing where no student was attacked."""
    words = paragraphs([agreement_text(each) for each in found])
    return words + (figure(drawn["proxy"], " ".join(_drawn_text(found))) if "proxy" in drawn else "")


def agreement_text(found: Agreement) -> str:
    """Say how well one split ordered the networks."""
    what, ranks = _SPLIT_WORDS[found.split], found.ranks
    if not isfinite(ranks.tau) or ranks.n < FEWEST:
        return f"Whether {what} orders networks as robust accuracy does cannot be told from {ranks.n} of them."
    low, high = map(tau_text, ranks.interval)
    less = f"; {found.left_out} with an upper bound left out" if found.left_out else ""
    return (
        f"Between {what} and robust accuracy on test Kendall's tau is {tau_text(ranks.tau)} (95 % {low} to {high}, "
        f"n = {ranks.n}, {sum(found.at_random)} of them drawn at random{less})."
    )


def wrong_target_texts(found: Sequence[Agreement]) -> list[str]:
    """Say for the first page that validation led elsewhere than test (S19); empty where it did not."""
    return [_wrong_target(each) for each in found if each.is_wrong]


def _wrong_target(found: Agreement) -> str:
    low, high = map(tau_text, found.ranks.interval)
    what = "THE SEARCH OPTIMISED" if found.split == "val_search" else "THE FRONT WAS CHOSEN BY"
    unsure = (
        f"; so few networks may hide an agreement above {LEAST_TAU}" if found.ranks.interval.high > LEAST_TAU else ""
    )
    return (
        f"{what} THE WRONG THING: {_SPLIT_WORDS[found.split]} orders {found.ranks.n} students so unlike their robust "
        f"accuracy on test that Kendall's tau is {tau_text(found.ranks.tau)} (95 % {low} to {high}), below "
        f"{LEAST_TAU}{unsure}."
    )


def _drawn_text(found: Sequence[Agreement]) -> list[str]:
    dismissed = sum(found[0].at_random) if found else 0
    return [
        "A point per student attacked on test; a rising cloud means that validation looked at the right thing.",
        *([] if dismissed else ["No dismissed student was attacked, so only chosen ones are compared."]),
    ]


def unreliable_text(results: Results) -> str | None:
    """Say for the top of the page that some numbers on it are upper bounds; None where none is."""
    models = [*results.survivors.values(), *results.beside.values()]
    every = [(m.model, epsilon) for m in models for epsilon in m.epsilons]
    bounds = [name for name, epsilon in every if results.attacked.is_upper_bound(name, epsilon)]
    if not bounds:
        return None
    return (
        f"UNRELIABLE: the checks do not believe {len(bounds)} of {len(every)} robust accuracies "
        f"({_listed(results, bounds)}). Each is an upper bound wherever it stands on this page, also in means and "
        "differences."
    )


def incomplete_text(results: Results) -> str | None:
    """Say for the top of the page whose attacks are not all there; None where nothing is missing."""
    lacking = results.attacked.incomplete
    if not lacking:
        return None
    parts = " and ".join(sorted({part for missed in lacking.values() for part in missed}))
    return (
        f"PARTIAL: {len(lacking)} networks lack a part that others have ({parts}): {_listed(results, list(lacking))}."
    )


def _listed(results: Results, names: Sequence[str]) -> str:
    named = [network_text(results, name) for name in dict.fromkeys(names)]
    return ", ".join(named[:MOST_SHOWN]) + (f" and {len(named) - MOST_SHOWN} more" if named[MOST_SHOWN:] else "")


def trust_section(results: Results, drawn: Mapping[str, Chart]) -> Section | None:
    """Give the section on the checks; None where nothing was attacked."""
    epsilon = headline_epsilon(results)
    if epsilon is None:
        return None
    first, rest = trust_tables.trust_tables(results)
    tried = trust_tables.controls_table(results.controls)
    parts = [
        paragraphs(_intro(results, epsilon)),
        first,
        _folded("The other numbers, all reliable", rest),
        _folded("Every check, with its number", trust_tables.checks_table(results, epsilon)),
        _folded("The checks on trial: controls", tried),
        *_alone(results, drawn, epsilon),
        figure(drawn["cube"], f"{_CUBE}At epsilon {epsilon_text(epsilon)}.") if "cube" in drawn else "",
    ]
    return Section("trust", "Can these numbers be believed?", "".join(parts))


def _folded(summary: str, body: str) -> str:
    return details(summary, body) if body else ""


def _intro(results: Results, epsilon: float) -> list[str]:
    students = [model for model in results.survivors.values() if model.kind == "student"]
    words = [results.attacked.trust_of(model.model, e).word for model in students for e in model.epsilons]
    counted = f"Of the students' {len(words)} robust accuracies: {counts_text(words)}."
    if not results.attacked.checked:
        return [f"{counted} No check was run, so nothing says whether a number is real or its gradients are masked."]
    networks = len(checked_networks(results, epsilon))
    rule = (
        "Unreliable: a check fails that masked networks fail, and the number is an upper bound. Suspect: a check "
        f"warns. Reliable: none does, and {NO_PROOF}. What each check means and what to do about it stands in "
        f"{trust_tables.WARNINGS}."
    )
    images = next(len(each.diagnosis.correct) for own in results.attacked.checked.values() for each in own.values())
    least = (
        f"A check that counts images can speak from {LEAST_IMAGES} of them on ({100 * LEAST_IMAGES / images:.1f} %)."
    )
    return [counted, f"{rule} {networks} networks were checked, on {images} images of test each. {least}"]


def _alone(results: Results, drawn: Mapping[str, Chart], epsilon: float) -> list[str]:
    cascade = _folded("Survivors of the cascade, attack by attack", tables.attacks_table(results))
    if "attacks-alone" not in drawn:
        why = (
            "No diagnostic subset was attacked, so attacks cannot be compared with each other: in the cascade each one "
            "sees only what those before it have left."
        )
        return [paragraphs([why]), cascade]
    networks = len(checked_networks(results, epsilon))
    chosen = f" The least believable {MOST_SHOWN} of {networks} networks." if networks > MOST_SHOWN else ""
    shown = [("attacks-alone", _ALONE), ("solver-transfer", _SOLVERS)]
    at = f"At epsilon {epsilon_text(epsilon)}.{chosen}"
    return [*(figure(drawn[name], words + at) for name, words in shown if name in drawn), cascade]


def _controls_failed(results: Results) -> str:
    faults = results.controls.faults
    if not faults:
        return ""
    said = f"THE CHECKS THEMSELVES FAILED: {'; '.join(faults)}. No verdict of this page is worth much until they pass."
    return warning(said)
