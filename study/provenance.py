"""Where a study's numbers come from: versions, commit, hardware. No host name, user or path of the machine."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from study.engine.machine import usable_cpus

PACKAGES = (
    "torch",
    "torchvision",
    "torchdiffeq",
    "optuna",
    "ray",
    "plotly",
    "numpy",
    "scipy",
    "scikit-learn",
    "pyautoattack",
)


def provenance() -> dict[str, Any]:
    """Return versions of Python and of the packages that make numbers, this project's commit, and the hardware."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _commit(),
        "cpu": _cpu_model(),
        "cores": usable_cpus(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """Return the commit of this project's own checkout; None where it is installed without one."""
    home = Path(__file__).resolve().parent.parent
    if not (home / ".git").exists():
        return None
    commit = _git(home, "rev-parse", "HEAD")
    status = _git(home, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(status)}


def _git(home: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(home), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
