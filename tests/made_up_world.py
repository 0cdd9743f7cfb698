"""A whole study through its stages without training anything: how good a network is follows from its settings."""

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from study.engine.inline import InlineEngine
from study.engine.job import Job
from study.jobs.survivors import SURVIVORS
from study.ledger import Ledger
from study.space.reader import read_space
from study.stages.context import Context, Facts
from study.stages.pipeline import Pipeline
from study.stages.plan import plan

KD = Path(__file__).parents[1] / "search_spaces" / "kd.yaml"
TRIALS = 9
SIZES = {"train": 100, "val_search": 60, "val_front": 80, "test": 90}
SHORT = (
    f"budget.trials={TRIALS}",
    "sampler.startup_trials=4",
    "robustness.tier=screen",
    "robustness.random_students=2",
)


class Silent:
    """An observer that remembers stages and notes."""

    def __init__(self) -> None:
        self.stages, self.notes = {}, []

    def stage(self, name, total, done):
        self.stages[name] = total

    def note(self, text):
        self.notes.append(text)

    def __getattr__(self, name):
        return lambda *_: None


@dataclass
class World:
    """Stands for training and attacks: how good a network is follows from its settings, here by a made-up law."""

    ledger: Ledger
    done: list[str] = field(default_factory=list)
    undistilled_fails: str | None = None

    def __call__(self, job: Job) -> None:
        if self.ledger.outcome(job.key) is None:
            self.done.append(job.key)
            self.ledger.commit(job.key, {"kind": job.kind, **getattr(self, f"_{job.kind}", self._other)(job)})

    def _other(self, job: Job):
        return {"state": "COMPLETE", "metrics": {"accuracy": 0.97, "n": 60, "arch": "resnet20"}}

    def _classical(self, job: Job):
        return {"state": "COMPLETE", "metrics": {"n": SIZES, "svm": dict.fromkeys(SIZES, 0.9)}}

    def _record(self, job: Job):
        return {"state": "FAIL", "reason": "nothing is recorded here"}

    def _student(self, job: Job):
        if self.undistilled_fails and job.key.startswith("undistilled/"):
            return {"state": "FAIL", "reason": self.undistilled_fails}
        clean, robust = quality(job.payload["settings"])
        values = {"accuracy": clean, "adversarial_accuracy": robust}
        return {"state": "COMPLETE", "values": values, "metrics": {**values, "n": 60, "n_adversarial": 60}}

    def _rates(self, network: str) -> tuple[float, float]:
        settings = (self.ledger.config(network) or {})["settings"]
        return quality(settings) if "student" in settings else (0.97, 0.2)

    def _attack(self, job: Job):
        payload, (clean, robust) = job.payload, self._rates(job.payload["network"])
        n = SIZES[payload["split"]]
        luck = np.random.default_rng(zlib.crc32(payload["network"].encode())).random(n)
        shape = (len(payload["epsilons"]), 1, n)
        broken = np.broadcast_to((luck >= robust) & (luck < clean), shape)
        self._write(job, luck < clean, broken, ["pgd-10"])
        entries = [
            {
                "epsilon": e,
                "robust_accuracy": float((luck < robust).mean()),
                "survivors": int((luck < robust).sum()),
                "n": n,
            }
            for e in payload["epsilons"]
        ]
        return self._metrics(job, n, float((luck < clean).mean()), {"robust": entries, "attacks": []})

    def _race(self, job: Job):
        payload, (clean, robust) = job.payload, self._rates(job.payload["network"])
        start, end = (0, *payload["ends"])[payload["shard"]], payload["ends"][payload["shard"]]
        luck = np.random.default_rng(zlib.crc32(payload["network"].encode())).random(payload["ends"][-1])
        bits = (luck < robust)[start:end]
        self._write(job, np.ones_like(bits), ~bits[None, None], ["pgd-10"])
        entry = {"epsilon": payload["epsilon"], "norm": "linf", "survivors": int(bits.sum()), "n": len(bits)}
        metrics = {"shard": payload["shard"], "shards": len(payload["ends"]), "n": len(bits), "nfe": 8.0}
        right = {"clean": {"correct": int((luck < clean).sum()), "n": len(luck)}} if not start else {}
        return {"state": "COMPLETE", "metrics": {**metrics, **right, "accuracy": clean, "robust": [entry]}}

    def _transfer(self, job: Job):
        n = SIZES["test"]
        columns = [f"transfer-{name}" for name in job.payload["pool"] if name != job.payload["identity"]["model"]]
        nothing = np.zeros((len(job.payload["epsilons"]), len(columns), n), bool)
        self._write(job, np.ones(n, bool), nothing, columns)
        return self._metrics(job, n, 0.9, {"pool": {"columns": columns, "hash": "f"}})

    def _write(self, job, clean, broken, columns):
        folder = self.ledger.folder(job.key)
        folder.mkdir(parents=True, exist_ok=True)
        ids = np.arange(len(clean))
        arrays = {"label": ids % 10, "columns": np.array(columns), "broken": broken, "attempted": np.ones_like(broken)}
        np.savez(folder / SURVIVORS, image_id=ids, clean_correct=clean, **arrays)

    def _metrics(self, job, n, accuracy, more):
        kept = {name: job.payload[name] for name in ("shard", "shards", "norm", "epsilons", "split")}
        metrics = {**job.payload["identity"], **kept, "n": n, "accuracy": accuracy, "nfe": 8.0, **more}
        return {"state": "COMPLETE", "metrics": metrics}


def quality(settings: dict) -> tuple[float, float]:
    """Clean and robust accuracy pull apart over the horizon; distillation adds to both."""
    horizon, distill = settings["student"]["horizon"], settings["distill"]
    gain = 0.1 * distill.get("alpha", 0) if distill["method"] != "none" else 0
    spread = math.log(horizon / 0.25) / math.log(16)
    return 0.75 + gain + 0.1 * spread, 0.45 + gain - 0.2 * spread


def a_context(folder: Path, *overrides: str) -> Context:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text('{"name": "s", "epsilon": 0.0625, "reference_point": [0.1, 0.0]}')
    space = read_space(KD, [*SHORT, "robustness.racing=false", "robustness.controls=false", *overrides])
    return Context(space, Ledger(folder), Facts(10, "f" * 64, SIZES, 1), Silent())


def run(folder: Path, *overrides: str, **world) -> tuple[Context, World]:
    context = a_context(folder, *overrides)
    at_work = World(context.ledger, **world)
    InlineEngine().run(Pipeline(plan(context, "all")), at_work)
    return context, at_work
