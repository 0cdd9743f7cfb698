"""Whether the checks themselves work: what they said about networks broken on purpose, and about healthy ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from study.attacked import outcomes_under, tolerant
from study.checks.expected import NEGATIVE, POSITIVE
from study.checks.reading import Checked, read_checked
from study.durable import read_json
from study.ledger import Ledger

FOLDER = "controls/checks"
SPECIFICATION = "controls/specification.json"


@dataclass(frozen=True)
class Control:
    """One control and what the checks said."""

    name: str
    checked: Checked

    @property
    def is_broken(self) -> bool:
        """Whether it is broken on purpose."""
        return self.name in POSITIVE

    @property
    def expected(self) -> str | None:
        """The check that must speak up; None for healthy networks."""
        return POSITIVE[self.name][0] if self.is_broken else None

    @property
    def raised(self) -> tuple[str, ...]:
        """Checks that warned or failed."""
        return tuple(each.measured.id for each in self.checked.judged if each.verdict in ("warn", "fail"))

    @property
    def passed(self) -> bool:
        """Whether the checks told this network rightly: the expected one spoke up, or none at all for a healthy one."""
        return self.expected in self.raised if self.is_broken else not self.raised

    def sentence(self) -> str:
        """Say what went wrong, for a control that did not pass."""
        if self.is_broken:
            return f"{self.expected} stays silent about the control {self.name}, which is broken on purpose"
        return f"{', '.join(self.raised)} speaks up about the control {self.name}, which is healthy"


def read_controls(ledger: Ledger, problems: list[str]) -> list[Control]:
    """Read the controls in force, broken ones first.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each control that could not be made or read.
    """
    in_force = (tolerant(lambda: read_json(ledger.root / SPECIFICATION), problems) or {}).get("specification")
    found: list[Control] = []
    for key, outcome in outcomes_under(ledger, FOLDER, problems):
        metrics = outcome.get("metrics") or {}
        if in_force is not None and not key.endswith(f"-{in_force}"):
            continue
        if outcome.get("state") != "COMPLETE":
            problems.append(f"the control {key.rpartition('/')[2]} was not checked: {outcome.get('reason')}")
        elif metrics.get("specification") == in_force:
            checked = read_checked(ledger.folder(key), metrics, None, problems)
            found += [Control(str(metrics["model"]), each) for each in checked.values()]
    order = [*POSITIVE, *NEGATIVE]
    return sorted((each for each in found if each.name in order), key=lambda each: order.index(each.name))


def failures(controls: Sequence[Control]) -> list[str]:
    """Say which checks failed their own test; empty where all did what they must."""
    return [each.sentence() for each in controls if not each.passed]
