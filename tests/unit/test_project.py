"""What the project says of itself is true: commands, sources, layers of imports, pinned versions."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = [*(ROOT / "nodekd").rglob("*.py"), *(ROOT / "study").rglob("*.py")]


def test_the_readme_has_the_two_commands():
    run = (
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/python -m study.launch search_spaces/kd.yaml"
    )
    test = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/python -m pytest"
    assert run in README
    assert test in README
    assert test.replace("install -e", "install -q -e") in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_what_the_readme_points_to_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
    for folder in re.findall(r"^\| `([a-z_]+/)` \|", README, flags=re.M):
        assert (ROOT / folder).is_dir(), folder


def test_every_source_named_in_the_code_is_in_the_bibliography():
    known = set(
        re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text(encoding="utf-8"), flags=re.M)
    )
    named = {
        key for path in SOURCES for key in re.findall(r"\[([a-z]+\d{4}[a-z]+)\]", path.read_text(encoding="utf-8"))
    }
    assert named
    assert not named - known


@pytest.mark.parametrize(
    "path",
    ["nodekd/distill/logits.py", "nodekd/attacks/gradient.py", "nodekd/ode/solve.py", "nodekd/ode/fixed_grid.py"],
)
def test_losses_attacks_and_solvers_name_their_source(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    exempt = {"entropy", "agreement", "ensemble_accuracy", "logit_scale", "misclassified", "advance", "status_of"}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in exempt:
            assert "Source:" in (ast.get_docstring(node) or ""), f"{path}:{node.name}"


def modules_after(statement):
    code = f"import sys; {statement}; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_nodekd_loads_no_scheduler_sampler_or_figure():
    loaded = modules_after("import nodekd.train, nodekd.search_proxy, nodekd.baselines")
    assert not loaded & {"ray", "optuna", "plotly", "ruamel", "pydantic", "study"}  # scikit-learn loads pandas


def test_the_report_loads_no_torch():
    loaded = modules_after("import study.report.page, study.show, study.explore, study.results")
    assert not loaded & {"torch", "ray", "optuna", "nodekd", "torchvision"}


def test_the_command_line_loads_neither_torch_nor_ray_before_it_must():
    loaded = modules_after("import study.launch; study.launch.parser()")
    assert not loaded & {"torch", "ray", "optuna", "nodekd.train", "numpy"}


def test_constraints_hold_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.match(r"[A-Za-z0-9._-]+", text).group().lower() for text in wanted}
    assert names <= pinned


def test_the_changelog_speaks_of_what_is_unreleased():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_files_stay_small():
    for path in SOURCES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_every_space_a_paper_or_page_points_to_is_shipped():
    pages = [ROOT / "study" / "papers.py", *ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
    named = {name for path in pages for name in re.findall(r"search_spaces/[\w-]+\.yaml", path.read_text("utf-8"))}
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
