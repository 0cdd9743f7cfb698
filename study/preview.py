"""What a launch says before it starts: the banner, the plan of a dry run, what an earlier launch left."""

import json
from itertools import islice
from pathlib import Path

from study.engine.job import Engine
from study.ledger import Ledger
from study.order import Order
from study.points import grid_points
from study.space.settings import Space
from study.stages.context import Facts
from study.stages.probes import is_wanted


def banner(order: Order, facts: Facts, folder: Path, engine: Engine, dashboard: str | None, resumed: str | None) -> str:
    """Return the lines that head a run: what it is, where to look, where its files go."""
    space = order.space
    lines = [
        f"study      {space.study.name}, space {space.identity()[:12]}, seed {space.study.seed}",
        f"data       {space.data.name}, {facts.classes} classes, {_sizes(facts)}, split {facts.split_hash[:12]}",
        f"teachers   {', '.join(teacher.arch for teacher in space.teachers)}",
        f"search     {_trials(space)}, sampler {space.sampler.name}, "
        f"epsilon {space.search.epsilon:.4g} {space.search.norm}",
        f"resources  {space.resources.cpus} CPU, {space.resources.gpus} GPU per trial, "
        f"{getattr(engine, 'slots', 1)} at once",
        f"results    {folder}",
        f"report     {folder / 'report' / 'index.html'}",
        f"dashboard  {dashboard or 'not available'}",
    ]
    command = getattr(engine, "token_command", None)
    if dashboard and command:
        lines.append(f"sign-in    {command}")
    if resumed:
        lines.append(f"resumed    {resumed}")
    return "\n".join(lines)


def resumed_text(ledger: Ledger) -> str | None:
    """Say what an earlier launch of this study left; None where this is the first."""
    trials = ledger.keys("trials")
    if not trials:
        return None
    done = sum(ledger.outcome(key) is not None for key in trials)
    return f"{done} finished trials are kept, {len(trials) - done} begun ones are run again"


def _trials(space: Space) -> str:
    """Say how many trials there will be; of a grid, also what part of it that is."""
    asked = space.budget.trials
    if space.sampler.name != "grid":
        return f"{asked} trials"
    points = len(list(islice(grid_points(space.parameters), asked + 1)))
    return f"{min(asked, points)} trials" + (", a part of the grid (raise budget.trials)" if points > asked else "")


def plan_text(order: Order, facts: Facts, folder: Path) -> str:
    """Return the resolved settings and what a launch would do."""
    space = order.space
    trials = Ledger(folder).keys("trials") if folder.is_dir() else []
    anchors = [json.dumps(anchor) for anchor in space.anchors]
    return "\n".join(
        [
            json.dumps(space.document(), indent=1),
            f"{order.source}: the space is valid.",
            f"folder     {folder}" + (f", {len(trials)} trials begun" if trials else ", new"),
            f"data       {space.data.name}: {_sizes(facts)}",
            f"teachers   {len(space.teachers)}: {', '.join(teacher.arch for teacher in space.teachers)}",
            f"search     {_trials(space)} over {', '.join(p.name for p in space.parameters)}",
            f"anchors    {'; '.join(anchors) or 'none'}",
            *([] if space.contrast is None else [f"contrast   {json.dumps(space.document()['contrast'])}"]),
            *_measured(order, facts),
        ]
    )


def _measured(order: Order, facts: Facts) -> list[str]:
    """Say who is measured after the search, and on what."""
    robustness, images = order.space.robustness, f"{order.space.robustness.images} of {facts.sizes['test']} images"
    everyone = robustness.select == "all"
    students = "every completed student" if everyone else f"at most {robustness.max_students} students"
    twins = " with their twins" if robustness.twins else ""
    front = f"front      trials within two standard errors of the search front, on {facts.sizes['val_front']} images"
    probed = is_wanted(order.space)
    return [
        *([] if everyone else [front]),
        f"robustness {students}{twins}, tier {robustness.tier}, {len(robustness.epsilons)} epsilons, {images}",
        *([f"probes     the same networks and the teachers, on {order.space.probes.split}"] if probed else []),
    ]


def _sizes(facts: Facts) -> str:
    return ", ".join(f"{name} {size}" for name, size in facts.sizes.items())
