"""How the report says whether a number is to be believed."""

from collections import Counter
from collections.abc import Iterable, Sequence

from study.checks.verdicts import Trust, Word

WORDS: tuple[Word, ...] = ("unreliable", "suspect", "unchecked", "reliable")
"""Worst first, as tables list them."""
ARROW = "\u2193"
"""Drawn below a number that is an upper bound."""
NO_PROOF = "passing the checks is not a proof"
UPPER_BOUND = (
    f"Hollow with an arrow {ARROW}: the checks call the number unreliable, so it is an upper bound; it stands outside "
    f"the front and outside the hypervolume. To be reliable is to pass the checks, and {NO_PROOF}."
)


def verdict_lines(verdict: Trust) -> list[str]:
    """Write a verdict and its reasons, a line each, as hover text shows them."""
    said = [f"verdict of the checks: {verdict.word}"]
    return said + [f"   {reason}" for reason in verdict.reasons if verdict.word != "unchecked"]


def verdict_sentence(verdict: Trust) -> str:
    """Say behind a number what the checks say of it."""
    if verdict.word == "unchecked":
        return "Whether this number may be believed was not checked"
    said = {
        "reliable": f"The checks call this number reliable; {NO_PROOF}",
        "suspect": "The checks call this number suspect",
        "unreliable": "The checks call this number unreliable: it is an upper bound",
    }[verdict.word]
    return said if not verdict.reasons else f"{said} ({'; '.join(verdict.reasons)})"


def counts_text(words: Iterable[str]) -> str:
    """Count verdicts, worst first: `2 unreliable, 5 reliable`."""
    counted = Counter(words)
    return ", ".join(f"{counted[word]} {word}" for word in WORDS if counted[word]) or "none"


def left_out_text(trials: Sequence[int]) -> str:
    """Say which students stand outside the front; empty where none does."""
    if not trials:
        return ""
    named = ", ".join(map(str, trials[:12])) + ("" if len(trials) <= 12 else f" and {len(trials) - 12} more")
    what = "1 unreliable student is" if len(trials) == 1 else f"{len(trials)} unreliable students are"
    return f"{what} left out of the front and the hypervolume ({named}): an upper bound dominates nobody."
