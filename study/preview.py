"""What a launch says before it starts: the banner, the plan of a dry run, what an earlier launch left."""

import json
from pathlib import Path

from study.engine.job import Engine
from study.epsilons import epsilon_text, epsilons_text
from study.ledger import Ledger
from study.order import Order
from study.points import count_trials
from study.space.settings import Space
from study.space.undistilled import without_distillation
from study.stages.context import Facts
from study.stages.probes import is_wanted
from study.undistilled import FOLDER


def banner(order: Order, facts: Facts, folder: Path, engine: Engine, dashboard: str | None, resumed: str | None) -> str:
    """Return the lines that head a run: what it is, where to look, where its files go."""
    space = order.space
    lines = [
        f"study      {space.study.name}, space {space.identity()[:12]}, seed {space.study.seed}",
        f"data       {space.data.name}, {facts.classes} classes, {_sizes(facts)}, split {facts.split_hash[:12]}",
        f"teachers   {', '.join(teacher.arch for teacher in space.teachers)}",
        f"search     {_trials(space)}, sampler {space.sampler.name}, {epsilon_text(space, folder)}",
        *_second_search(space),
        f"resources  {space.resources.cpus} CPU, {space.resources.gpus} GPU per trial, "
        f"{getattr(engine, 'slots', 1)} at once",
        f"results    {folder}",
        f"report     {folder / 'report' / 'index.html'}",
        f"dashboard  {dashboard or 'not available'}",
    ]
    command = getattr(engine, "token_command", None)
    if dashboard and command:
        lines.append(f"sign-in    {command}")
    if (nodes := getattr(engine, "nodes", None)) is not None:
        lines.append(f"nodes      {nodes}")
    if resumed:
        lines.append(f"resumed    {resumed}")
    return "\n".join(lines)


def resumed_text(ledger: Ledger) -> str | None:
    """Say what an earlier launch of this study left; None where this is the first."""
    trials = [*ledger.numbered("trials"), *ledger.numbered(FOLDER)]
    if not trials:
        return None
    done = sum(ledger.outcome(key) is not None for key in trials)
    return f"{done} finished trials are kept, {len(trials) - done} begun ones are run again"


def _trials(space: Space) -> str:
    """Say how many trials there will be; of a grid, also what part of it that is."""
    asked = space.budget.trials
    trials = count_trials(space, asked)
    is_part = space.sampler.name == "grid" and count_trials(space, asked + 1) > asked
    return f"{trials} trial{'s' * (trials != 1)}" + (", a part of the grid (raise budget.trials)" if is_part else "")


def _second_search(space: Space) -> list[str]:
    """Say how many trials the baseline without distillation adds, and over what; nothing where it is not asked for."""
    if not space.robustness.undistilled_search:
        return []
    own = without_distillation(space)
    names = ", ".join(parameter.name for parameter in own.parameters)
    return [f"baseline   {_trials(own)} without distillation{f' over {names}' if names else ''}"]


def plan_text(order: Order, facts: Facts, folder: Path) -> str:
    """Return the resolved settings and what a launch would do."""
    space = order.space
    trials = Ledger(folder).numbered("trials") if folder.is_dir() else []
    anchors = [json.dumps(anchor) for anchor in space.anchors]
    return "\n".join(
        [
            json.dumps(space.document(), indent=1),
            f"{order.source}: the space is valid.",
            f"folder     {folder}" + (f", {len(trials)} trials begun" if trials else ", new"),
            f"data       {space.data.name}: {_sizes(facts)}",
            f"teachers   {len(space.teachers)}: {', '.join(teacher.arch for teacher in space.teachers)}",
            f"search     {_trials(space)} over {', '.join(p.name for p in space.parameters)}, "
            f"{epsilon_text(space, folder)}",
            *_second_search(space),
            f"anchors    {'; '.join(anchors) or 'none'}",
            *([] if space.contrast is None else [f"contrast   {json.dumps(space.document()['contrast'])}"]),
            *_measured(order, facts, folder),
        ]
    )


def _measured(order: Order, facts: Facts, folder: Path) -> list[str]:
    """Say who is measured after the search, and on what."""
    robustness = order.space.robustness
    images = f"{robustness.images} of {facts.sizes['test']} images"
    everyone = robustness.select == "all"
    students = "every completed student" if everyone else f"at most {robustness.max_students} students"
    twins = " with their twins" if robustness.twins else ""
    rival = " and the baseline's" if robustness.undistilled_search else ""
    front = f"front      trials within two standard errors of the search front, on {facts.sizes['val_front']} images"
    probed = is_wanted(order.space)
    return [
        *([] if everyone else [front]),
        f"robustness {students}{twins}{rival}, tier {robustness.tier}, {epsilons_text(order.space, folder)}, {images}",
        *([f"probes     the same networks and the teachers, on {order.space.probes.split}"] if probed else []),
    ]


def _sizes(facts: Facts) -> str:
    return ", ".join(f"{name} {size}" for name, size in facts.sizes.items())
