"""What must hold of every search space, however broken: the property that fuzzing looks for a counter-example of."""

import json
import random
import re
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.errors import SpaceError
from study.points import walk
from study.space.parameters import Parameter
from study.space.reader import read_space
from study.space.settings import Space, differences
from tests.fuzzed_spaces import Fuzzed, fuzzed

LONGEST_S = 2.0
"""Processor time that one file may take."""
POINTS = 3
"""Points of a space that are tried."""


@dataclass(frozen=True)
class Verdict:
    """What became of one case."""

    seed: int
    kind: str
    """space or refused; of what breaks the property, the fault's kind."""
    fault: str
    """Empty where all is well."""
    seconds: float
    """Processor time of reading it once."""


def judged(seed: int) -> Verdict:
    """Read the file of a seed and say whether the property holds."""
    case = fuzzed(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.yaml"
        path.write_bytes(case.content)
        began = time.process_time()
        try:
            space = read_space(path, case.overrides)
            seconds = time.process_time() - began
            kind, fault = "space", _wrong_with(space, path, case)
        except SpaceError as error:
            seconds = time.process_time() - began
            kind, fault = "refused", unlocated(str(error), str(path)) or ""
        except Exception:  # noqa: BLE001 - just this is looked for
            return Verdict(seed, "traceback", traceback.format_exc(limit=-4), time.process_time() - began)
    if not fault and seconds > LONGEST_S:
        fault = f"took {seconds:.1f} s"
    return Verdict(seed, kind if not fault else "broken", fault, seconds)


def unlocated(said: str, path: str) -> str | None:
    """Return the first problem of a message that has no place; None where each has one."""
    place = re.compile(rf"({re.escape(path)}:\d+:\d+ |override #\d+ ).", re.DOTALL)
    for problem in said.split("\n\n"):
        if not place.match(problem) and not problem.startswith("and more; these are the first "):
            return problem[:300]
    return None


def _wrong_with(space: Space, path: Path, case: Fuzzed) -> str:
    """Say what is wrong with a space that was read; empty where nothing is."""
    document = space.document()
    json.dumps(document, allow_nan=False)
    again = read_space(path, case.overrides)
    if again.identity() != space.identity() or differences(document, again.document()):
        return "the same file gives another identity when it is read again"
    for name, values in (("anchor", space.anchors), ("point", _points(space, case.seed))):
        for point in values:
            settings = space.settings(point)
            json.dumps(settings, allow_nan=False)
            if not settings["student"] or "seed" not in settings:
                return f"the settings of an {name} are not whole: {settings}"
    json.dumps(space.smoke().document(), allow_nan=False)
    return ""


def _points(space: Space, seed: int) -> list[dict[str, Any]]:
    dice = random.Random(seed)
    known = {parameter.name: parameter for parameter in space.parameters}
    return [walk(space.parameters, lambda each: _draw(known[each.name], dice)) for _ in range(POINTS)]


def _draw(parameter: Parameter, dice: random.Random) -> Any:
    if parameter.kind == "choice":
        return dice.choice(parameter.choices)
    assert parameter.low is not None, "a range has two ends"
    assert parameter.high is not None, "a range has two ends"
    share = dice.choice((0.0, 1.0, dice.random()))
    value = parameter.low + share * (parameter.high - parameter.low)
    if parameter.kind == "int" or parameter.step:
        step = parameter.step or 1
        value = parameter.low + round((value - parameter.low) / step) * step
    value = min(max(value, parameter.low), parameter.high)
    return int(value) if parameter.kind == "int" else float(value)
