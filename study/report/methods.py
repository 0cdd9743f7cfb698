"""The report's methods section: what every name means, on which data, by which attacks, with which versions."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from study.access_log import Reads, reads_of_test
from study.report.stats import epsilons
from study.report.tables import definition_list, plain_table
from study.report.wording import epsilon_text, norm_text, value_text
from study.results import Results

_PRIVATE = {"host", "hostname", "path", "root", "user", "home", "cwd", "dir", "folder"}
_ROLES = {
    "train": "weights, normalisation and the teacher",
    "val_search": "the search's two objectives",
    "val_front": "which students are on the front",
    "test": "the robustness stage only",
}


def methods_section(results: Results) -> str:
    """Give the section's HTML."""
    parts = [definition_list(_definitions(results)), _data_table(results), _teachers(results), _attacks(results)]
    return "".join([*parts, definition_list(_provenance(results))])


def _definitions(results: Results) -> list[tuple[str, str]]:
    epsilon = results.study.get("epsilon")
    at = (
        f"epsilon {epsilon_text(float(epsilon))} ({norm_text(str(results.study.get('norm', '')))})"
        if epsilon
        else "epsilon"
    )
    proxies = [str(c).removeprefix("proxy_") for c in results.trials.columns if str(c).startswith("proxy_")]
    listed = f" over {', '.join(proxies)}" if proxies else " over the proxy attacks"
    reached = ", ".join(epsilon_text(e) for e in epsilons(results)) or "none so far"
    rule = results.selection.get("rule") or "not applied yet"
    return [
        ("accuracy", "Share of clean images classified correctly, on the split named beside it."),
        (
            "adversarial_accuracy",
            f"The search's proxy: the worst case per image at {at}{listed}, on a fixed part of val_search. Cheap "
            "attacks find fewer errors than thorough ones, so it flatters; candidates for the front are measured again "
            "on val_front with the real attacks.",
        ),
        (
            "robust_accuracy",
            f"The result: the share of test images still right after every attack of the robustness stage, worst case "
            f"per image, at epsilon {reached}. An upper bound: a stronger attack could only lower it. The two names "
            "are never mixed.",
        ),
        ("intervals", "Wilson, 95 %, over images. They do not cover the choice of training seeds: one run per point."),
        (
            "comparisons",
            "Paired on the same images: exact McNemar test, Newcombe's interval of the difference, Holm-adjusted "
            "within a family. 'Detectable' is the smallest true difference found four times in five at this n and "
            "this disagreement, where it has to pass the family's strictest step.",
        ),
        (
            "twin",
            "The same student trained again with alpha = 0: same initial weights, batches, views, solver, horizon. "
            "Compared by robust accuracy, and by robust accuracy on the images that both get right when clean; the "
            "latter says nothing of images that only one of them gets right.",
        ),
        (
            "like accuracy",
            "Each distilled student is also compared with the undistilled network (twin, student, replicate or one of "
            "the search without distillation) whose clean accuracy is nearest, chosen by that alone, while the two "
            "differ in it by less than their images can detect.",
        ),
        (
            "optimism",
            "val_front less test, for students chosen on val_front. The two share no image, so the interval is "
            "Newcombe's for independent rates.",
        ),
        (
            "failed solves",
            "An image whose ODE solve hits its cap or is not finite counts as wrong, clean and attacked.",
        ),
        ("who was attacked", str(rule)),
        *_doubted(results),
        *_race(results),
    ]


def _doubted(results: Results) -> list[tuple[str, str]]:
    """Say which candidates a check called unreliable on val_front, so that they could not be chosen."""
    doubted: dict[str, list[str]] = results.selection.get("doubted") or {}
    said = "; ".join(f"trial {int(number)}: {', '.join(reasons)}" for number, reasons in doubted.items())
    return [("unreliable on val_front", said)] if said else []


def _race(results: Results) -> list[tuple[str, str]]:
    """Say which candidates were not measured to the end, and how surely none of them belongs to the front."""
    race = results.selection.get("race")
    if not race:
        return []
    left = "; ".join(f"{each['trial']} {each['said']}" for each in race["left"]) or "nobody"
    words = (
        f"Left the race on val_front: {left}. The probability that any member of its front is lost is at most "
        f"{race['level']:g}, over the order of the images. {race['attacked']} of {race['of']} attacks were run."
    )
    return [("race", words)]


def _data_table(results: Results) -> str:
    sizes = _split_sizes(results)
    rows = [[split, str(sizes.get(split, "not stored")), role] for split, role in _ROLES.items()]
    reads = reads_of_test(results.path, results.study, results.events)
    facts = [
        ("data", str(results.study.get("data", "not stored"))),
        ("hash of the split", str(results.study.get("split_hash", "not stored"))),
        ("reads of test", _reads_text(reads)),
    ]
    return plain_table("splits", "Splits", ["split", "images", "used for"], rows) + definition_list(facts)


def _reads_text(reads: Reads) -> str:
    """Say how often the test set was read, by whom (S29)."""
    readers = "1 study" if reads.studies == 1 else f"{reads.studies} studies"
    return f"{reads.own} by this study; {reads.total} by {readers} of its results folder, also those deleted since"


def _split_sizes(results: Results) -> dict[str, int]:
    stored = results.study.get("split_sizes") or {}
    known = {"val_search": results.trials["n"], "val_front": results.front["n"], "test": results.robustness["n"]}
    counted = {split: int(n.max()) for split, n in known.items() if n.notna().any()}
    return counted | {str(split): int(n) for split, n in stored.items()}


def _teachers(results: Results) -> str:
    rows = []
    for teacher in results.teachers.to_dict("records"):
        n = f"n = {int(teacher['n'])}" if pd.notna(teacher.get("n")) else "n unknown"
        entropy = ", ".join(f"{nats:.3g} at {t}" for t, nats in json.loads(teacher["entropy"]).items())
        cells = [str(teacher.get("arch", "?")), str(teacher.get("trained_on") or "unknown")]
        accuracy = f"{100 * teacher['accuracy']:.1f} %" if pd.notna(teacher["accuracy"]) else "unknown"
        rows.append([*cells, f"{accuracy} ({n})", entropy, str(teacher["teacher"])])
    header = ["architecture", "trained on", "accuracy (val_search)", "label entropy in nats, by temperature", "hash"]
    return plain_table("teachers", "Teachers", header, rows) if rows else "<p>No teacher has been trained yet.</p>"


def _attacks(results: Results) -> str:
    models = list(results.survivors.values())
    if not models:
        return "<p>No attack has been run on test yet.</p>"
    names = sorted({key for record in models[0].attacks for key in record if key != "name"})
    rows = [
        [str(record.get("name", "?")), *[_setting(record.get(name)) for name in names]] for record in models[0].attacks
    ]
    pool = models[0].pool
    note = [
        ("transfer pool", f"{', '.join(pool.get('columns', [])) or 'empty'}; hash {pool.get('hash', 'not stored')}")
    ]
    norm = norm_text(models[0].norm)
    table = plain_table("attack-settings", f"Attacks ({norm}), every hyper-parameter", ["attack", *names], rows)
    return table + definition_list(note)


def _setting(value: Any) -> str:
    return "" if value is None else value_text(value)


def _provenance(results: Results) -> list[tuple[str, str]]:
    study = results.study
    facts = [(key, str(study[key])) for key in ("created", "engine", "seed", "identity") if key in study]
    if "command" in study:
        facts.insert(0, ("command", _without_folders(str(study["command"]))))
    reference = study.get("reference_point")
    if reference:
        area = results.hypervolume()
        measured = "not measured yet" if area is None or math.isnan(area) else f"{area:.5g}"
        facts.append(("hypervolume", f"{measured} on val_front, above {tuple(reference)} (accuracy, adversarial)"))
    stored = study.get("provenance") or {}
    return facts + [(key, text) for key, text in _flat(stored) if not _is_private(key, text)]


def _without_folders(command: str) -> str:
    """Shorten absolute paths to their last part: where a machine keeps its files is nobody's business."""
    return re.sub(r"(?<![^\s='\"])[/~]\S*/", ".../", command)


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", str(value)


def _is_private(key: str, text: str) -> bool:
    return text.startswith(("/", "~")) or not _PRIVATE.isdisjoint(re.split(r"[ _]", key.lower()))
