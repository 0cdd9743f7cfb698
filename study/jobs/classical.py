"""The baselines that need no network, on the study's own split (S2)."""

from nodekd.baselines import fit_baselines
from study.jobs.work import Result, Work


def run_classical(work: Work) -> Result:
    """Fit SVM and nearest neighbour on train; report their clean accuracy on the splits that the payload names."""
    splits = work.payload["splits"]
    dataset = work.dataset("train", *splits)
    fitted = fit_baselines(dataset.splits["train"])
    measured = {name: fitted.accuracy(dataset.splits[name]) for name in splits}
    return Result(
        metrics={
            "n_train": fitted.n_train,
            "n": {name: len(dataset.splits[name]) for name in splits},
            "svm": {name: measured[name]["svm"] for name in splits},
            "nearest_neighbour": {name: measured[name]["nearest_neighbour"] for name in splits},
        }
    )
