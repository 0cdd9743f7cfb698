"""Whether the checks themselves work: what they said about networks broken on purpose, and about healthy ones."""

from dataclasses import dataclass

from study.attacked import outcomes_under, tolerant
from study.checks.expected import NEGATIVE, POSITIVE, ROBUST
from study.checks.reading import Checked, read_checked
from study.ledger import Ledger
from study.statistics import wilson

FOLDER = "controls/checks"
SPECIFICATION = "controls/specification.json"
CLEARLY = 0.05
"""Robust accuracy above which the interval of the robust control must lie (S24)."""


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
    def expected(self) -> tuple[str, ...]:
        """The checks that must speak up; none for healthy networks."""
        return POSITIVE.get(self.name, ())

    @property
    def raised(self) -> tuple[str, ...]:
        """Checks that warned or failed."""
        return tuple(each.measured.id for each in self.checked.judged if each.verdict in ("warn", "fail"))

    @property
    def silent(self) -> tuple[str, ...]:
        """Checks that should have spoken up and did not."""
        return tuple(each for each in self.expected if each not in self.raised)

    @property
    def is_mute(self) -> bool:
        """Whether silence says nothing: too few images of a healthy network are right, or of a robust one survive."""
        if self.checked.trust.word == "unchecked":
            return True
        right = self.checked.diagnosis.correct
        left = int((right & ~self.checked.broken).sum())
        return self.name == ROBUST and wilson(left, len(right)).low <= CLEARLY

    @property
    def passed(self) -> bool:
        """Whether the checks told this network rightly: the expected ones spoke up, or none about a healthy one."""
        return not self.silent if self.is_broken else not self.raised and not self.is_mute

    def sentence(self) -> str:
        """Say what went wrong, for a control that did not pass."""
        if self.is_broken:
            stay = "stays" if len(self.silent) == 1 else "stay"
            return f"{', '.join(self.silent)} {stay} silent about the control {self.name}, which is broken on purpose"
        if self.raised:
            return f"{', '.join(self.raised)} speaks up about the control {self.name}, which is healthy"
        return f"too few images of the control {self.name} are right, or stay so under attack, for silence to count"


@dataclass(frozen=True)
class Controls:
    """The checks on trial, as far as they got."""

    found: tuple[Control, ...] = ()
    """Broken ones first."""
    are_wanted: bool = False
    """Whether the study asks for them."""

    @property
    def missing(self) -> list[str]:
        """Names of those that should be there and are not."""
        names = {each.name for each in self.found}
        return [name for name in (*POSITIVE, *NEGATIVE) if self.are_wanted and name not in names]

    @property
    def faults(self) -> list[str]:
        """Which checks failed their own test, and which were not put to it; empty where all did what they must."""
        failed = [each.sentence() for each in self.found if not each.passed]
        return list(dict.fromkeys(failed)) + [f"the control {name} is missing" for name in self.missing]


def read_controls(ledger: Ledger, problems: list[str]) -> Controls:
    """Read the controls in force.

    Args:
        ledger: The study's files.
        problems: Gets a sentence for each control that could not be made or read.
    """
    specification = tolerant(lambda: ledger.document(SPECIFICATION), problems)
    in_force = (specification or {}).get("specification")
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
    known = sorted((each for each in found if each.name in order), key=lambda each: order.index(each.name))
    return Controls(tuple(known), specification is not None)
