"""The two reading commands: output, exit codes, messages, and how fast they say how they are used."""

import json
import subprocess
import sys
from pathlib import Path

import kaleido
import pytest
from kaleido.errors import ChromeNotFoundError

from study import explore, show
from study.paper_table import compare
from study.papers import PAPERS
from study.results import load
from tests.study_folder import Plan, attacked, write_study

PLAN = Plan(trials=10, attacked=2, epochs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("studies"), PLAN)


def test_json_is_the_summary_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(load(folder).summary()))


def test_a_pipe_gets_plain_text_with_every_point(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main([str(folder)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "Study synthetic: complete. Trials: 9 complete, 0 pruned, 1 failed, 0 running." in text
    assert "Of 2 attacked students" in text
    for trial in attacked(PLAN):
        assert f"student-{trial:06d}" in text
        assert f"twin-{trial:06d}" in text
    assert "1/16" in text
    assert "449" in text


@pytest.mark.parametrize("stages", [(), ("teachers",), ("teachers", "search"), ("teachers", "search", "front")])
def test_partial_studies_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], stages: tuple[str, ...]) -> None:
    study = write_study(tmp_path, Plan(stages=stages, state="interrupted", trials=6, attacked=1, epochs=1))
    assert show.main([str(study)]) == 0
    assert "interrupted" in capsys.readouterr().out
    assert show.main([str(study), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "interrupted"


def test_what_was_left_out_is_said_beside_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path, Plan(stages=("teachers", "search"), trials=3, failures={}, attacked=1, epochs=1))
    (study / "trials/000001/outcome.json").write_text("{")
    assert show.main([str(study), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["trials"]["complete"] == 2
    assert "Left out: " in printed.err


@pytest.mark.parametrize("command", [show.main, explore.main])
def test_a_folder_without_a_study_is_exit_4(tmp_path: Path, capsys: pytest.CaptureFixture[str], command) -> None:
    assert command([str(tmp_path / "nowhere")]) == 4
    assert "nowhere is no folder. Give the folder that study.launch printed." in capsys.readouterr().err


@pytest.mark.parametrize("command", [show.main, explore.main])
@pytest.mark.parametrize("arguments", [[], ["--jsno", "x"], ["--jso", "x"], ["--sv", "x"], ["a", "b"]])
def test_wrong_usage_is_exit_2(command, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command(arguments)
    assert ended.value.code == 2
    assert "usage: python -m study." in capsys.readouterr().err


def test_explore_prints_what_it_wrote(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explore.main([str(folder), "--svg"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert written == [folder / "report" / "index.html", folder / "report" / "front.svg"]
    assert written[0].stat().st_size < 5_500_000
    assert written[1].read_text().startswith("<svg")


def test_explore_says_what_figures_need(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing_found(*figures: object, **options: object) -> None:
        raise ChromeNotFoundError

    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", nothing_found)
    assert explore.main([str(folder), "--figures"]) == 4
    assert "apt install chromium" in " ".join(capsys.readouterr().err.split())


def test_explore_says_where_it_may_not_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path, Plan(stages=()))
    (study / "report").write_text("a file where the folder should be")
    assert explore.main([str(study)]) == 4
    assert "The report must be writable" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["study.show", "study.explore"])
def test_help_answers_before_pandas_and_plotly_load(module: str) -> None:
    code = (
        f"import sys, contextlib, io, {module} as command\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): command.main(['--help'])\n"
        "print(sorted({'pandas', 'plotly', 'numpy', 'torch', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_beside_the_run_is_one_json_object(
    folder: Path, capsys: pytest.CaptureFixture[str], paper: str
) -> None:
    assert show.main([str(folder), "--paper", paper, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(compare(load(folder), PAPERS[paper])))


def test_a_paper_beside_the_run_is_a_table_with_empty_cells_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main([str(folder), "--paper", "chu2022"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "Its empty cells are not known to us." in text
    assert "24 % (arXiv), 24.75 % (IET);" in text
    assert "not measured here; run" in text
    assert "resnet20: 98.5 %; 1 model" in text
    assert "doi:10.1049/cvi2.12248" in text


def test_an_unknown_paper_is_exit_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        show.main([str(folder), "--paper", "chu2021"])
    assert ended.value.code == 2
    assert "chu2022" in capsys.readouterr().err
