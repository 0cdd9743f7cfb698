"""The checks on val_front: who stands there only because attacks fail must not send others off (S18, S25)."""

from collections.abc import Sequence
from typing import Any

from nodekd.attacks.catalog import TIERS
from study.checks.reading import read_checked
from study.checks.verdicts import Trust
from study.errors import EnvironmentFault
from study.fingerprint import fingerprint
from study.stages.batch import Planned, reopen_after_error
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


def reopen_crashed(context: Context, trials: Sequence[str]) -> None:
    """Forget that the checks of trials crashed in an earlier launch, so that they are asked again."""
    for trial in trials if are_wanted(context) else ():
        reopen_after_error(context, _key(trial, _settings(context, trial)))


def doubted(context: Context, trials: Sequence[str]) -> dict[str, Trust]:
    """Return the trials that a check calls unreliable, or whose checks crashed; not those that were not yet asked.

    Raises:
        EnvironmentFault: If what a check measured cannot be read.
    """
    found: dict[str, Trust] = {}
    for trial in trials if are_wanted(context) else ():
        trust = _trust(context, _key(trial, _settings(context, trial)))
        if trust.word == "unreliable":
            found[trial] = trust
    return found


def _trust(context: Context, key: str) -> Trust:
    outcome = context.ledger.outcome(key)
    if outcome is None:
        return Trust("unchecked", ("not yet asked",))
    if not context.is_complete(key):
        return Trust("unreliable", (f"its checks ended without a result: {outcome.get('reason')}",))
    problems: list[str] = []
    by_epsilon = read_checked(context.ledger.folder(key), context.metrics(key), None, problems)
    if problems:
        raise EnvironmentFault(
            f"The choice on {FRONT_SPLIT} needs the checks of every candidate, but {problems[0]}. Delete {key} in the "
            "study's folder; the same command measures it again."
        )
    (checked,) = by_epsilon.values()
    return checked.trust


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
