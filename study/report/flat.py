"""Say of a front on which nobody can be told apart that it is flat, and where to look instead."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from study.flat_fronts import Counts, FlatFront, flat_fronts
from study.report.wording import epsilon_text, norm_text
from study.results import Results
from study.survivors import Survivors


def flat_text(results: Results, epsilon: float) -> str | None:
    """Judge the attacked students on test at one of the attacked epsilons; None where the front is not flat."""
    students = [model for model in results.survivors.values() if model.kind == "student"]
    levels = sorted({level for model in students for level in model.epsilons})
    measured = {level: [_counts(m, level) for m in students if m.attacked_at(level)] for level in levels}
    norm = next((model.norm for model in students), "")
    found = flat_fronts(measured, _grid(results, norm), _largest(norm)).get(epsilon)
    return None if found is None else _sentence(found, epsilon, norm, "robust accuracy", "in robustness.epsilons")


def flat_search_text(results: Results) -> str | None:
    """Judge the search's trials by their proxy on val_search; None where they are not flat."""
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    return _flat_at_own(results, complete, "adversarial_accuracy")


def flat_front_text(results: Results) -> str | None:
    """Judge the candidates measured on val_front; None where they are not flat."""
    return _flat_at_own(results, results.front, "adversarial accuracy")


def _flat_at_own(results: Results, rows: pd.DataFrame, what: str) -> str | None:
    epsilon = results.study.get("epsilon")
    known = rows.dropna(subset=["accuracy", "adversarial_accuracy", "n_adversarial"]).to_dict("records")
    if epsilon is None or not known:
        return None
    epsilon, norm = float(epsilon), str(results.study.get("norm", ""))
    measured = {epsilon: [_from_rates(row) for row in known]}
    found = flat_fronts(measured, _grid(results, norm), _largest(norm)).get(epsilon)
    return None if found is None else _sentence(found, epsilon, norm, what, "as search.epsilon, in a study of its own")


def _counts(model: Survivors, epsilon: float) -> Counts:
    return Counts(int(model.robust(epsilon).sum()), int(model.clean_correct.sum()), model.n)


def _from_rates(row: Mapping[Any, Any]) -> Counts:
    """Count on the attacked images, of which the clean accuracy may be known on more."""
    n = int(row["n_adversarial"])
    return Counts(round(n * row["adversarial_accuracy"]), round(n * row["accuracy"]), n)


def _grid(results: Results, norm: str) -> list[float]:
    grids: Mapping[str, list[float]] = results.study.get("epsilon_grids") or {}
    return [float(radius) for radius in grids.get(norm, [])]


def _largest(norm: str) -> float:
    return 1.0 if norm == "linf" else float("inf")


def _sentence(found: FlatFront, epsilon: float, norm: str, what: str, where: str) -> str:
    everybody = "the one student" if found.networks == 1 else f"all {found.networks} students"
    state = {
        "zero": f"the 95 % interval of the {what} of {everybody} touches 0",
        "clean": f"the {what} of {everybody} exceeds 95 % of the clean accuracy",
    }[found.where]
    at = f"FLAT: at epsilon {epsilon_text(epsilon)} {state}, so nothing can be read from this front."
    if found.instead is None:
        return f"{at} No larger epsilon makes sense under {norm_text(norm)}."
    instead = epsilon_text(found.instead)
    if found.is_attacked:
        return f"{at} Look at epsilon {instead} instead, where it is not flat."
    return f"{at} Attack at epsilon {instead} instead ({where})."
