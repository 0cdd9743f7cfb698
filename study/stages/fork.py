"""Begin a study from another one: which of its trials the new space would have measured alike, and taking them over.

What may change without a word on resume is no reason to fork. Here, anything may, and each settled trial is asked on
its own: it is taken over if its point lies in the new space, all its settings are the same there, and so is everything
its outcome depends on besides: images, teachers, the attacks of the search, constraints. The trials are named in
`study.json` before the first of them is copied, and the outcome of each comes last, so that the same command completes
a fork that a kill tore.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from study.documents import read_document, read_trial
from study.durable import link_or_copy
from study.epsilons import FROZEN, freeze, settled
from study.errors import EnvironmentFault, ResumeConflict
from study.ledger import Ledger
from study.number_ranges import NumberSet, numbers_in
from study.points import Parameter, Point, point_in
from study.space.measure_sections import AUTO
from study.space.schema import HOME
from study.stages.batch import is_crash
from study.stages.context import Context
from study.stages.search import teachers_of, trial_key
from study.stages.searches import trial_number
from study.stages.teachers import ANCHOR, reference_point, teacher_keys, undistilled

RECORD = "forked_from"
"""Key of `study.json` under which a study says what it took over."""

_WHOLE = ("search", "constraints")
"""Sections that the outcome of every trial depends on, and its own settings do not hold."""

_NOT_TAKEN = frozenset({"config.json", "outcome.json", "log.txt"})


@final
@dataclass(frozen=True)
class Fork:
    """What a study takes over from another one."""

    study: str
    """The other one's `id`."""
    name: str
    trials: tuple[int, ...]
    """Its trials, by their old numbers; their new ones are their places here."""
    left_out: Mapping[str, int]
    """How many others there are, by why they stay behind."""

    @property
    def sentence(self) -> str:
        """Say it, for people."""
        taken, left = len(self.trials), sum(self.left_out.values())
        text = f"forked from {self.name}: {taken} of {taken + left} trials taken over"
        if not left:
            return text
        several = len(self.left_out) > 1
        reasons = [f"{count} {why}" if several else why for why, count in self.left_out.items()]
        return f"{text}; {left} left out ({'; '.join(reasons)})"

    def record(self) -> dict[str, Any]:
        """Return what `study.json` keeps."""
        return {"study": self.study, "name": self.name, "trials": [*self.trials], "left_out": dict(self.left_out)}


def fork_of(ledger: Ledger) -> Fork | None:
    """Read what a study took over, or is to take over; None for one that began on its own, or has not begun."""
    record = (ledger.document("study.json") or {}).get(RECORD)
    if record is None:
        return None
    return Fork(record["study"], record["name"], tuple(record["trials"]), record["left_out"])


def is_torn(ledger: Ledger, fork: Fork) -> bool:
    """Tell whether a kill left some trial behind that is still to be taken over."""
    return any(ledger.outcome(trial_key(number)) is None for number in range(len(fork.trials)))


def source_study(source: Path) -> dict[str, Any]:
    """Return the `study.json` of the study that is forked.

    Raises:
        EnvironmentFault: If the folder holds no study.
    """
    study = read_document(source / "study.json")
    if study is None:
        raise EnvironmentFault(f"--fork takes a study's folder, but {source} holds no study.json. Correct the folder.")
    return study


def plan_fork(context: Context, source: Path) -> Fork:
    """Say which trials of another study this one takes over.

    Args:
        context: The new study.
        source: The other one's folder; it may be running.

    Raises:
        ResumeConflict: If the other study has other images.
        EnvironmentFault: If the folder holds no study.
    """
    old, study = Ledger(source), source_study(source)
    if study.get("split_hash") != context.facts.split_hash:
        raise ResumeConflict(
            f"A fork goes on with the same images, but {source} has the split {str(study.get('split_hash'))[:12]} and "
            f"the data now give {context.facts.split_hash[:12]}. Restore the data, or begin without --fork."
        )
    of_all = _difference_of_studies(context, old, study)
    taken: list[int] = []
    left_out: Counter[str] = Counter()
    for key in old.numbered("trials"):
        reason = _objection(context, old, key, study) or of_all
        if reason is None:
            taken.append(trial_number(key))
        else:
            left_out[reason] += 1
    return Fork(str(study.get("id", source.name)), str(study.get("name", source.name)), tuple(taken), dict(left_out))


def take_over(context: Context, source: Path, fork: Fork) -> None:
    """Copy what a fork names and the study does not have yet, before its first trial is asked for."""
    old = Ledger(source)
    _take_epsilon(context, old)
    for key in teacher_keys(context):
        _take_teacher(context.ledger, old, key)
    numbers = {number: place for place, number in enumerate(fork.trials)}
    for number, place in numbers.items():
        if context.ledger.outcome(trial_key(place)) is None:
            _take_trial(context, old, fork, trial_key(number), place, numbers)


# ---------------------------------------------------------------- what may be taken


def _difference_of_studies(context: Context, old: Ledger, study: Mapping[str, Any]) -> str | None:
    """Say what makes every trial of the other study incomparable; None where nothing does."""
    document: Mapping[str, Any] = study.get("space") or {}
    new = context.space.document()
    if (document.get("study") or {}).get("seed") != context.space.study.seed:
        return "study.seed differs"  # it seeds the search's attacks
    for section in _WHOLE:
        differing = _differing({section: document.get(section)}, {section: new[section]})
        if differing is not None:
            return f"{differing} differs"
    if context.space.search.epsilon == AUTO and old.document(FROZEN) is None:
        return "its epsilon is not settled yet"
    if study.get("teachers") != teacher_keys(context):
        return "the teachers differ"
    return _difference_of_anchors(context, old)


def _difference_of_anchors(context: Context, old: Ledger) -> str | None:
    """Say whether the student whose images all trials are shown is another one."""
    theirs = (old.config(ANCHOR) or {}).get("settings") or {}
    differing = _differing(theirs, undistilled(context.space.settings(reference_point(context.space))))
    return (
        None if differing is None else f"{differing} of the undistilled anchor, whose images trials are shown, differs"
    )


def _objection(context: Context, old: Ledger, key: str, study: Mapping[str, Any]) -> str | None:
    """Say why a trial is not what this study would have measured; None where it is."""
    config, outcome = read_trial(old.folder(key))
    if config is None or outcome is None:
        return "unfinished"
    if is_crash(outcome):
        return "crashed"
    if outcome["state"] == "PRUNED" and _stops_otherwise(context, study):
        return "pruned, and early_stopping differs"
    try:
        point = point_of(context.space.parameters, config)
        settings = context.space.settings(point)
    except (ValueError, KeyError) as error:
        return f"{error.args[0]} does not fit the new space"
    differing = _differing(config["settings"], settings)
    if differing is not None:
        return f"{differing} differs"
    return None if config["teachers"] == teachers_of(context, settings) else "the teachers differ"


def _stops_otherwise(context: Context, study: Mapping[str, Any]) -> bool:
    return (study.get("space") or {}).get("early_stopping") != context.space.document()["early_stopping"]


def point_of(parameters: Sequence[Parameter], config: Mapping[str, Any]) -> Point:
    """Return an old trial's point in a new space: what is sampled now may have been fixed then, and the reverse.

    Args:
        parameters: Of the new space, parents first.
        config: The trial's `config.json`.

    Raises:
        KeyError: Naming a parameter that the trial had no value for.
        ValueError: If a value lies outside the new range.
    """
    return point_in(parameters, {**_flat(config["settings"]), **config["params"]})


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all keys that may stand under `space`."""
    flat = {name: settings[name] for name in ("seed", "teacher") if name in settings}
    for name, section in HOME.items():
        if isinstance(within := settings.get(section), Mapping) and name in within:
            flat[name] = within[name]
    return flat


def _differing(old: Any, new: Any, where: str = "") -> str | None:
    """Name the first key in which two documents differ; None where they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            found = _differing(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
            if found is not None:
                return found
        return None
    same = old == (list(new) if isinstance(new, tuple) else new) and isinstance(old, bool) == isinstance(new, bool)
    return None if same else where or "everything"


# ---------------------------------------------------------------- taking it


def _take_epsilon(context: Context, old: Ledger) -> None:
    """Keep the radius that the old trials were attacked with, where the space leaves it to a pilot."""
    norm = context.space.search.norm
    epsilon = settled(old.root, norm) if context.space.search.epsilon == AUTO else None
    if epsilon is not None:
        record = (old.document(FROZEN) or {})[norm]
        freeze(context.ledger.root, norm, epsilon, {name: said for name, said in record.items() if name != "epsilon"})


def _take_teacher(new: Ledger, old: Ledger, key: str) -> None:
    """Take a teacher with its outcome; its key hashes all that makes it, so it is the same one."""
    outcome, config = old.outcome(key), old.config(key)
    if new.outcome(key) is not None or config is None or outcome is None or outcome["state"] != "COMPLETE":
        return
    new.write_config(key, config)
    _take_files(old.folder(key), new.folder(key))
    new.commit(key, outcome)


def _take_trial(context: Context, old: Ledger, fork: Fork, key: str, place: int, numbers: Mapping[int, int]) -> None:
    config, outcome = read_trial(old.folder(key))
    if config is None or outcome is None:
        raise EnvironmentFault(
            f"{key} was to be taken over, but {old.root} no longer has it. Restore it, or delete {context.ledger.root} "
            "and fork again."
        )
    origin = {"study": fork.study, "trial": trial_number(key)}
    point = point_of(context.space.parameters, config)
    old_ones = (numbers.get(number, place) for number in numbers_in(config.get("seen") or ()))
    seen = NumberSet(number for number in old_ones if number < place)
    taken = {**config, "number": place, "params": point, "seen": seen.ranges, "copied_from": origin}
    context.ledger.write_config(trial_key(place), taken)
    _take_files(old.folder(key), context.ledger.folder(trial_key(place)))
    context.ledger.commit(trial_key(place), {**outcome, "copied_from": origin})


def _take_files(source: Path, target: Path) -> None:
    """Copy the plain files of a settled job; weights, which are replaced and never changed, are linked."""
    with os.scandir(source) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_file(follow_symlinks=False) and entry.name not in _NOT_TAKEN and not entry.name.endswith(".tmp"):
            link_or_copy(Path(entry.path), target / entry.name, by_link=entry.name.endswith((".pt", ".npz")))
