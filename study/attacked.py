"""What the robustness stage has found out about each network: its survivor bits, and whether they may be believed.

Derived from the files of the attacks and checks that are in force; nothing is stored that follows from them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from study.checks.reading import Checked, read_checked
from study.checks.verdicts import Trust, trust
from study.errors import EnvironmentFault
from study.ledger import Ledger
from study.survivors import Survivors, joined, read_survivors

SPECIFICATION = "robustness/specification.json"
"""Which attacks, checks and pool are in force; what was found under earlier ones stays on disk and is not shown."""

RECORD = "-record"
"""How the keys of jobs end that keep no bits, see `study.records`."""
CHECKED = "checks"
"""Name of the column for images that the checks' attacks broke."""
_CASCADE, _TRANSFER, _ADAPTIVE, _CHECKS = "cascade", "transfer", "adaptive", "checks"
_PARTS = (_CASCADE, _TRANSFER, _ADAPTIVE)
Shard = tuple[Path, dict[str, Any]]


@dataclass(frozen=True)
class Attacked:
    """All networks that were attacked on test, by model."""

    survivors: dict[str, Survivors]
    """Bits over all attacks: the pool's, later ones and those of the checks included."""
    checked: dict[str, dict[float, Checked]]
    """Per epsilon what the checks say; a network without checks is absent."""
    incomplete: dict[str, list[str]] = field(default_factory=dict)
    """Per model the parts of which a shard is missing or cannot be read, though the specification promises it."""

    def checks_of(self, model: str, epsilon: float) -> Checked | None:
        """Return the checks of a model at an epsilon; None where there are none."""
        found = self.checked.get(model, {})
        return next((each for level, each in found.items() if abs(level - epsilon) <= 1e-9 * max(1.0, epsilon)), None)

    def trust_of(self, model: str, epsilon: float) -> Trust:
        """Return the verdict on a robust accuracy; `unchecked` where nothing was checked.

        A number without all its attacks and checks is an upper bound like one that a check calls unreliable.
        """
        found = self._said(model, epsilon)
        lacking = self.incomplete.get(model)
        if not lacking:
            return found
        reasons = (f"not all was run: {', '.join(lacking)} missing", *found.reasons)
        return Trust("unreliable", reasons)

    def _said(self, model: str, epsilon: float) -> Trust:
        checked = self.checks_of(model, epsilon)
        return checked.trust if checked is not None else trust(())

    def is_upper_bound(self, model: str, epsilon: float) -> bool:
        """Tell whether a robust accuracy may be far too high (S25)."""
        return self.trust_of(model, epsilon).word == "unreliable"

    def is_doubted(self, model: str) -> bool:
        """Tell whether a number of a model is unreliable, and no believable one of another model dominates it (S25)."""
        own = self.survivors.get(model)
        if own is None:
            return False
        return any(
            self._said(model, epsilon).word == "unreliable" and not self._is_dominated(own, epsilon)
            for epsilon in own.epsilons
        )

    def _is_dominated(self, own: Survivors, epsilon: float) -> bool:
        """Compare with believable students; even an upper bound that is dominated is dominated surely.

        The undistilled baseline has a front of its own, on which its own networks stand.
        """
        front = "undistilled" if own.kind == "undistilled" else "student"
        clean, robust = own.clean_correct.mean(), own.robust(epsilon).mean()
        others = [
            other
            for name, other in self.survivors.items()
            if name != own.model and other.kind == front and other.attacked_at(epsilon)
            if not self.is_upper_bound(name, epsilon)
        ]
        return any(other.clean_correct.mean() >= clean and other.robust(epsilon).mean() > robust for other in others)


def read_attacked(ledger: Ledger, problems: list[str], *, adaptive: bool = True) -> Attacked:
    """Read everything that is in force.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each thing that could not be read.
        adaptive: Whether what the adaptive tier broke counts; it does, but for the question whom to give that tier.
    """
    in_force = tolerant(lambda: ledger.document(SPECIFICATION), problems) or {}
    found = _shards(ledger, in_force, problems)
    wanted = [part for part in _PARTS if adaptive or part != _ADAPTIVE]
    read = {name: _read(parts, wanted, problems) for name, parts in found.items()}
    roles: Mapping[str, str] = in_force.get("models") or {}
    survivors = {
        name: replace(bits, model=name, kind=roles.get(name, bits.kind))
        for name, parts in read.items()
        if (bits := _joined(name, parts, problems)) is not None
    }
    checked = {
        name: read_checked(*parts[_CHECKS][0], survivors.get(name), problems)
        for name, parts in found.items()
        if parts.get(_CHECKS)
    }
    checked = {name: each for name, each in checked.items() if each}
    survivors = {name: _with_checks(bits, checked.get(name, {})) for name, bits in survivors.items()}
    return Attacked(survivors, checked, _incomplete(found, read, checked, in_force.get("parts")))


def _shards(ledger: Ledger, in_force: Mapping[str, Any], problems: list[str]) -> dict[str, dict[str, list[Shard]]]:
    """Return by model and part the shards in force; networks that were withdrawn are left out."""
    found: dict[str, dict[str, list[Shard]]] = {}
    for key, outcome in outcomes_under(ledger, "robustness", problems):
        metrics, (_, model, *names) = outcome.get("metrics") or {}, key.split("/")
        if key.endswith(RECORD) or len(names) != 1:
            continue
        (name,) = names
        if outcome.get("state") != "COMPLETE":
            if _is_of(name, in_force):
                problems.append(f"{key} has no bits: {outcome.get('reason')}")
        elif _is_in_force(metrics, in_force) and model in in_force.get("models", (model,)):
            found.setdefault(model, {}).setdefault(metrics.get("part", _CASCADE), []).append(
                (ledger.folder(key), metrics)
            )
    return found


def _is_of(name: str, in_force: Mapping[str, Any]) -> bool:
    """Tell by the last part of a job's key whether it belongs to the specification, checks and pool in force."""
    specification, _, part = name.partition("-")
    if specification != in_force.get("specification", specification):
        return False
    kind, _, rest = part.partition("-")
    of = {_CHECKS: in_force.get("checks"), _TRANSFER: in_force.get("pool"), _ADAPTIVE: in_force.get("pool")}.get(kind)
    return of is None or rest.startswith(of)


def _is_in_force(metrics: Mapping[str, Any], in_force: Mapping[str, Any]) -> bool:
    part = metrics.get("part", _CASCADE)
    specification = in_force.get("checks" if part == _CHECKS else "specification")
    if specification is not None and metrics.get("specification", specification) != specification:
        return False
    pool = in_force.get("pool")
    return part not in (_TRANSFER, _ADAPTIVE) or pool is None or metrics.get("closed_pool") == pool


def _read(found: Mapping[str, Sequence[Shard]], wanted: Sequence[str], problems: list[str]) -> dict[str, Survivors]:
    read: dict[str, Survivors] = {}
    for part in wanted:
        bits, faults = read_survivors(found.get(part, []))
        problems += faults
        if bits is not None:
            read[part] = bits
    return read


def _joined(model: str, read: Mapping[str, Survivors], problems: list[str]) -> Survivors | None:
    if _CASCADE not in read:
        return None
    try:
        return joined(*read.values())
    except ValueError as error:
        problems.append(f"{model}: {error}")
        return read[_CASCADE]


def _with_checks(bits: Survivors, checked: Mapping[float, Checked]) -> Survivors:
    """Count what the checks' own attacks broke, each tried alone on a part of the images: broken is broken."""
    levels = [checked[epsilon] for epsilon in bits.epsilons if epsilon in checked]
    if not levels or len(levels) < len(bits.epsilons):
        return bits
    broken = np.stack([each.broken for each in levels])[:, None]
    attempted = np.broadcast_to(levels[0].diagnosis.correct, broken.shape)
    part = replace(
        bits, columns=(CHECKED,), image_id=levels[0].image_id, broken=broken, attempted=attempted, attacks=(), pool={}
    )
    return joined(bits, part)


def _incomplete(
    found: Mapping[str, Mapping[str, Any]],
    read: Mapping[str, Mapping[str, Survivors]],
    checked: Mapping[str, Any],
    promised: Mapping[str, int] | None,
) -> dict[str, list[str]]:
    """Return the parts that networks lack; a cascade that lacks shards has fewer images, and says so by its n."""
    if promised is None:  # written before promises were: what others have
        usual = {part for parts in found.values() for part in parts} - {_ADAPTIVE}
        lacking = {name: sorted(usual - set(parts)) for name, parts in found.items()}
    else:
        shards = {
            name: {**{part: bits.shards for part, bits in parts.items()}, _CHECKS: int(name in checked)}
            for name, parts in read.items()
        }
        parts = [part for part in promised if part != _CASCADE]
        lacking = {name: [part for part in parts if own.get(part, 0) < promised[part]] for name, own in shards.items()}
    return {name: parts for name, parts in lacking.items() if parts}


def outcomes_under(ledger: Ledger, prefix: str, problems: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the outcomes of all jobs under a prefix, those that can be read."""
    keys = [key for key in keys_under(ledger, prefix) if key != prefix]
    found = [(key, tolerant(lambda key=key: ledger.outcome(key), problems)) for key in keys]
    return [(key, outcome) for key, outcome in found if outcome is not None]


def keys_under(ledger: Ledger, prefix: str) -> list[str]:
    """Return the jobs under a prefix; none where it is a link, which `Ledger.strays` names."""
    try:
        return ledger.keys(prefix)
    except EnvironmentFault:
        return []


def tolerant(read: Callable[[], dict[str, Any] | None], problems: list[str]) -> dict[str, Any] | None:
    """Read a document; what is wrong with it becomes a problem and not an exception."""
    try:
        return read()
    except EnvironmentFault as fault:
        problems.append(str(fault))
        return None
