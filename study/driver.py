"""One launch: check, prepare the folder, run the stages, report, and return the exit code.

The driver never trains or attacks; all of that is done by the workers of an engine.
"""

import sys

from nodekd.data.dataset import SPLITS, DataConfig, load
from nodekd.data.views import count_views
from nodekd.errors import NodekdError
from study.engine.job import Engine
from study.engine.ray_tune import RayTuneEngine
from study.errors import EnvironmentFault, Interrupted, StudyError
from study.identity import check_same_data, is_done, study_folder, write_identity
from study.jobs.execute import execute
from study.ledger import Ledger
from study.order import Order
from study.preview import banner, plan_text, resumed_text
from study.progress import progress_for
from study.report.page import write_report
from study.results import load as load_results
from study.results import write_snapshots
from study.show import print_results
from study.space.settings import Space
from study.stages.batch import is_crash
from study.stages.context import Context, Facts
from study.stages.pipeline import Pipeline
from study.stages.plan import plan
from study.stages.teachers import checkpoint_path


def drive(order: Order, engine: Engine | None = None) -> int:
    """Carry out a launch.

    Args:
        order: What the command line asks.
        engine: Who runs the jobs; Ray Tune unless a test brings its own.

    Returns:
        0 done, 1 finished with more crashes than allowed.

    Raises:
        StudyError: With the exit code of its class, after everything known has been written.
    """
    folder = study_folder(order)
    facts = study_facts(order.space)
    if order.validate or order.dry_run:
        print(plan_text(order, facts, folder) if order.dry_run else f"{order.source}: the space is valid.")
        return 0
    ledger = Ledger(folder)
    if order.part == "report":
        _report(ledger)
        return 0
    with ledger.lock():
        check_same_data(ledger, facts)
        if order.part == "all" and is_done(ledger, order):
            print(f"{folder} is complete; nothing is left to do.")
            print_results(load_results(folder, "complete"))
            return 0
        write_identity(ledger, order, facts, "ray" if engine is None else type(engine).__name__)
        ledger.event("launched", command=order.command, part=order.part)
        return _run(order, ledger, facts, engine or _ray_engine(order))


def study_facts(space: Space) -> Facts:
    """Read the data once, so that a fault in it is told before anything starts.

    Raises:
        EnvironmentFault: If data or a checkpoint is missing or damaged.
    """
    data = space.data
    for teacher in space.teachers:
        if teacher.checkpoint:
            checkpoint_path(teacher.checkpoint)
    try:
        dataset = load(DataConfig(data.name, data.root, data.image_size, data.shuffle), splits=SPLITS)
    except NodekdError as fault:
        raise EnvironmentFault(str(fault)) from fault
    return Facts(
        classes=dataset.classes,
        split_hash=dataset.split_hash,
        sizes={name: len(split) for name, split in dataset.splits.items()},
        views=count_views(dataset.augmentation),
    )


def _ray_engine(order: Order) -> Engine:
    space = order.space
    return RayTuneEngine(
        cpus=space.resources.cpus,
        gpus=space.resources.gpus,  # pyright: ignore[reportArgumentType] - checked by the space
        concurrency=space.budget.concurrency,
        address=order.address,
    )


def _run(order: Order, ledger: Ledger, facts: Facts, engine: Engine) -> int:
    progress = progress_for(
        sys.stdout, refresh_s=order.space.progress.refresh_s, heartbeat_s=order.space.progress.heartbeat_s
    )
    context = Context(order.space, ledger, facts, progress, smoke=order.smoke)
    resumed = resumed_text(ledger)
    try:
        dashboard = engine.start()
        print(banner(order, facts, ledger.root, engine, dashboard, resumed))
        with progress.showing():
            engine.run(Pipeline(plan(context, order.part)), execute)
    except Interrupted:
        ledger.event("interrupted")
        _report(ledger, "interrupted")
        print(f"Continue with: {order.command}", file=sys.stderr)
        raise
    except StudyError as fault:
        ledger.event("interrupted", reason=str(fault))
        _report(ledger, "interrupted")
        raise
    finally:
        engine.stop()
    return _finish(order, ledger)


def _finish(order: Order, ledger: Ledger) -> int:
    ledger.event("stage", stage="report")
    complete = order.part in ("all", "robustness")
    if complete:
        ledger.event("finished", space=order.space.document())
    _report(ledger, "complete" if complete else "interrupted")
    crashes = [key for key in ledger.keys("trials") if is_crash(ledger.outcome(key) or {"state": ""})]
    allowed = order.space.budget.max_failed_trials
    if len(crashes) <= allowed:
        return 0
    print(
        f"{len(crashes)} trials crashed, more than budget.max_failed_trials={allowed}: {', '.join(crashes[:5])}. "
        "Each has a log.txt in its folder.",
        file=sys.stderr,
    )
    return 1


def _report(ledger: Ledger, state: str | None = None) -> None:
    """Write tables and page and print the result; a fault here must not hide how the study itself ended."""
    try:
        results = load_results(ledger.root, state)
        write_snapshots(ledger.root, results)
        page = write_report(ledger.root, results)
    except StudyError as fault:
        print(f"The report could not be written: {fault}", file=sys.stderr)
        return
    print_results(results)
    print(f"report: {page}")
