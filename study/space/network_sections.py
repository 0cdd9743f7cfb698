"""The sections that say what is trained, and how: students, their solves, distillation, training, teachers."""

from typing import Annotated, final

from pydantic import PlainValidator as Rule

from nodekd.distill.catalog import METHODS
from nodekd.models.catalog import DYNAMICS, PREACT_DEPTHS, PREACT_RESNEXT, STUDENTS, TEACHERS
from nodekd.ode.integrator import ADAPTIVE, FIXED
from study.space.quantities import Flag, Listed, Name, Number, Text
from study.space.section import Section

DISCRETISATIONS = ("steps", "step_size", "evaluations")
"""Three ways to say how finely a fixed solver steps; exactly one counts (S12)."""

TOLERANCES = ("rtol", "atol", "max_evaluations")
"""What only adaptive solvers read."""

DEFAULT_EVALUATIONS = 8
"""Evaluations of a fixed solver where the file gives no discretisation at all."""

MAX_STEPS = 10_000
"""Most steps of one solve; more is a slip of the pen."""

LEARNED = "learned"
"""The damping that is trained with the weights."""

TRAINED = "trained"
"""The gradient that a student was trained with, as attacks may follow it."""

SEED = Number(low=0, high=2**32 - 1, whole=True)
COUNT = Number(low=1, high=10**6, whole=True)


def _damped_names() -> tuple[tuple[str, str, str], ...]:
    """Translate the names of In-ResNet's authors, `in-resnet110`, into those of this project."""
    found: list[tuple[str, str, str]] = []
    for prefix, dynamics in (("in", "damped"), ("lambda-in", "lambda-damped")):
        for name in (*PREACT_DEPTHS, *PREACT_RESNEXT):
            advice = f"give arch: {name} with dynamics: {dynamics}"
            found.append((f"{prefix}-{name.removeprefix('preact-')}", advice, name))
        advice = f"give arch: preact-resnet110, or another depth, with dynamics: {dynamics}"
        found.append((f"{prefix}-resnet", advice, "preact-resnet110"))
    return tuple(found)


_FEED = ("feed", "give feed-parallel (several teachers at once) or feed-sequential (generations)", "feed-parallel")
_SOLVERS = (*FIXED, *ADAPTIVE)
_STEPS = Number(low=1, high=MAX_STEPS, whole=True, nullable=True)
_STEP_SIZE = Number(low=0, above_low=True, high=1000, nullable=True)
_EVALUATIONS = Number(low=1, high=4 * MAX_STEPS, whole=True, nullable=True)
_TOLERANCE = Number(low=0, above_low=True, high=1, nullable=True)


@final
class Student(Section):
    """The student's network and its solver."""

    arch: Annotated[str, Rule(Name(names=tuple(STUDENTS), elsewhere=_damped_names()))] = "odenet-stem"
    """Preset."""
    channels: Annotated[int, Rule(Number(low=1, high=4096, whole=True))] = 16
    """Channels of the ODE's state."""
    blocks: Annotated[int, Rule(Number(low=1, high=64, whole=True))] = 1
    """ODE blocks one after another."""
    norm: Annotated[str, Rule(Name(names=("group", "none")))] = "group"
    """Normalisation in dynamics and head (S15)."""
    time: Annotated[str, Rule(Name(names=("channel", "none")))] = "channel"
    """Whether the dynamics see the time, as an extra channel."""
    dynamics: Annotated[str, Rule(Name(names=tuple(DYNAMICS)))] = "plain"
    """Right-hand side of a block."""
    damping: Annotated[float | str, Rule(Number(low=0, high=100, words=(LEARNED,)))] = LEARNED
    """Damping of every block, or one learned scalar per block."""
    damping_decay: Annotated[bool, Rule(Flag())] = True
    """Whether weight decay acts on a learned damping, as published."""
    gain: Annotated[bool, Rule(Flag())] = False
    """Whether f has a learned positive factor: the control of the horizon (S13)."""
    solver: Annotated[str, Rule(Name(names=_SOLVERS))] = "rk4"
    """How the ODE is integrated."""
    horizon: Annotated[float, Rule(Number(low=0, above_low=True, high=1000))] = 1.0
    """End of the time interval [0, horizon]."""
    discretisation: Annotated[str | None, Rule(Name(names=DISCRETISATIONS, nullable=True))] = None
    """Which of the next three counts where several are given; null = exactly one is given (S13)."""
    steps: Annotated[int | None, Rule(_STEPS)] = None
    """Discretisation by number of steps."""
    step_size: Annotated[float | None, Rule(_STEP_SIZE)] = None
    """Discretisation by length of a step: steps = ceil(horizon / step_size)."""
    evaluations: Annotated[int | None, Rule(_EVALUATIONS)] = None
    """Discretisation by evaluations of the dynamics: steps = evaluations / stages."""
    rtol: Annotated[float, Rule(Number(low=0, above_low=True, high=1))] = 1e-3
    """Relative tolerance of adaptive solvers."""
    atol: Annotated[float | None, Rule(_TOLERANCE)] = None
    """Absolute tolerance of adaptive solvers; null = as rtol."""
    max_evaluations: Annotated[int, Rule(COUNT)] = 200
    """Cap on the evaluations of one adaptive solve (S14)."""
    gradient: Annotated[str, Rule(Name(names=("direct", "adjoint")))] = "direct"
    """Backpropagation through the solver, or the adjoint equation."""
    adjoint_steps: Annotated[int | None, Rule(_STEPS)] = None
    """Euler steps of the adjoint's way back; null = back as the solve went forth. Few make the gradient wrong."""


class Solve(Section):
    """How a trained ODE student is solved, where that differs from its training; null = as before."""

    solver: Annotated[str | None, Rule(Name(names=_SOLVERS, nullable=True))] = None
    """How the ODE is integrated."""
    horizon: Annotated[float | None, Rule(Number(low=0, above_low=True, high=1000, nullable=True))] = None
    """End of the time interval."""
    steps: Annotated[int | None, Rule(_STEPS)] = None
    """Discretisation by number of steps; replaces the student's, whatever it was given by."""
    step_size: Annotated[float | None, Rule(_STEP_SIZE)] = None
    """Discretisation by length of a step."""
    evaluations: Annotated[int | None, Rule(_EVALUATIONS)] = None
    """Discretisation by evaluations of the dynamics."""
    rtol: Annotated[float | None, Rule(_TOLERANCE)] = None
    """Relative tolerance of an adaptive solver."""
    atol: Annotated[float | None, Rule(_TOLERANCE)] = None
    """Absolute tolerance of an adaptive solver."""
    max_evaluations: Annotated[int | None, Rule(Number(low=1, high=10**6, whole=True, nullable=True))] = None
    """Cap on one adaptive solve."""


@final
class AttackSolve(Solve):
    """How the network is solved whose gradients attacks follow."""

    gradient: Annotated[str, Rule(Name(names=("direct", "adjoint", TRAINED)))] = "direct"
    """Backpropagation through the solver, the adjoint equation, or whichever the student was trained with."""
    adjoint_steps: Annotated[int | None, Rule(_STEPS)] = None
    """Euler steps of the adjoint's way back; only with gradient adjoint, trained brings its own."""


@final
class Distill(Section):
    """What the student takes from its teachers (S6)."""

    method: Annotated[str, Rule(Name(names=tuple(METHODS), elsewhere=(_FEED,)))] = "kd"
    """Loss."""
    temperature: Annotated[float, Rule(Number(low=0, above_low=True, high=1000))] = 4.0
    """Softens both networks' logits."""
    alpha: Annotated[float, Rule(Number(low=0, high=1))] = 0.9
    """Weight of the teacher's term."""
    kl_scale: Annotated[str, Rule(Name(names=("temperature_squared", "none")))] = "temperature_squared"
    """Factor on the teacher's term."""
    generations: Annotated[int, Rule(Number(low=2, high=20, whole=True))] = 3
    """Networks trained one after another, the first on labels alone; the last is the result."""
    ensemble: Annotated[int, Rule(Number(low=1, high=32, whole=True))] = 1
    """Number of teachers, the first of the list; at 1, `teacher` chooses it."""
    repeat_teacher: Annotated[bool, Rule(Flag())] = False
    """Whether the ensemble is the first teacher several times."""
    beta: Annotated[float, Rule(Number(low=0, above_low=True, high=10**9))] = 500.0
    """Weight of the feature maps' term; means nothing without its reduction."""
    beta_reduction: Annotated[str, Rule(Name(names=("mean", "sum")))] = "mean"
    """Over all entries of a map, or summed per image and averaged over the batch."""
    beta_divided: Annotated[bool, Rule(Flag())] = False
    """Whether beta is divided by the number of teachers."""
    feature_distance: Annotated[str, Rule(Name(names=("l1", "l2")))] = "l1"
    """Distance of two maps."""
    feature_normalise: Annotated[bool, Rule(Flag())] = True
    """Whether each image's map is divided by its L2 norm."""
    translator: Annotated[str, Rule(Name(names=("conv3x3", "conv1x1")))] = "conv3x3"
    """Three 3x3 convolutions, or one linear 1x1, on the student's map."""
    translator_shared: Annotated[bool, Rule(Flag())] = False
    """One translator for all teachers."""
    feature_times: Annotated[int, Rule(Number(low=1, high=8, whole=True))] = 1
    """Equally spaced times at which an ODE student's state is compared, the last at the horizon."""


@final
class Adversarial(Section):
    """Adversarial training: PGD on every batch."""

    epsilon: Annotated[float, Rule(Number(low=0, above_low=True, high=1))]
    """Radius in L-inf, in units of [0, 1]."""
    steps: Annotated[int, Rule(Number(low=1, high=1000, whole=True))] = 7
    """PGD steps per batch."""


@final
class StudentAdversarial(Section):
    """Adversarial training of students, of those of some methods alone where it says so."""

    epsilon: Annotated[float, Rule(Number(low=0, above_low=True, high=1))]
    """Radius in L-inf, in units of [0, 1]."""
    steps: Annotated[int, Rule(Number(low=1, high=1000, whole=True))] = 7
    """PGD steps per batch."""
    methods: Annotated[
        tuple[str, ...] | None, Rule(Listed(each=Name(names=tuple(METHODS)), example="[ard, rslad]", nullable=True))
    ] = None
    """Methods that train on attacked images; the others' images stay clean. Null = all."""

    def applies(self, method: str) -> bool:
        """Tell whether students of a method are trained on attacked images."""
        return self.methods is None or method in self.methods


class Training(Section):
    """How a network is trained."""

    optimizer: Annotated[str, Rule(Name(names=("adamw", "sgd")))] = "adamw"
    """Update rule."""
    learning_rate: Annotated[float, Rule(Number(low=0, above_low=True, high=1000))] = 0.01
    """Peak learning rate."""
    weight_decay: Annotated[float, Rule(Number(low=0, high=1000))] = 0.01
    """Pull of the weights towards zero, per unit of learning rate."""
    momentum: Annotated[float, Rule(Number(low=0, high=1, below_high=True))] = 0.9
    """Only for sgd."""
    nesterov: Annotated[bool, Rule(Flag())] = True
    """Whether the momentum is Nesterov's; only for sgd."""
    batch_size: Annotated[int, Rule(COUNT)] = 64
    """Images per update."""
    schedule: Annotated[str, Rule(Name(names=("one-cycle", "cosine", "constant", "step")))] = "one-cycle"
    """Course of the learning rate."""
    epochs: Annotated[int, Rule(COUNT)] = 60
    """Passes over `train`."""
    augment: Annotated[bool, Rule(Flag())] = True
    """Whether the data set's crops and flips are used (S3)."""
    clip: Annotated[float | None, Rule(Number(low=0, above_low=True, high=10**6, nullable=True))] = None
    """Largest norm of the gradient; null = no limit."""


@final
class Train(Training):
    """How students are trained."""

    adversarial: StudentAdversarial | None = None
    """Adversarial training; null = none."""


@final
class TeacherTrain(Training):
    """How a teacher is trained; its own defaults, not those of the students' `train`."""

    epochs: Annotated[int, Rule(COUNT)] = 30
    """Passes over `train`."""
    adversarial: Adversarial | None = None
    """Adversarial training; null = none."""


_RESNEXT = ("resnext", "give arch: preact-resnext29", "preact-resnext29")
_LATER_TEACHERS = tuple(name for name, _, _ in _damped_names())


@final
class Teacher(Section):
    """One network to learn from: trained here, or loaded."""

    arch: Annotated[str, Rule(Name(names=TEACHERS, later=_LATER_TEACHERS, elsewhere=(_RESNEXT,)))] = "resnet20"
    """A ResNet."""
    checkpoint: Annotated[str | None, Rule(Text(nullable=True))] = None
    """State dict to load instead of training."""
    trained_on: Annotated[str | None, Rule(Text(nullable=True))] = None
    """What the checkpoint was trained on (S4); `unknown` where nothing is said."""
    seed: Annotated[int | None, Rule(Number(low=0, high=2**32 - 1, whole=True, nullable=True))] = None
    """Seed of its training; the study's by default (filled in by the reader, never None afterwards)."""
    train: TeacherTrain = TeacherTrain()
    """How it is trained."""
