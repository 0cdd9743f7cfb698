"""What the JSON documents of a study must be like, as far as somebody counts on it.

A folder of results may come from somebody else, or from a disk that lies. What is not named here may be anything;
what is named and of another kind is told with its place, so that nobody stumbles over it later.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import AfterValidator, Field, StrictBool, StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # the one that pydantic reads before Python 3.12

from study.durable import read_json
from study.errors import EnvironmentFault

_LARGEST = 1e15
"""Small enough to be written in percent."""


def _scalar(value: object) -> object:
    if isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) <= _LARGEST):
        return value
    raise ValueError("a number, a word, true or false belongs here")


Number = Annotated[float, Field(strict=True, ge=-_LARGEST, le=_LARGEST)]
"""Finite, and not too large."""
Whole = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]
"""Small enough for a table's column."""
Digits = Annotated[str, Field(strict=True, pattern="^[0-9]{1,15}$")]
Trial = Annotated[int, Field(strict=True, ge=0, le=10**7)]
"""Few enough that somebody may count up to it."""
Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Scalar = Annotated[Any, AfterValidator(_scalar)]
Mapped = dict[StrictStr, Any]
Counts = dict[StrictStr, Count]
Shares = dict[StrictStr, Share | None]


class Tally(TypedDict):
    """How many of all images are right."""

    correct: Count
    n: Annotated[Count, Field(ge=1)]


class Robust(TypedDict, total=False):
    """Accuracy under attack at one epsilon."""

    epsilon: Required[Number]
    robust_accuracy: Share | None
    survivors: Count | None
    n: Count | None


def _of_all(entry: Robust) -> Robust:
    survivors, n = entry.get("survivors"), entry.get("n")
    if survivors is None or (n is not None and survivors <= n):
        return entry
    raise ValueError("survivors are some of n images")


class Metrics(TypedDict, total=False):
    """Of an outcome; which are there is the job's business."""

    arch: StrictStr | None
    model: StrictStr
    kind: StrictStr
    part: StrictStr
    trial: Whole | None
    accuracy: Share | None
    nfe: Number | None
    n: Count | None
    n_adversarial: Count | None
    classes: Count
    clean: Tally
    parameter_count: Count | None
    steps: Count | None
    evaluations: Count | None
    solve_failures: Count | None
    shard: Count
    shards: Count | None
    epsilon: Number | None
    epsilons: list[Number]
    entropy: dict[StrictStr, Number]
    robust: list[Annotated[Robust, AfterValidator(_of_all)]]
    attacks: list[Mapped]
    infeasible: list[StrictStr] | None
    pool: Mapped
    proxy: Mapped
    sources: Counts


class Values(TypedDict, total=False):
    """Of a trial; the second is missing where nobody asked for it."""

    accuracy: Required[Share | None]
    adversarial_accuracy: Share | None


class Ended(TypedDict, total=False):
    """How a job ended."""

    state: Required[Literal["COMPLETE", "PRUNED", "FAIL"]]
    reason: StrictStr | None
    values: Values | None
    seconds: Number | None


class Outcome(Ended, total=False):
    """`outcome.json` of a job."""

    metrics: Metrics | None


class Measured(TypedDict):
    """`outcome.json` of a trial that is complete."""

    values: Values


class ClassicalMetrics(TypedDict, total=False):
    """Of classifiers that are no networks, by split."""

    n: Counts
    svm: Shares
    nearest_neighbour: Shares


class Classical(Ended, total=False):
    """`outcome.json` of those."""

    metrics: ClassicalMetrics | None


class Distill(TypedDict, total=False):
    """How a student learned from its teacher."""

    method: StrictStr | None
    alpha: Number | None


class Settings(TypedDict, total=False):
    """All settings of a trial by section, the sampled point laid over them."""

    student: Mapped
    distill: Distill
    train: Mapped
    evaluate: Mapped
    attack: Mapped


class Config(TypedDict, total=False):
    """`config.json` of a job."""

    kind: StrictStr
    number: Whole
    seed: Seed | None
    params: dict[StrictStr, Scalar]
    settings: Settings
    seen: list[Trial | tuple[Trial, Trial]]
    teachers: list[StrictStr]


class Training(TypedDict):
    """How long a student is trained."""

    epochs: Count


class TrialSettings(TypedDict):
    """All settings of a trial."""

    student: Mapped
    distill: Distill
    train: Training


class TrialConfig(TypedDict):
    """`config.json` of a trial that a launch goes on with, or takes over from another study."""

    params: dict[StrictStr, Scalar]
    settings: TrialSettings
    seen: list[Trial | tuple[Trial, Trial]]
    teachers: list[StrictStr]


class Forked(TypedDict):
    """What a study took over from another one."""

    study: StrictStr
    name: StrictStr
    trials: list[Whole]
    left_out: Mapped


class Declared(TypedDict, total=False):
    """A parameter of a space."""

    kind: StrictStr
    log: StrictBool
    choices: list[Scalar] | None


class Budget(TypedDict, total=False):
    """Of a space."""

    trials: Whole | None


class Named(TypedDict, total=False):
    """A section that is known by a name."""

    name: StrictStr


class Contrast(TypedDict, total=False):
    """What a space compares above all."""

    levels: list[Scalar]
    where: dict[StrictStr, Scalar]


class Stopping(TypedDict, total=False):
    """Which trials end early."""

    spared: Share


class StoredSpace(TypedDict, total=False):
    """The resolved space, by section."""

    study: Mapped
    data: Named
    space: dict[StrictStr, Declared]
    budget: Budget
    sampler: Named
    early_stopping: Stopping
    contrast: Contrast | None
    robustness: Mapped


class Identity(TypedDict, total=False):
    """`study.json`."""

    id: StrictStr
    name: StrictStr
    split_hash: StrictStr
    split_sizes: Counts
    epsilon: Number | None
    epsilon_grids: dict[StrictStr, list[Number]]
    reference_point: tuple[Number, Number]
    space: StoredSpace
    provenance: Mapped
    teachers: list[StrictStr]
    generation: Whole | None
    forked_from: Forked


class Selection(TypedDict):
    """`front/selection.json`."""

    front: list[Whole]
    attacked: list[Whole]
    doubted: NotRequired[dict[Digits, list[StrictStr]]]


class Specification(TypedDict, total=False):
    """`robustness/specification.json`."""

    models: dict[StrictStr, StrictStr]
    parts: dict[StrictStr, Whole]


class WarmPoint(TypedDict):
    """A trial of another study."""

    params: Mapped


class WarmStart(TypedDict):
    """`warm_start.json`."""

    points: list[WarmPoint]


class AtRung(TypedDict):
    """What a student was worth at a rung."""

    accuracy: Share
    adversarial_accuracy: Share


class Rung(TypedDict, total=False):
    """`rung-000004.json`."""

    epoch: Required[Count]
    values: Required[AtRung]
    stop: Required[StrictBool]
    condemned: Required[StrictBool]
    spared: Required[StrictBool]
    distrusted: Required[StrictStr | None]
    share: Share
    fault: StrictStr | None


_KINDS = {
    "outcome.json": TypeAdapter(Outcome),
    "config.json": TypeAdapter(Config),
    "study.json": TypeAdapter(Identity),
    "selection.json": TypeAdapter(Selection),
    "specification.json": TypeAdapter(Specification),
    "warm_start.json": TypeAdapter(WarmStart),
}
_CLASSICAL = TypeAdapter(Classical)
_RUNG = TypeAdapter(Rung)
_TRIAL = TypeAdapter(TrialConfig)
_MEASURED = TypeAdapter(Measured)


def read_document(path: Path) -> dict[str, Any] | None:
    """Read a JSON document that is like the others of its name; those of names not known here may be anything.

    Returns:
        The document as it is, or None where there is no such file.

    Raises:
        EnvironmentFault: If the file is damaged, naming the first key that is missing or is of another kind.
    """
    document, kind = read_json(path), _KINDS.get(path.name)
    if path.match("rung-*.json"):
        kind = _RUNG
    if document is None or kind is None:
        return document
    if path.name == "outcome.json" and document.get("kind") == "classical":
        kind = _CLASSICAL
    _check(path, document, kind)
    return document


def read_trial(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Read config and outcome of a trial with all that a launch counts on; whoever only looks at it needs less.

    Args:
        folder: Of the trial.

    Returns:
        Each as it is, or None where there is no such file.

    Raises:
        EnvironmentFault: As `read_document`.
    """
    at_config, at_outcome = folder / "config.json", folder / "outcome.json"
    config, outcome = read_document(at_config), read_document(at_outcome)
    if config is not None:
        _check(at_config, config, _TRIAL)
    if outcome is not None and outcome["state"] == "COMPLETE":
        _check(at_outcome, outcome, _MEASURED)
    return config, outcome


def _check(path: Path, document: Mapped, kind: TypeAdapter[Any]) -> None:
    try:
        kind.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EnvironmentFault(f"{path} is damaged at {place!a}: {first['msg']}. Restore it or delete it.") from error
