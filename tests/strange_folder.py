"""A whole synthetic study with checks and records, as a stranger may send it, and all that one does with such a one."""

import json
from pathlib import Path

import pytest

from study import explore, launch, show
from study.space.reader import read_space
from tests.checked_folder import Checks, write_checked
from tests.record_folder import arrays, metrics, write_record
from tests.study_folder import SPECIFICATION, Plan, attacked, write_json, write_outcome

KD = Path(__file__).parents[1] / "search_spaces" / "kd.yaml"
PLAN = Plan(trials=10, attacked=2, images=80, shard=40, epochs=2, failures={5: ("FAIL", "diverged")})
STUDENT = f"student-{attacked(PLAN)[0]:06d}"
SHARD = f"robustness/{STUDENT}/{SPECIFICATION}-000"
RECORD = f"robustness/{STUDENT}/{SPECIFICATION}-record"


RUNG = {
    "schema": 1,
    "epoch": 1,
    "values": {"accuracy": 0.5, "adversarial_accuracy": 0.2},
    "images": 64,
    "stop": False,
    "reason": "first front",
    "fault": None,
    "condemned": True,
    "spared": True,
    "share": 0.08,
    "distrusted": None,
    "rank": 1,
    "of": 4,
    "peers": [],
}
"""Of a trial that lives on by its draw."""


def write_strange(root: Path) -> Path:
    """Write the study below root and give its folder; the launcher takes it for one of kd.yaml."""
    folder = write_checked(root, Checks(replicates=1, random=1, images=40, plan=PLAN))
    write_record(folder / RECORD, arrays())
    write_outcome(folder, RECORD, metrics(STUDENT, trial=attacked(PLAN)[0], specification=SPECIFICATION))
    for number in range(4):
        write_json(folder / f"trials/{number:06d}/rung-000001.json", RUNG)
    _write_raced(folder, f"front/{attacked(PLAN)[0]:06d}")
    document = json.loads((folder / "study.json").read_text())
    write_json(folder / "study.json", document | {"space": read_space(KD).document(), "generation": None})
    return folder


def _write_raced(folder: Path, key: str) -> None:
    """Measure a candidate on val_front in two parts, the second of a fifth of all images, to the same end."""
    path = folder / key / "outcome.json"
    whole = json.loads(path.read_text())["metrics"]
    path.unlink()
    n = whole["n"]
    clean = {"clean": {"correct": round(whole["accuracy"] * n), "n": n}}
    for shard, of_part in enumerate((n - n // 5, n // 5)):
        robust = [
            entry | {"n": of_part, "survivors": entry["survivors"] if shard == 0 else 0} for entry in whole["robust"]
        ]
        part = {"shard": shard, "shards": 2, "n": of_part, "nfe": whole["nfe"], "robust": robust}
        write_outcome(folder, f"{key}/part-{shard}", part | (clean if shard == 0 else {}))


def look(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Do all that one does with somebody's study, and give everything that was printed or written."""
    for command, arguments in (
        (show.main, [str(folder)]),
        (show.main, [str(folder), "--json"]),
        (show.main, [str(folder), "--paper", "chu2022"]),
        (explore.main, [str(folder), "--svg"]),
        (launch.main, [str(KD), "--stage", "report", "--output", str(folder)]),
    ):
        assert command(arguments) == 0
    printed = capsys.readouterr()
    page, picture = (folder / "report" / name for name in ("index.html", "front.svg"))
    return "\n".join([printed.out, printed.err, page.read_text(), picture.read_text()])
