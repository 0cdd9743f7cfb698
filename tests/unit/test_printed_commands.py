"""Commands that a launch prints can be typed as they stand: they start the interpreter that printed them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from study import driver, launch
from study.order import Order
from tests.made_up_world import KD

FOLDER = Path("results/kd-2")


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[Order]:
    """What the driver is asked for; it does nothing."""
    given: list[Order] = []
    monkeypatch.setattr(driver, "drive", given.append)
    return given


def printed(orders: list[Order], *arguments: str, whole: bool = False) -> list[str]:
    launch.main([str(KD), *arguments])
    return shlex.split(driver.continuing(orders[-1], FOLDER, whole=whole))


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_printed_command_starts_this_interpreter_and_this_program(orders: list[Order], resume: str) -> None:
    words = printed(orders, "--resume", resume, "data.root=it's mine")
    asked = [words[0], "-c", "import sys; print(sys.executable)"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == sys.executable
    helped = subprocess.run([*words, "--help"], cwd=KD.parents[1], capture_output=True, text=True, check=True)
    assert helped.stdout == launch.parser().format_help()
    options = launch.parser().parse_intermixed_args(words[3:])
    assert options.overrides == ["data.root=it's mine"]
    assert options.resume == "auto"
    assert options.output == (FOLDER if resume == "never" else None)


@pytest.mark.parametrize(("given", "called"), [(".venv/bin/python", ".venv/bin/python"), ("", "python")])
def test_the_interpreter_is_called_as_the_user_called_it(
    given: str, called: str, orders: list[Order], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", [given, "-m", "study.launch"])
    assert printed(orders) == [called, "-m", "study.launch", str(KD)]
    assert shlex.split(orders[-1].command)[0] == "python", "stored, and no path of this machine"


@pytest.mark.parametrize("option", ["--resume", "--stage", "--output"])
@pytest.mark.parametrize("letters", [-1, -2])
def test_options_have_no_short_forms_that_a_printed_command_would_keep(
    option: str, letters: int, orders: list[Order], capsys: pytest.CaptureFixture[str]
) -> None:
    value = {"--resume": "never", "--stage": "search"}.get(option, "x")
    with pytest.raises(SystemExit) as ended:
        launch.main([str(KD), option[:letters], value])
    assert ended.value.code == 2
    assert not orders
    assert "usage: python -m study.launch" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["--stage search", "--stage=search"])
def test_the_command_for_all_stages_leaves_the_one_out(orders: list[Order], text: str) -> None:
    assert printed(orders, *text.split(), "--smoke", whole=True)[3:] == [str(KD), "--smoke"]
