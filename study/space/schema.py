"""Every section of a search space with its keys, defaults and bounds; pydantic walks them and collects all errors.

A line under each field says what the key means; `search_spaces/README.md` has the same with units and examples.
Rules between keys are left to `rules`, ranges to `ranges`.
"""

from typing import Annotated, Any, Literal, final

from pydantic import BaseModel, ConfigDict
from pydantic import PlainValidator as Rule

from nodekd.attacks.catalog import LATER_TIERS, NORMS, TIERS
from nodekd.data.catalog import DATASETS, MAX_SIZE, MIN_SIZE
from nodekd.models.catalog import STUDENTS, TEACHERS
from nodekd.ode.integrator import ADAPTIVE, FIXED
from study.space.quantities import Flag, Name, Number, Numbers, Quantity, Text

DISCRETISATIONS = ("steps", "step_size", "evaluations")
"""Three ways to say how finely a fixed solver steps; exactly one is given (S12)."""

TOLERANCES = ("rtol", "atol", "max_evaluations")
"""What only adaptive solvers read."""

DEFAULT_EVALUATIONS = 8
"""Evaluations of a fixed solver where the file gives no discretisation at all."""

MAX_STEPS = 10_000
"""Most steps of one solve; more is a slip of the pen."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"

_SEED = Number(low=0, high=2**32 - 1, whole=True)
_COUNT = Number(low=1, high=10**6, whole=True)
_IMAGES = Number(low=1, high=10**8, whole=True, words=("all",))
_LATER_DATA = ("cifar10-c", "cifar100-c", "imagenet-c")
_NORM = Name(names=tuple(NORMS))


class Section(BaseModel):
    """A mapping of the file: unknown keys are refused, values never change afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@final
class Study(Section):
    """Which study this is."""

    name: Annotated[str, Rule(Text(pattern=NAME_PATTERN, rule="letters, digits, '.', '_' or '-'"))] = "study"
    """Folder name below `results/`; the file's name by default."""
    seed: Annotated[int, Rule(_SEED)] = 0
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
class Adversarial(Section):
    """Adversarial training: PGD on every batch."""

    epsilon: Annotated[float, Rule(Number(low=0, above_low=True, high=1))]
    """Radius in L-inf, in units of [0, 1]."""
    steps: Annotated[int, Rule(Number(low=1, high=1000, whole=True))] = 7
    """PGD steps per batch."""


class Train(Section):
    """How a network is trained."""

    optimizer: Annotated[str, Rule(Name(names=("adamw", "sgd")))] = "adamw"
    """Update rule."""
    learning_rate: Annotated[float, Rule(Number(low=0, above_low=True, high=1000))] = 0.01
    """Peak learning rate."""
    weight_decay: Annotated[float, Rule(Number(low=0, high=1000))] = 0.01
    """Pull of the weights towards zero, per unit of learning rate."""
    momentum: Annotated[float, Rule(Number(low=0, high=1, below_high=True))] = 0.9
    """Only for sgd."""
    batch_size: Annotated[int, Rule(_COUNT)] = 64
    """Images per update."""
    schedule: Annotated[str, Rule(Name(names=("one-cycle", "cosine", "constant")))] = "one-cycle"
    """Course of the learning rate."""
    epochs: Annotated[int, Rule(_COUNT)] = 60
    """Passes over `train`."""
    augment: Annotated[bool, Rule(Flag())] = True
    """Whether the data set's crops and flips are used (S3)."""
    clip: Annotated[float | None, Rule(Number(low=0, above_low=True, high=10**6, nullable=True))] = None
    """Largest norm of the gradient; null = no limit."""
    adversarial: Adversarial | None = None
    """Adversarial training; null = none."""


@final
class TeacherTrain(Train):
    """How a teacher is trained; its own defaults, not those of the students' `train`."""

    epochs: Annotated[int, Rule(_COUNT)] = 30
    """Passes over `train`."""


@final
class Teacher(Section):
    """One network to learn from: trained here, or loaded."""

    arch: Annotated[str, Rule(Name(names=TEACHERS, later=("resnext", "in-resnet", "lambda-in-resnet")))] = "resnet20"
    """A ResNet."""
    checkpoint: Annotated[str | None, Rule(Text(nullable=True))] = None
    """State dict to load instead of training."""
    trained_on: Annotated[str | None, Rule(Text(nullable=True))] = None
    """What the checkpoint was trained on (S4); `unknown` where nothing is said."""
    seed: Annotated[int | None, Rule(Number(low=0, high=2**32 - 1, whole=True, nullable=True))] = None
    """Seed of its training; the study's by default (filled in by the reader, never None afterwards)."""
    train: TeacherTrain = TeacherTrain()
    """How it is trained."""


@final
class Student(Section):
    """The Neural-ODE student and its solver."""

    arch: Annotated[str, Rule(Name(names=tuple(STUDENTS), later=("resnet", "in-resnet", "lambda-in-resnet")))] = (
        "odenet-stem"
    )
    """Preset."""
    channels: Annotated[int, Rule(Number(low=1, high=4096, whole=True))] = 16
    """Channels of the ODE's state."""
    blocks: Annotated[int, Rule(Number(low=1, high=64, whole=True))] = 1
    """ODE blocks one after another."""
    norm: Annotated[str, Rule(Name(names=("group", "none")))] = "group"
    """Normalisation in dynamics and head (S15)."""
    time: Annotated[str, Rule(Name(names=("channel", "none")))] = "channel"
    """Whether the dynamics see the time, as an extra channel."""
    solver: Annotated[str, Rule(Name(names=(*FIXED, *ADAPTIVE)))] = "rk4"
    """How the ODE is integrated."""
    horizon: Annotated[float, Rule(Number(low=0, above_low=True, high=1000))] = 1.0
    """End of the time interval [0, horizon]."""
    steps: Annotated[int | None, Rule(Number(low=1, high=MAX_STEPS, whole=True, nullable=True))] = None
    """Discretisation by number of steps."""
    step_size: Annotated[float | None, Rule(Number(low=0, above_low=True, high=1000, nullable=True))] = None
    """Discretisation by length of a step: steps = ceil(horizon / step_size)."""
    evaluations: Annotated[int | None, Rule(Number(low=1, high=4 * MAX_STEPS, whole=True, nullable=True))] = None
    """Discretisation by evaluations of the dynamics: steps = evaluations / stages."""
    rtol: Annotated[float, Rule(Number(low=0, above_low=True, high=1))] = 1e-3
    """Relative tolerance of adaptive solvers."""
    atol: Annotated[float | None, Rule(Number(low=0, above_low=True, high=1, nullable=True))] = None
    """Absolute tolerance of adaptive solvers; null = as rtol."""
    max_evaluations: Annotated[int, Rule(_COUNT)] = 200
    """Cap on the evaluations of one adaptive solve (S14)."""
    gradient: Annotated[str, Rule(Name(names=("direct", "adjoint")))] = "direct"
    """Backpropagation through the solver, or the adjoint equation."""


@final
class Distill(Section):
    """What the student takes from the teacher (S6)."""

    method: Annotated[
        str,
        Rule(Name(names=("kd", "none"), later=("feed", "feed-parallel", "feed-sequential", "ard", "rslad"))),
    ] = "kd"
    """Loss."""
    temperature: Annotated[float, Rule(Number(low=0, above_low=True, high=1000))] = 4.0
    """Softens both networks' logits."""
    alpha: Annotated[float, Rule(Number(low=0, high=1))] = 0.9
    """Weight of the teacher's term."""
    kl_scale: Annotated[str, Rule(Name(names=("temperature_squared", "none")))] = "temperature_squared"
    """Factor on the teacher's term."""


@final
class Objectives(Section):
    """What the search maximises; the two are fixed in this version."""

    accuracy: Literal["maximize"] = "maximize"
    adversarial_accuracy: Literal["maximize"] = "maximize"


@final
class Search(Section):
    """How adversarial_accuracy is measured (S16)."""

    epsilon: Annotated[float | None, Rule(Number(low=0, above_low=True, high=1000, later=("auto",)))] = None
    """Headline radius; the data set's by default (filled in by the reader)."""
    norm: Annotated[str, Rule(_NORM)] = "linf"
    """Norm of the perturbation."""
    images: Annotated[int | Literal["all"], Rule(_IMAGES)] = 256
    """Images of val_search that are attacked."""


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

    name: Annotated[str, Rule(Name(names=("none",), later=("mo-asha", "asha", "median")))] = "none"
    """None in this version."""


@final
class Budget(Section):
    """How much is tried."""

    trials: Annotated[int, Rule(_COUNT)] = 24
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
class Robustness(Section):
    """The attacks on `test` at the end."""

    tier: Annotated[str, Rule(Name(names=tuple(TIERS), later=LATER_TIERS))] = "standard"
    """How thorough."""
    norm: Annotated[str, Rule(_NORM)] = "linf"
    """Norm of the perturbation."""
    epsilons: Annotated[
        tuple[float, ...], Rule(Numbers(each=Number(low=0, above_low=True, high=1000, later=("auto",))))
    ] = ()
    """Radii, ascending; the data set's by default (filled in by the reader, never empty afterwards)."""
    images: Annotated[int | Literal["all"], Rule(_IMAGES)] = "all"
    """Test images that are attacked."""
    max_students: Annotated[int, Rule(Number(low=1, high=10**4, whole=True))] = 8
    """Students that are attacked at most."""
    shard: Annotated[int, Rule(_COUNT)] = 256
    """Images per job."""


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
    "distill": Distill,
    "train": Train,
    "objectives": Objectives,
    "search": Search,
    "sampler": Sampler,
    "early_stopping": EarlyStopping,
    "budget": Budget,
    "resources": Resources,
    "robustness": Robustness,
    "progress": Progress,
}
"""The sections that are plain mappings; `teachers`, `space` and `anchors` stand beside them."""

TOP_KEYS = ("study", "data", "teachers", "student", "distill", "train", "space", "anchors", *list(SECTIONS)[5:])
"""Every key at the top of a file, in the order a file usually has."""

SAMPLED_SECTIONS = ("student", "distill", "train")
"""Sections whose keys may stand under `space` instead."""

LATER_KEYS: dict[str, tuple[str, ...]] = {
    "": ("constraints", "replicates", "contrast", "warm_start", "checks", "probes", "lanes"),
    "space": ("dynamics", "damping", "gain", "beta", "features", "label_smoothing"),
    "student": ("dynamics", "damping", "gain"),
    "distill": ("beta", "features", "label_smoothing"),
    "early_stopping": ("eta", "rungs"),
    "robustness": ("check_images",),
    "objectives": ("nfe", "parameter_count", "training_seconds"),
}
"""Keys of later versions, per section: known, and refused as not available."""


def quantities(model: type[Section]) -> dict[str, Quantity]:
    """Return the rule of every plain key of a section."""
    rules: dict[str, Quantity] = {}
    for name, field in model.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Rule) and isinstance(mark.func, Quantity):
                rules[name] = mark.func
    return rules


HOME: dict[str, str] = {key: section for section in SAMPLED_SECTIONS for key in SECTIONS[section].model_fields} | {
    "seed": "study",
    "teacher": "teachers",
}
"""Where each key that may stand under `space` belongs; the order is the canonical one of the parameters."""

RULES: dict[str, Quantity] = {
    **{key: rule for section in SAMPLED_SECTIONS for key, rule in quantities(SECTIONS[section]).items()},
    "seed": _SEED,
    "teacher": Number(low=0, high=10**4, whole=True),
}
"""The rule of every key that may be sampled (all but `adversarial`)."""


def dump(section: Section) -> dict[str, Any]:
    """Return a section as plain JSON-able values, lists for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in section.model_dump().items()}
