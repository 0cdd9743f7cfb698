"""Jobs without torch for engine tests; importable by workers. The payload says what to do."""

import os
import time
from pathlib import Path

from study.engine.job import Job
from study.ledger import Ledger


class AcceleratorError(RuntimeError):
    """Stands for torch's error of the same name."""


def run_stub(job: Job) -> None:
    ledger = Ledger(Path(job.study))
    with ledger.begin(job.key) as attempt:
        (attempt.folder / "pid").write_text(str(os.getpid()))
        time.sleep(job.payload.get("seconds", 0.05))
        match job.payload.get("fate"):
            case "raise":
                raise ValueError("stub says no")
            case "exit":
                raise SystemExit(3)
            case "die":
                os._exit(1)
            case "poisoned":
                raise AcceleratorError("the GPU is gone")
            case "wait":
                while not (Path(job.study) / "go").exists():
                    time.sleep(0.05)
        metrics = {"threads": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}
        ledger.commit(job.key, {"state": "COMPLETE", "attempt": attempt.number, "metrics": metrics})
