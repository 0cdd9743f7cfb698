"""Rules between keys, each checked in every combination of choices that can be reached, before anything runs."""

from collections.abc import Callable

from study.space.needs import NEEDS, check_effect
from study.space.problems import Place
from study.space.reading import Reading
from study.space.solving import check_solvers
from study.space.teaching import check_alpha, check_attacking, check_feature_times, check_features, check_teachers

CORRUPTED = ("cifar10", "cifar100")
"""Data sets with published corruptions."""


def check_rules(reading: Reading) -> None:
    """Run every check whose keys could be read; each notes what it finds."""
    by_branch: tuple[Callable[[Reading], None], ...] = (
        _check_effects,
        check_solvers,
        check_teachers,
        check_alpha,
        check_attacking,
        check_features,
        check_feature_times,
        _check_undistilled_search,
    )
    for check in by_branch:
        try:
            check(reading)
        except OverflowError as error:
            reading.problems.add(reading.root, f"`space` has {error} Remove choices or conditions.")
    _check_sampler(reading)
    _check_early_stopping(reading)
    _check_probes(reading)


def _check_effects(reading: Reading) -> None:
    for need in NEEDS:
        check_effect(reading, need)


def _check_sampler(reading: Reading) -> None:
    sampler = reading.sections.values["sampler"]
    place = reading.sections.given["sampler"].get("startup_trials")
    if place is not None and sampler.name not in {"tpe", "gp"} and not _is_name_overridden(reading, "sampler", place):
        message = f"`sampler.startup_trials` has no effect on {sampler.name}; remove it or choose tpe or gp."
        reading.problems.add(place, message)
    for parameter in reading.parameters if sampler.name == "grid" else ():
        if parameter.kind == "float" and parameter.step is None:
            message = f"a grid needs finitely many values, but `{parameter.name}` is a {parameter.described}; "
            reading.problems.add(reading.place(parameter.name), message + "use choice, int or step.")


def _check_undistilled_search(reading: Reading) -> None:
    """Check that a search without distillation is another search than the students' own."""
    if not reading.sections.values["robustness"].undistilled_search or not reading.known("method"):
        return
    if {reading.effective("method", branch) for branch in reading.branches(("method",))} == {"none"}:
        message = (
            "`robustness.undistilled_search` would search the same again, as method is none everywhere; remove it."
        )
        reading.problems.add(reading.place_in("robustness", "undistilled_search"), message)


def _is_name_overridden(reading: Reading, section: str, place: Place) -> bool:
    """Tell whether an override chose another `name` than the file's, so that the file's other keys may lie idle."""
    name = reading.sections.given[section].get("name")
    return name is not None and name.source.override and not place.source.override


def _check_early_stopping(reading: Reading) -> None:
    """Check that what is said of rungs has an effect, and that the rungs lie before the end."""
    early, given = reading.sections.values["early_stopping"], reading.sections.given["early_stopping"]
    idle = set(given) - {"name"} if early.name == "none" else {"objective"} if early.name == "mo-asha" else set[str]()
    for key in sorted(idle & set(given)):
        if not _is_name_overridden(reading, "early_stopping", given[key]):
            others = "mo-asha, asha or median" if early.name == "none" else "asha or median"
            message = f"`early_stopping.{key}` has no effect on {early.name}; remove it or choose {others}."
            reading.problems.add(given[key], message)
    epochs = reading.sections.values["train"].epochs
    is_sampled = any(parameter.name == "epochs" for parameter in reading.parameters)
    late = [rung for rung in early.rungs if rung >= epochs]
    if late and not is_sampled and "train.epochs" not in reading.sections.broken:
        message = f"`early_stopping.rungs` must lie before the end of {epochs} epochs, but got {late[-1]}."
        reading.problems.add(reading.place_in("early_stopping", "rungs"), message)


def _check_probes(reading: Reading) -> None:
    probes, data = reading.sections.values["probes"], reading.sections.values["data"].name
    if probes.legacy and not probes.published_attacks:
        message = "`probes.legacy` adds one to the published attacks; set probes.published_attacks: true, too."
        reading.problems.add(reading.place_in("probes", "legacy"), message)
    if probes.corruption_root is not None and probes.split != "test":
        message = f"`probes.corruption_root` holds corrupted test images, but probes.split is {probes.split}; "
        reading.problems.add(reading.place_in("probes", "corruption_root"), message + "choose probes.split: test.")
    if probes.corruption_root is not None and data not in CORRUPTED and "data.name" not in reading.sections.broken:
        message = f"`probes.corruption_root` holds corruptions of {' or '.join(CORRUPTED)}, but data.name is {data}; "
        reading.problems.add(reading.place_in("probes", "corruption_root"), message + "remove it.")
