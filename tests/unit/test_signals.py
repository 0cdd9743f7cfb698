"""What is said at a signal, also where the writing itself goes wrong, and whether a process still ends as it should."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from study.engine.signals import Farewell

ROOT = Path(__file__).parents[2]


class Refusing(StringIO):
    """Fails its first write, as a stream does that a signal interrupts amid a write of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._errors = [error]

    def write(self, text: str) -> int:
        if self._errors:
            raise self._errors.pop()
        return super().write(text)


@pytest.mark.parametrize("error", [RuntimeError("reentrant call inside"), BrokenPipeError("nobody reads")])
def test_a_farewell_that_could_not_be_written_is_said_by_the_next_call_and_only_once(error: Exception) -> None:
    stream, farewell = Refusing(error), Farewell("it ends", "go on")
    farewell.say(stream)
    assert not stream.getvalue()
    farewell.say(stream)
    farewell.say(stream)
    assert stream.getvalue().count("Continue with: go on\n") == 1


LEAVE = """
import signal
from study.engine.signals import leave
leave(signal.SIGINT)
"""
LAUNCH = """
import sys, types
from rich.console import Console
from study import launch
from study.errors import Interrupted

def drive(order):
    Console().print("results " * 10_000)
    print("a last line, left in the buffer")
    print("to the other stream", file=sys.stderr)
    {end}

sys.modules["study.driver"] = types.SimpleNamespace(drive=drive)  # the real one takes seconds to import
sys.exit(launch.main(["search_spaces/kd.yaml"]))
"""


def unread(program: str) -> int:
    """Run a program whose two streams go into one pipe that nobody reads; return its exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=ROOT, stdout=writing, stderr=writing, check=False, timeout=100).returncode
    finally:
        os.close(writing)


def test_a_second_signal_ends_a_process_that_nobody_reads() -> None:
    assert unread(LEAVE) == 130


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("return 0", 0),
        ("raise Interrupted('stopped', 143)", 143),
        ("raise Interrupted('stopped twice', 130, is_impatient=True)", 130),
        ("raise KeyboardInterrupt", 130),
        ("raise ZeroDivisionError", 70),
    ],
)
def test_a_launch_that_nobody_reads_ends_with_its_own_exit_code(end: str, code: int) -> None:
    assert unread(LAUNCH.format(end=end)) == code


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_launch_whose_streams_are_closed_ends_with_its_own_exit_code(closed: str) -> None:
    command = f'exec "{sys.executable}" -c "$PROGRAM" {closed}'
    environment = {**os.environ, "PROGRAM": LAUNCH.format(end="return 0")}
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, check=False, timeout=100)
    assert done.returncode == 0
