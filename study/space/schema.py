"""Every section of a search space with its keys, defaults and bounds; pydantic walks them and collects all errors.

A line under each field says what the key means; `search_spaces/README.md` has the same with units and examples.
What is trained stands in `network_sections`, what is measured in `measure_sections`, the rest here. Rules between keys
are left to `rules`, ranges to `ranges`.
"""

from typing import Annotated, Literal, final

from pydantic import PlainValidator as Rule

from nodekd.data.catalog import DATASETS, MAX_SIZE, MIN_SIZE
from study.space.measure_sections import Objectives, Probes, Robustness, Search
from study.space.network_sections import COUNT, SEED, AttackSolve, Distill, Solve, Student, Train
from study.space.quantities import Flag, Name, Number, Numbers, Quantity, Text
from study.space.section import Section, quantities

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

_LATER_DATA = ("cifar10-c", "cifar100-c", "imagenet-c")


@final
class Study(Section):
    """Which study this is."""

    name: Annotated[str, Rule(Text(pattern=NAME_PATTERN, rule="letters, digits, '.', '_' or '-'"))] = "study"
    """Folder name below `results/`; the file's name by default."""
    seed: Annotated[int, Rule(SEED)] = 0
    """Root of all randomness except the split."""


@final
class Data(Section):
    """Which images."""

    name: Annotated[str, Rule(Name(names=tuple(DATASETS), later=_LATER_DATA))] = "digits"
    """A data set, or `folder`."""
    root: Annotated[str, Rule(Text())] = "data"
    """Where files lie or are downloaded to."""
    image_size: Annotated[int | None, Rule(Number(low=MIN_SIZE, high=MAX_SIZE, whole=True, nullable=True))] = None
    """Side in pixels, resized once; null = the data set's own."""
    shuffle: Annotated[bool, Rule(Flag())] = False
    """Whether digits are split at random instead of in blocks of writers (S2)."""


@final
class Sampler(Section):
    """Who proposes the next point."""

    name: Annotated[str, Rule(Name(names=("tpe", "nsga2", "gp", "qmc", "random", "grid")))] = "tpe"
    """Optuna's sampler."""
    startup_trials: Annotated[int, Rule(Number(low=0, high=10**6, whole=True))] = 10
    """Random trials before tpe begins to model."""


@final
class EarlyStopping(Section):
    """Which trials end before their last epoch."""

    name: Annotated[str, Rule(Name(names=("none", "mo-asha", "asha", "median")))] = "none"
    """Who is stopped at a rung: nobody, or the last by both objectives, by one, or those below the median of one."""
    eta: Annotated[float, Rule(Number(low=1, above_low=True, high=100))] = 3.0
    """One trial in so many goes on past a rung; also the factor between two rungs."""
    rungs: Annotated[tuple[int, ...], Rule(Numbers(each=COUNT, example="[5, 20]"))] = ()
    """Epochs after which trials are compared; a ninth and a third of them for eta 3, by default."""
    images: Annotated[int, Rule(Number(low=1, high=10**8, whole=True))] = 64
    """Of the search's images those that are attacked at a rung."""
    objective: Annotated[str, Rule(Name(names=("accuracy", "adversarial_accuracy")))] = "accuracy"
    """What asha and median look at."""
    spared: Annotated[float, Rule(Number(low=0, high=1))] = 0.08
    """Share of the condemned that live on, to show what the others would have become."""
    least_tau: Annotated[float, Rule(Number(low=-1, high=1))] = 0.4
    """Rank correlation between rung and end below which a rung stops nobody."""


@final
class Constraints(Section):
    """What a student may cost at most; one that costs more keeps its record and is kept from the front."""

    nfe: Annotated[float | None, Rule(Number(low=0, above_low=True, high=10**9, nullable=True))] = None
    """Mean evaluations of the field per image of val_search."""
    parameter_count: Annotated[int | None, Rule(Number(low=1, high=10**12, whole=True, nullable=True))] = None
    """Weights; a student that has more is not trained."""
    training_seconds: Annotated[float | None, Rule(Number(low=0, above_low=True, high=10**9, nullable=True))] = None
    """Time of its updates; a student that takes longer is stopped after the epoch."""


@final
class WarmStart(Section):
    """Which finished study's best points are tried first, after the anchors."""

    study: Annotated[str | None, Rule(Text(nullable=True))] = None
    """Its folder; null = none."""
    points: Annotated[int, Rule(COUNT)] = 8
    """How many points at most."""


@final
class Budget(Section):
    """How much is tried."""

    trials: Annotated[int, Rule(COUNT)] = 24
    """Trials in all."""
    concurrency: Annotated[int | Literal["auto"], Rule(Number(low=1, high=10**6, whole=True, words=("auto",)))] = "auto"
    """Trials at a time."""
    max_failed_trials: Annotated[int, Rule(Number(low=0, high=10**6, whole=True))] = 5
    """Crashed trials that are borne before exit 1."""


@final
class Resources(Section):
    """What one trial uses."""

    cpus: Annotated[int, Rule(Number(low=1, high=4096, whole=True))] = 1
    """CPU cores."""
    gpus: Annotated[float | Literal["auto"], Rule(Number(low=0, high=64, whole_above=1, words=("auto",)))] = "auto"
    """GPUs, a fraction of one, or 1 where there is one."""


@final
class Progress(Section):
    """How the terminal and the ledger show life."""

    refresh_s: Annotated[float, Rule(Number(low=0.05, high=3600))] = 1.0
    """Seconds between redraws of the live view."""
    heartbeat_s: Annotated[float, Rule(Number(low=1, high=3600))] = 30.0
    """Seconds between plain progress lines."""


SECTIONS: dict[str, type[Section]] = {
    "study": Study,
    "data": Data,
    "student": Student,
    "evaluate": Solve,
    "attack": AttackSolve,
    "distill": Distill,
    "train": Train,
    "objectives": Objectives,
    "search": Search,
    "sampler": Sampler,
    "early_stopping": EarlyStopping,
    "constraints": Constraints,
    "warm_start": WarmStart,
    "budget": Budget,
    "resources": Resources,
    "robustness": Robustness,
    "probes": Probes,
    "progress": Progress,
}
"""The sections that are plain mappings; `teachers`, `space`, `anchors` and `contrast` stand beside them."""

_TRAINED = list(SECTIONS)[2:7]
TOP_KEYS = ("study", "data", "teachers", *_TRAINED, "space", "anchors", "contrast", *list(SECTIONS)[7:])
"""Every key at the top of a file, in the order a file usually has."""

SAMPLED_SECTIONS = ("student", "distill", "train")
"""Sections whose keys may stand under `space` instead."""

LATER_KEYS: dict[str, tuple[str, ...]] = {
    "": ("replicates", "checks", "lanes"),
    "objectives": ("nfe", "parameter_count", "training_seconds"),
}
"""Keys of later versions, per section: known, and refused as not available."""

HOME: dict[str, str] = {key: section for section in SAMPLED_SECTIONS for key in SECTIONS[section].model_fields} | {
    "seed": "study",
    "teacher": "teachers",
}
"""Where each key that may stand under `space` belongs; the order is the canonical one of the parameters."""

RULES: dict[str, Quantity] = {
    **{key: rule for section in SAMPLED_SECTIONS for key, rule in quantities(SECTIONS[section]).items()},
    "seed": SEED,
    "teacher": Number(low=0, high=10**4, whole=True),
}
"""The rule of every key that may be sampled (all but `adversarial`)."""
