"""What three papers are known to claim, as data: their rows, and where the numbers that we do not know stand.

Says nothing of a run; `study.paper_table` lays a run beside it. The gains of Chu et al. are the only values of the
papers' result tables that are known to us, so they are the only ones here: every other row has no value, and names the
place to read it. Loads nothing, so that the command line can name the papers at once.
"""

from dataclasses import dataclass
from typing import final

OTHER = "other"
"""A row for runs on data that the paper does not have."""


@final
@dataclass(frozen=True)
class Known:
    """One value that the paper states."""

    version: str
    """Which version of the paper states it."""
    percent: float
    """As printed there, in per cent."""


@final
@dataclass(frozen=True)
class Row:
    """One quantity of a paper."""

    quantity: str
    """What is compared, in words."""
    measure: str
    """Name of the function in `study.paper_values.MEASURES` that gives this run's values."""
    place: str
    """Where in the paper it stands, as far as known to us."""
    run: str
    """What to launch to measure it: file, and overrides."""
    known: tuple[Known, ...] = ()
    """The paper's values; empty = not known to us."""
    note: str = ""
    """What a known value leaves open, or how the measured one differs from the paper's."""
    data: str | None = None
    """Data set (a name of `data.name`) that the row is about; None = whichever the run has; OTHER = any not listed."""


@final
@dataclass(frozen=True)
class Paper:
    """A paper, its claims in our words, and its rows."""

    key: str
    """Name on the command line."""
    citation: str
    """Key in docs/references.bib."""
    authors: str
    title: str
    published: str
    arxiv: str
    doi: str | None
    """None where no DOI is known to us."""
    data: tuple[str, ...]
    """Data sets of the paper: names of `data.name`, or plain names where the project has none."""
    claims: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def address(self) -> str:
        """Where the paper is found, for a cell that holds no number."""
        return f"arXiv:{self.arxiv}, doi:{self.doi}" if self.doi else f"arXiv:{self.arxiv}, {self.published}"


_CHU_RUN = "search_spaces/chu-horizon.yaml"
_INNET_RUN = "search_spaces/damped.yaml"
_FEED_RUN = "search_spaces/feed-original.yaml"
_UNSTATED = "points or relative per cent: not stated, so both are given here"
_LEGACY = "projected around its random start: reaches 2*epsilon, not comparable with PGD"


def _gain(title: str, data: str, *known: Known) -> Row:
    return Row(
        quantity=f"{title}: accuracy gained by distillation into a Neural ODE",
        measure="gain_of_teaching",
        place="abstract; tables of accuracy",
        run=f"{_CHU_RUN} data.name={data}",
        known=known,
        note=_UNSTATED,
        data=data,
    )


CHU2022 = Paper(
    key="chu2022",
    citation="chu2022improving",
    authors="Chu, Wei, Lu, Zhao",
    title="Improving Neural ODEs via Knowledge Distillation",
    published="IET Computer Vision 18(2):304-314",
    arxiv="2203.05103",
    doi="10.1049/cvi2.12248",
    data=("svhn", "cifar10", "cifar100", "food101"),
    claims=(
        "One-hot labels tell a Neural ODE too little; a ResNet teacher's outputs tell it more, and accuracy rises.",
        "Distillation, and with it a longer time horizon, makes Neural ODEs more robust.",
    ),
    rows=(
        _gain("SVHN", "svhn", Known("arXiv", 5), Known("IET", 5.17)),
        _gain("CIFAR-10", "cifar10", Known("arXiv", 24), Known("IET", 24.75)),
        _gain("CIFAR-100", "cifar100", Known("IET", 7.20)),
        _gain("Food-101", "food101", Known("IET", 8.99)),
        Row(
            quantity="This run's data: accuracy gained by distillation",
            measure="gain_of_teaching",
            place="no results on this data set that we know of",
            run=_CHU_RUN,
            data=OTHER,
        ),
        Row("Accuracy gained, by teacher", "gain_by_teacher", "tables of accuracy", _CHU_RUN),
        Row("Accuracy of the teachers", "teacher_accuracy", "tables of accuracy", _CHU_RUN),
        Row("Accuracy by time horizon", "accuracy_by_horizon", "results on the time horizon", _CHU_RUN),
        Row("Robust accuracy gained by distillation", "robust_gain", "results on robustness", _CHU_RUN),
        Row(
            quantity="Robust accuracy by time horizon",
            measure="robust_by_horizon",
            place="results on robustness",
            run=_CHU_RUN,
            note="worst case over all attacks of the run; the paper's attacks and epsilons are not known to us",
        ),
    ),
)


def _noise(kind: str) -> Row:
    return Row(
        quantity=f"Accuracy under {kind} noise",
        measure=f"noise:{kind}",
        place="tables of accuracy under noise",
        run=_INNET_RUN,
        note="mean over severities; normalised with training statistics, where the authors' code takes the noisy set's",
    )


def _attack(title: str, name: str, note: str = "") -> Row:
    return Row(f"Accuracy under {title}", f"attack:{name}", "tables of adversarial accuracy", _INNET_RUN, note=note)


INNET2020 = Paper(
    key="innet2020",
    citation="yang2020interpolation",
    authors="Yang, Liu, Bao, Shi",
    title="Interpolation between Residual and Non-Residual Networks",
    published="ICML 2020, PMLR 119",
    arxiv="2006.05749",
    doi=None,
    data=("cifar10", "cifar100"),
    claims=(
        "One damping coefficient leads from the residual to the non-residual network.",
        "Damping makes the network more stable in Lyapunov's sense.",
        "Damped ResNets and ResNeXts keep more accuracy under noise and under attacks.",
        "Along the direction of an attack, the loss of damped networks is better behaved.",
    ),
    rows=(
        Row("Accuracy on clean images", "clean_accuracy", "tables of clean accuracy", _INNET_RUN),
        Row("Clean accuracy gained by damping", "gain_of_damping", "tables of clean accuracy", _INNET_RUN),
        *(_noise(kind) for kind in ("impulse", "speckle", "gaussian", "shot")),
        _attack("FGSM", "fgsm"),
        _attack("I-FGSM", "i-fgsm"),
        _attack("PGD", "pgd", "projected around the clean image; the published attack is the next row"),
        _attack("PGD as published", "pgd-legacy", _LEGACY),
        Row("Learned damping", "learned_damping", "figures of the learned coefficients", _INNET_RUN),
        Row(
            quantity="Loss at epsilon along the attack direction, less the loss at the image",
            measure="landscape",
            place="figures of the loss landscape",
            run=_INNET_RUN,
            note="medians over images, in nats",
        ),
    ),
)

FEED2019 = Paper(
    key="feed2019",
    citation="park2020feature",
    authors="Park, Kwak",
    title="FEED: Feature-level Ensemble for Knowledge Distillation",
    published="ECAI 2020, FAIA 325:1411-1418",
    arxiv="1909.10754",
    doi=None,
    data=("cifar100", "imagenet"),
    claims=(
        "Several teachers' feature maps, each through a non-linear transformation of its own, teach a student more "
        "than other ways to distil feature maps.",
        "Nothing is added at test time: no parameters, no computation.",
        "Taught in sequence instead, generation after generation, students improve too.",
        "How well a network's features can be turned back into images hints at why.",
    ),
    rows=(
        Row("Error by method", "error", "tables of errors on CIFAR-100", _FEED_RUN),
        Row(
            quantity="ImageNet: top-1 error by method",
            measure="error",
            place="table of errors on ImageNet",
            run=f"{_FEED_RUN} data.name=folder data.root=FOLDER",
            data="imagenet",
        ),
        Row(
            "Accuracy gained over a student without teacher",
            "gain_of_teaching",
            "tables of errors on CIFAR-100",
            _FEED_RUN,
        ),
        Row("Error of each teacher", "teacher_error", "tables of errors on CIFAR-100", _FEED_RUN),
        Row("Error of the teachers' ensemble", "ensemble_error", "tables of errors on CIFAR-100", _FEED_RUN),
        Row("Error by generation, in sequence", "error_by_generation", "tables of sequential FEED", _FEED_RUN),
        Row("Parameters at test time", "parameters", "method; nothing is added at test time", _FEED_RUN),
        Row(
            quantity="Reconstruction error (L1)",
            measure="reconstruction",
            place="figures of reconstruction errors",
            run="search_spaces/feed.yaml",
        ),
    ),
)

PAPERS: dict[str, Paper] = {paper.key: paper for paper in (CHU2022, INNET2020, FEED2019)}
"""The papers by their name on the command line."""
