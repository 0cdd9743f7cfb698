"""Which attacked networks are shown one by one, where there may be hundreds, and what they are called."""

from study.checks.reading import Checked
from study.report.trust_wording import WORDS
from study.report.wording import model_text
from study.results import Results
from study.survivors import Survivors
from study.undistilled import KIND

MOST_SHOWN = 12
"""Networks that a reader can choose from, or compare column by column."""
_KINDS = ("student", "teacher", "twin", "replicate", "random", KIND)


def network_text(results: Results, name: str) -> str:
    """Name a network of any kind, so that no two of a study read alike."""
    model = attacked_network(results, name)
    if model is None:
        return name
    seed = name.rpartition("-")[2]
    several = sum(other.kind == "teacher" for other in results.survivors.values()) > 1
    return {
        "student": f"student {model.trial}",
        "random": f"student {model.trial} (drawn at random)",
        "twin": f"twin of student {model.trial}",
        "replicate": f"student {model.trial}, new seed {seed}",
        KIND: model_text(model),
        "teacher": f"teacher {seed[:8]}" if several else "teacher",
    }.get(model.kind, name)


def attacked_network(results: Results, name: str) -> Survivors | None:
    """Give the bits of a network of any kind; None where it was checked and not attacked."""
    return results.survivors.get(name) or results.beside.get(name)


def checked_networks(results: Results, epsilon: float) -> dict[str, Checked]:
    """Give the networks with checks at an epsilon: the least believable first, students before others."""
    at = {name: results.attacked.checks_of(name, epsilon) for name in results.attacked.checked}
    found = {name: checked for name, checked in at.items() if checked is not None and _is_shown(results, name)}
    return dict(sorted(found.items(), key=lambda pair: (WORDS.index(pair[1].trust.word), _rank(results, pair[0]))))


def _is_shown(results: Results, name: str) -> bool:
    """Leave out what val_front no longer chooses, as everywhere on the page."""
    return attacked_network(results, name) is not None


def _rank(results: Results, name: str) -> tuple[int, int, str]:
    model = attacked_network(results, name)
    if model is None:
        return len(_KINDS), 0, name
    return _KINDS.index(model.kind) if model.kind in _KINDS else len(_KINDS), model.trial or 0, name
