"""The sections that say what is measured: the search's attacks, the robustness stage, and the probes."""

from typing import Annotated, Literal, final

from pydantic import PlainValidator as Rule

from nodekd.attacks.catalog import NORMS, TIERS
from nodekd.ode.solver_text import parse_solver
from study.space.network_sections import COUNT
from study.space.quantities import Flag, Listed, Name, Number, Numbers, RefusedError, Text, got
from study.space.section import Section

NOISES = ("gaussian", "uniform", "shot", "impulse", "speckle", "blur", "contrast")
"""Noises that images can be given."""

AUTO = "auto"
"""Stands for an epsilon that is settled by a pilot after the teachers; see `study.epsilons`."""

_EPSILON = Number(low=0, above_low=True, high=1000, words=(AUTO,))
_IMAGES = Number(low=1, high=10**8, whole=True, words=("all",))
_NORM = Name(names=tuple(NORMS))


def _solver_text(value: object) -> str:
    """Return a solver written as one word, such as `rk4:16`, or raise `RefusedError`."""
    if not isinstance(value, str):
        raise RefusedError(f"must be solvers such as rk4:16 or dopri5:1e-5, but got {got(value)}.")
    try:
        parse_solver(value, horizon=1.0)
    except ValueError as error:
        raise RefusedError(f"cannot be read: {error}") from error
    return value


@final
class Objectives(Section):
    """What the search maximises; the two are fixed in this version."""

    accuracy: Literal["maximize"] = "maximize"
    adversarial_accuracy: Literal["maximize"] = "maximize"


@final
class Search(Section):
    """How adversarial_accuracy is measured (S16)."""

    epsilon: Annotated[float | Literal["auto"] | None, Rule(_EPSILON)] = None
    """Headline radius; the data set's by default (filled in by the reader). Stages ask `Context.epsilon` instead."""
    norm: Annotated[str, Rule(_NORM)] = "linf"
    """Norm of the perturbation."""
    images: Annotated[int | Literal["all"], Rule(_IMAGES)] = 256
    """Images of val_search that are attacked."""


@final
class Robustness(Section):
    """The attacks on `test` at the end."""

    tier: Annotated[str, Rule(Name(names=TIERS))] = "standard"
    """How thorough."""
    norm: Annotated[str, Rule(_NORM)] = "linf"
    """Norm of the perturbation."""
    epsilons: Annotated[tuple[float | Literal["auto"], ...], Rule(Numbers(each=_EPSILON))] = ()
    """Radii, ascending after `auto`; the data set's by default (filled in by the reader, never empty afterwards).

    Stages ask `Context.epsilons` instead.
    """
    images: Annotated[int | Literal["all"], Rule(_IMAGES)] = "all"
    """Test images that are attacked."""
    select: Annotated[str, Rule(Name(names=("front", "all")))] = "front"
    """Which students are attacked: those chosen on val_front, or every completed trial."""
    max_students: Annotated[int, Rule(Number(low=1, high=10**4, whole=True))] = 8
    """Students that are attacked at most."""
    twins: Annotated[bool, Rule(Flag())] = True
    """Whether each of them is trained again without its teacher (S8)."""
    undistilled_search: Annotated[bool, Rule(Flag())] = False
    """Whether an equally long search without distillation stands beside the students' own (S8)."""
    shard: Annotated[int, Rule(COUNT)] = 512
    """Images per job."""
    check_images: Annotated[int | Literal["all"], Rule(_IMAGES)] = 256
    """Test images on which every attack runs alone, so that attacks can be compared (S20)."""
    controls: Annotated[bool, Rule(Flag())] = True
    """Whether the checks are tried on networks that are broken on purpose, and on healthy ones (S24)."""
    replicates: Annotated[int, Rule(Number(low=0, high=1000, whole=True))] = 0
    """New seeds under which each student of the front is trained and attacked again (S28)."""
    random_students: Annotated[int, Rule(Number(low=0, high=10**4, whole=True))] = 6
    """Students that are not on the front and are attacked to see whether the search ordered them rightly (S19)."""
    racing: Annotated[bool, Rule(Flag())] = True
    """Whether candidates on val_front that are surely dominated are not measured to the end."""
    cube: Annotated[tuple[str, ...], Rule(Listed(each=_solver_text, example="[euler:16, rk4:16, dopri5:1e-3]"))] = ()
    """Solvers under each of which the reference point is trained, attacked and judged."""


@final
class Probes(Section):
    """What is looked at in the attacked students, their twins and their teachers, beside the attacks."""

    split: Annotated[str, Rule(Name(names=("test", "val_front")))] = "test"
    """Images that are looked at."""
    images: Annotated[int | Literal["all"], Rule(_IMAGES)] = 256
    """How many of them."""
    calibration: Annotated[bool, Rule(Flag())] = False
    """Expected calibration error and NLL."""
    trajectory: Annotated[bool, Rule(Flag())] = False
    """Path length, growth, damping and gain of ODE students."""
    stretch: Annotated[bool, Rule(Flag())] = False
    """Largest singular value of the flow of ODE students."""
    test_solvers: Annotated[tuple[str, ...], Rule(Listed(each=_solver_text, example="[rk4:16, dopri5:1e-5]"))] = ()
    """Solvers under which ODE students are scored again: `fixed:evaluations`, `adaptive:rtol`."""
    noise: Annotated[tuple[str, ...], Rule(Listed(each=Name(names=NOISES), example="[gaussian, shot]"))] = ()
    """Corruption-like noises under which networks are scored again."""
    draws: Annotated[int | None, Rule(Number(low=1, high=1000, whole=True, nullable=True))] = None
    """Draws of each noise for every image; null = 5. Blur and contrast draw nothing and are measured once."""
    severities: Annotated[
        tuple[int, ...], Rule(Numbers(each=Number(low=1, high=5, whole=True), example="[1, 3, 5]"))
    ] = (1, 2, 3, 4, 5)
    """How strong, 1 to 5."""
    published_attacks: Annotated[bool, Rule(Flag())] = False
    """FGSM, I-FGSM and PGD, each alone."""
    legacy: Annotated[bool, Rule(Flag())] = False
    """Also the published PGD, projected around its random start: it reaches 2 * epsilon."""
    corruption_root: Annotated[str | None, Rule(Text(nullable=True))] = None
    """Folder with the .npy files of CIFAR-10-C or CIFAR-100-C, or, for `folder`, in ImageNet-C's layout; null = noise
    of our own."""
    landscape: Annotated[bool, Rule(Flag())] = False
    """Loss and margin along the attack's direction."""
    reconstruction: Annotated[bool, Rule(Flag())] = False
    """How well images are rebuilt from the last feature map."""
    teacher: Annotated[bool, Rule(Flag())] = False
    """Likeness of student and teacher, on clean and on attacked images."""
