"""Tables of whether the numbers may be believed: verdicts with reasons, every check, and the checks on trial."""

from collections import Counter
from collections.abc import Sequence
from math import isnan

from study.checks.rules import RULES
from study.checks.verdicts import Judged, Word
from study.controls import Controls
from study.fronts_on_test import FrontOnTest, Member
from study.report.canvas import interval_words
from study.report.networks_shown import MOST_SHOWN, checked_networks, network_text
from study.report.stats import Rate
from study.report.tables import Cell, Row, rate_cell, table
from study.report.trust_wording import WORDS, counts_text
from study.report.wording import PERCENT, epsilon_text
from study.results import Results
from study.survivors import Survivors

MOST_ROWS = 60
"""Numbers listed with their verdicts; the least believable come first."""
WARNINGS = "docs/warnings.md"
_FIRST = ("student", "teacher")
_OTHERS = "Reliable numbers of twins, new seeds, students drawn at random and the search without distillation"
_MARKS = {"pass": "\u2713", "warn": "!", "fail": "\u2717", "absent": "\u2013"}


def trust_tables(results: Results) -> tuple[str, str]:
    """One row per network and epsilon: the number, the verdict, and why; the least believable first.

    Returns:
        The table that everybody should see: students, teachers, and whatever is not reliable. And that of the rest.
    """
    every = _numbers(results)
    first = [pair for pair in every if pair[0].kind in _FIRST or _word(results, *pair) != "reliable"]
    rest = [pair for pair in every if pair not in first]
    return (
        _trust_table(results, "trust", "Can these numbers be believed?", first),
        _trust_table(results, "trust-others", _OTHERS, rest),
    )


def _trust_table(results: Results, identifier: str, caption: str, numbers: Sequence[tuple[Survivors, float]]) -> str:
    rows = [_trust_row(results, model, epsilon) for model, epsilon in numbers[:MOST_ROWS]]
    header = ["network", "epsilon", "robust accuracy (test)", "verdict", "reasons"]
    if len(numbers) > MOST_ROWS:
        words = counts_text(_word(results, *pair) for pair in numbers[MOST_ROWS:])
        caption += f" Not listed: {words}; python -m study.show DIR --json lists students, twins and teachers"
    return table(identifier, caption, header, rows) if rows else ""


def _numbers(results: Results) -> list[tuple[Survivors, float]]:
    models = [*results.survivors.values(), *results.beside.values()]
    every = [(model, epsilon) for model in models for epsilon in model.epsilons]
    return sorted(every, key=lambda pair: (WORDS.index(_word(results, *pair)), pair[0].kind not in _FIRST))


def _word(results: Results, model: Survivors, epsilon: float) -> Word:
    return results.attacked.trust_of(model.model, epsilon).word


def _trust_row(results: Results, model: Survivors, epsilon: float) -> Row:
    verdict = results.attacked.trust_of(model.model, epsilon)
    text, value = rate_cell(Rate(int(model.robust(epsilon).sum()), model.n))
    shown = f"at most {text}" if verdict.word == "unreliable" else text
    cells: list[Cell] = [(network_text(results, model.model), None), (epsilon_text(epsilon), epsilon), (shown, value)]
    reasons = "; ".join(verdict.reasons) or "every check that applies passed"
    return model.trial, [*cells, (verdict.word, float(WORDS.index(verdict.word))), (reasons, None)]


def checks_table(results: Results, epsilon: float) -> str:
    """One row per check, one column per network; of many networks the least believable, and counts over all."""
    checked = checked_networks(results, epsilon)
    shown = list(checked)[:MOST_SHOWN]
    judged = {name: {each.measured.id: each for each in checks.judged} for name, checks in checked.items()}
    present = [identifier for identifier in RULES if any(identifier in own for own in judged.values())]
    rows: list[Row] = [(None, _check_row(identifier, judged, shown)) for identifier in present]
    scored: list[Cell] = [("scoring (S23)", None), ("", None), *((checked[name].protocol, None) for name in shown)]
    rows.append((None, scored))
    header = ["check", f"all {len(checked)} networks", *(network_text(results, name) for name in shown)]
    caption = f"Every check at epsilon {epsilon_text(epsilon)}; what each means and what to do: {WARNINGS}"
    return table("checks", caption, header, rows) if present else ""


def _check_row(identifier: str, judged: dict[str, dict[str, Judged]], shown: Sequence[str]) -> list[Cell]:
    counted = Counter(own[identifier].verdict for own in judged.values() if identifier in own)
    spoke = ", ".join(f"{counted[word]} {word}" for word in ("fail", "warn") if counted[word])
    applies = sum(counted.values()) - counted["absent"]
    name = f"{identifier} {RULES[identifier].name}\n{WARNINGS}#{identifier.lower()}"
    total: Cell = (f"{spoke or 'none'}\nof {applies}", counted["fail"] + counted["warn"] / 1000)
    return [(name, None), total, *(_check_cell(judged[network].get(identifier)) for network in shown)]


def _check_cell(judged: Judged | None) -> Cell:
    if judged is None or judged.verdict == "absent" or isnan(judged.measured.value):
        return _MARKS["absent"], None
    measured = judged.measured
    is_share = RULES[measured.id].counted and measured.count is not None and measured.n
    seen = f"{measured.count} of {measured.n}" if is_share else f"{measured.value:.3g}"
    word = "" if judged.verdict == "pass" else f" {judged.verdict}"
    return f"{_MARKS[judged.verdict]}{word}\n{seen}", measured.value


def controls_table(controls: Controls) -> str:
    """One row per control: what it is, which checks must speak up about it, which did, and whether that is right."""
    rows: list[Row] = []
    for control in controls.found:
        kind = "broken on purpose" if control.is_broken else "healthy"
        expected = ", ".join(control.expected) or "none may"
        raised = ", ".join(control.raised) or "none"
        passed = f"{_MARKS['pass']} passed" if control.passed else f"{_MARKS['fail']} failed"
        rows.append((None, [(text, None) for text in (control.name, kind, expected, raised, passed)]))
    for name in controls.missing:
        rows.append((None, [(text, None) for text in (name, "", "", "", "missing")]))
    header = ["control", "it is", "must speak up", "spoke up", "outcome"]
    return table("controls", "The checks on trial", header, rows) if rows else ""


def members_table(front: FrontOnTest) -> str:
    """One row per configuration that may be believed: where it stands, how surely it is on the front."""
    ranked = sorted(front.members, key=lambda member: -member.membership)[:MOST_ROWS]
    rows: list[Row] = [(member.configuration.trial, _member_row(member, front)) for member in ranked]
    header = ["student", "seed of the search", "new seeds", "accuracy", "robust accuracy", "on the front"]
    more = len(front.members) - len(rows)
    caption = f"The front at epsilon {epsilon_text(front.epsilon)}: means, and the share of resamples with each on it"
    caption += f" ({more} less likely members are not listed)" if more else ""
    return table(f"members-{epsilon_text(front.epsilon)}", caption, header, rows) if rows else ""


def _member_row(member: Member, front: FrontOnTest) -> list[Cell]:
    configuration = member.configuration
    winner = configuration.winner
    clean, robust = float(winner.clean_correct.mean()), float(winner.robust(front.epsilon).mean())
    seeds = len(configuration.replicates)
    drawn = f"{100 * clean:.1f}{PERCENT}, {100 * robust:.1f}{PERCENT}\nn = {winner.n}, " + (
        "not averaged" if seeds else "the only one"
    )
    cells: list[Cell] = [(f"student {configuration.trial}", configuration.trial), (drawn, robust), (f"{seeds}", seeds)]
    for mean in (member.clean, member.robust):
        ends = interval_words(mean, percent=True) if seeds else "one network, no interval over seeds"
        cells.append((f"{100 * mean.value:.1f}{PERCENT}\nn = {front.n}, {ends}", mean.value))
    where = "on the front of means" if member.on_front else "dominated"
    return [*cells, (f"{100 * member.membership:.0f}{PERCENT}\n{where}", member.membership)]
