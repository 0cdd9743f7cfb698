"""The checks on val_front: who stands there only because attacks fail must not send others off (S18, S25)."""

from collections.abc import Collection, Sequence
from typing import Any

from nodekd.attacks.catalog import TIERS
from study.checks.reading import read_checked
from study.checks.verdicts import Trust
from study.fingerprint import fingerprint
from study.stages.batch import Planned
from study.stages.context import Context
from study.stages.searches import front_key, identity
from study.stages.teachers import FRONT_SPLIT, attack_settings, front_images

FOLDER = "front/checks"


def are_wanted(context: Context) -> bool:
    """Tell whether candidates are checked; networks of one epoch are neither healthy nor masked."""
    return context.space.robustness.tier != TIERS[0] and not context.smoke


def jobs(context: Context, trials: Sequence[str]) -> list[Planned]:
    """Plan the diagnosis of every candidate at the headline epsilon, without the long attacks."""
    if not are_wanted(context):
        return []
    planned = []
    for trial in trials:
        settings = _settings(context, trial)
        planned.append(Planned(context.job(_key(trial, settings), "check", **settings), {"settings": settings}))
    return planned


def doubted(context: Context, trials: Sequence[str]) -> dict[str, Trust]:
    """Return the candidates that a check calls unreliable, with its reasons; who was not checked is not among them."""
    found: dict[str, Trust] = {}
    for trial in trials if are_wanted(context) else ():
        key = _key(trial, _settings(context, trial))
        if not context.is_complete(key):
            continue
        for each in read_checked(context.ledger.folder(key), context.metrics(key), None, []).values():
            if each.trust.word == "unreliable":
                found[trial] = each.trust
    return found


def believed(trials: Sequence[str], against: Collection[str]) -> list[str]:
    """Leave out who is doubted; where that is everybody, nobody, as all have the same fault."""
    return [trial for trial in trials if trial not in against] or list(trials)


def _key(trial: str, settings: dict[str, Any]) -> str:
    return f"{FOLDER}/{front_key(trial).partition('/')[2]}-{fingerprint(settings)}"


def _settings(context: Context, trial: str) -> dict[str, Any]:
    return attack_settings(
        context,
        network=trial,
        split=FRONT_SPLIT,
        images=context.space.robustness.check_images,
        of_images=front_images(context),
        norm=context.space.search.norm,
        epsilons=[context.epsilon],
        headline=context.epsilon,
        control=None,
        brief=True,
        identity=identity(trial),
    )
