"""One launch: check, prepare the folder, run the stages, report, and return the exit code.

The driver never trains or attacks; all of that is done by the workers of an engine.
"""

import contextlib
import functools
import shlex
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from nodekd.data.corruptions import open_corruptions
from nodekd.data.dataset import SPLITS, DataConfig, load
from nodekd.data.views import count_views
from nodekd.errors import NodekdError
from study.copying import Target, copy_study, open_target
from study.disk_space import Room
from study.durable import writable
from study.engine.job import Engine
from study.engine.nodes import Needs
from study.engine.ray_tune import RayTuneEngine
from study.engine.signals import GRACE_S, Farewell, leave, watched_signals
from study.errors import EnvironmentFault, Interrupted, StudyError
from study.identity import (
    check_same_data,
    check_same_teachers,
    check_still_ours,
    is_complete,
    is_done,
    study_folder,
    study_id,
    write_identity,
)
from study.jobs.execute import execute
from study.jobs.probe_node import split_hash
from study.ledger import Ledger
from study.metering import MeteredProgress
from study.order import Order
from study.points import count_trials
from study.preview import banner, plan_text, resumed_text
from study.progress import Progress, progress_for
from study.report.page import write_report
from study.results import load as load_results
from study.results import write_snapshots
from study.show import print_results
from study.space.settings import Space
from study.space.undistilled import without_distillation
from study.stages.batch import is_crash, wait_for_survivors
from study.stages.context import Context, Facts
from study.stages.fork import fork_of, is_torn, plan_fork, take_over
from study.stages.pipeline import Pipeline
from study.stages.plan import plan
from study.stages.searches import STUDENTS, UNDISTILLED, Searched
from study.stages.teachers import checkpoint_path, teacher_keys
from study.warm_start import settle_warm_start

_REPORTED = ("trials.parquet", "history.parquet", "robustness.parquet", "report/index.html")
"""What a report leaves in the study's folder."""


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
    with writable(order.folder):
        folder = study_folder(order)
    farewell = Farewell("no job is running", continuing(order, folder))
    with watched_signals(farewell.say, leave) as signals, signals.interrupting():
        return _launch(order, folder, engine)


def _launch(order: Order, folder: Path, engine: Engine | None) -> int:
    facts = study_facts(order.space)
    target = None if order.copy_to is None else open_target(order.copy_to, study_id(folder))
    if order.validate or order.dry_run:
        print(plan_text(order, facts, folder) if order.dry_run else f"{order.source}: the space is valid.")
        return 0
    ledger = Ledger(folder)
    if order.part == "report":
        load_results(folder)
        with writable(folder):
            _report(ledger)
        _copy(order, ledger, target)
        return 0
    with ledger.lock():
        with writable(folder):
            check_still_ours(order, folder)
        check_same_data(ledger, facts)
        if is_done(ledger, order):
            print(f"{folder} is complete; nothing is left to do.")
            if _is_reported(ledger):
                print_results(load_results(folder, "complete"))
            else:
                with writable(folder):
                    _report(ledger, "complete")
            _copy(order, ledger, target)
            return 0
        engine = engine or _ray_engine(order, folder)
        progress = _progress(order, engine, ledger, facts)
        room = Room(ledger.root, progress.note)
        room.wait()
        context = Context(order.space, ledger, facts, progress, smoke=order.smoke, generation=order.generation)
        teachers = teacher_keys(context)
        check_same_teachers(ledger, teachers)
        with writable(folder):
            _identify(order, context, teachers, "ray" if isinstance(engine, RayTuneEngine) else type(engine).__name__)
            settle_warm_start(ledger, order.space, facts.split_hash)
            ledger.event("launched", command=order.command, part=order.part)
        code = _run(order, context, progress, engine, room)
        _copy(order, ledger, target)
        return code


def _identify(order: Order, context: Context, teachers: Sequence[str], engine: str) -> None:
    """Write what the study is, and take over what it forks before it asks for its first trial."""
    ledger, facts = context.ledger, context.facts
    stored = fork_of(ledger)
    if order.fork is None:
        write_identity(ledger, order, facts, teachers, engine, stored)
        return
    fork = stored or plan_fork(context, order.fork)
    write_identity(ledger, order, facts, teachers, engine, fork)
    if stored is None or is_torn(ledger, fork):
        take_over(context, order.fork, fork)
        ledger.event("forked", **fork.record())
        print(fork.sentence)


def study_facts(space: Space) -> Facts:
    """Read the data once, so that a fault in it is told before anything starts.

    Raises:
        EnvironmentFault: If data, a checkpoint or corrupted images are missing, or data are damaged.
    """
    data, probes = space.data, space.probes
    for index, teacher in enumerate(space.teachers):
        if teacher.checkpoint:
            with asked_for(space, f"teachers.{index}.checkpoint"):
                checkpoint_path(teacher.checkpoint)
    if probes.corruption_root is not None and probes.noise:
        with asked_for(space, "probes.corruption_root"):
            open_corruptions(probes.corruption_root, data.name, probes.noise)
    with asked_for(space, "data.root", "data.name"):
        dataset = load(DataConfig(data.name, data.root, data.image_size, data.shuffle), splits=SPLITS)
    return Facts(
        classes=dataset.classes,
        split_hash=dataset.split_hash,
        sizes={name: len(split) for name, split in dataset.splits.items()},
        views=count_views(dataset.augmentation),
    )


@contextlib.contextmanager
def asked_for(space: Space, *keys: str) -> Iterator[None]:
    """Say of a missing or damaged file which line of the space asks for it."""
    place = next((space.asked_at[key] for key in keys if key in space.asked_at), None)
    try:
        yield
    except (NodekdError, EnvironmentFault) as fault:
        raise EnvironmentFault(str(fault) if place is None else f"{place} {fault}") from fault


def _progress(order: Order, engine: Engine, ledger: Ledger, facts: Facts) -> Progress:
    """Return who is told of progress: a person, and where the engine passes numbers on, those who collect them."""
    settings, meter = order.space.progress, getattr(engine, "meter", None)
    shown = progress_for(sys.stdout, refresh_s=settings.refresh_s, heartbeat_s=settings.heartbeat_s)
    if meter is None:
        return shown
    return MeteredProgress(shown, meter, ledger, order.space.study.name, (1 / facts.classes, 0.0))


def _ray_engine(order: Order, folder: Path) -> Engine:
    space, data = order.space, order.space.data
    root = str(Path(data.root).expanduser().resolve())
    return RayTuneEngine(
        cpus=space.resources.cpus,
        gpus=space.resources.gpus,  # pyright: ignore[reportArgumentType] - checked by the space
        concurrency=space.budget.concurrency,
        address=order.address,
        insecure=order.insecure,
        needs=Needs(folder, functools.partial(split_hash, data.name, root, data.image_size, data.shuffle)),
    )


def _run(order: Order, context: Context, progress: Progress, engine: Engine, room: Room) -> int:
    """Run and report; what ends it too early, a signal or a fault, is noted and marked in the report.

    A first signal is answered at once, whatever is being done; a second one ends the process.
    """
    ledger = context.ledger
    farewell = Farewell(f"jobs have {GRACE_S:.0f} s to keep where they stand", continuing(order, ledger.root))
    with watched_signals(farewell.say, leave) as signals:
        try:
            with signals.interrupting():
                return _carry_out(order, context, progress, engine, room, farewell)
        except Interrupted as interruption:
            signals.heard(interruption)
            farewell.say()
            with room.forgiven():
                ledger.event("interrupted")
            with room.forgiven():
                if not interruption.is_impatient:
                    _report(ledger, "interrupted")
            raise
        except StudyError as fault:
            with room.forgiven():
                ledger.event("interrupted", reason=str(fault))
                _report(ledger, "interrupted")
            raise


def _carry_out(
    order: Order, context: Context, progress: Progress, engine: Engine, room: Room, farewell: Farewell
) -> int:
    ledger, resumed = context.ledger, resumed_text(context.ledger)
    wait_for_survivors(ledger, progress)
    try:
        dashboard = engine.start()
        print(banner(order, context.facts, ledger.root, engine, dashboard, resumed))
        with progress.showing():
            planned = room.retry(
                lambda: _run_stages(order, context, engine, room, farewell),
                lambda: wait_for_survivors(ledger, progress),
            )
    finally:
        engine.stop()
    return room.retry(lambda: _finish(order, ledger, planned))


def _run_stages(order: Order, context: Context, engine: Engine, room: Room, farewell: Farewell) -> set[str]:
    """Run what the files say is missing; return the jobs of all stages."""
    stream = sys.stderr  # of now: a job that runs in this process sends what is printed to its log

    def pause() -> None:
        farewell.say(stream)
        context.ledger.ask_to_pause()

    context.ledger.clear_pause()
    pipeline = Pipeline(plan(context, order.part), pause, room)
    engine.run(pipeline, execute)
    return pipeline.planned


def _finish(order: Order, ledger: Ledger, planned: set[str]) -> int:
    """Report, and call the study finished only if nothing is missing that the same command would still do.

    Of crashes those count that this launch saw to, and those of trials, which no stage plans; what crashed under
    settings that have changed since, or as a candidate that is none any more, is no longer asked for.
    """
    ledger.event("stage", stage="report")
    budget = order.space.budget
    others = _crashed(ledger, sorted(planned))
    by_search = [_crashed(ledger, ledger.numbered(searched.folder)) for searched, _ in _searches(order.space)]
    trials = max(by_search, key=len)  # each search may fail that often
    searched = order.part == "all" or _is_searched(order.space, ledger)
    complete = order.part != "search" and searched and not others and len(trials) <= budget.max_failed_trials
    _report(ledger, "complete" if complete else "incomplete")
    if order.part != "all" and not complete:
        print(f"only --stage {order.part} was asked for; the rest: {continuing(order, ledger.root, whole=True)}")
    if len(trials) > budget.max_failed_trials:
        most = f"more than budget.max_failed_trials={budget.max_failed_trials}"
        _complain(
            f"{len(trials)} trials crashed, {most}, so the search ended and nothing was chosen from it or attacked. "
            "Mend the cause; the same command with a larger limit goes on",
            trials,
        )
    if others:
        _complain(f"{len(others)} jobs crashed; the same command tries them again", others)
    if complete:  # comes last: what is killed before it, be it in the report, is done again by the same command
        ledger.event("finished", space=order.space.document())
    else:
        ledger.event("ended", part=order.part)
    return 0 if not others and len(trials) <= budget.max_failed_trials else 1


def _crashed(ledger: Ledger, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if is_crash(ledger.outcome(key) or {"state": ""})]


def _searches(space: Space) -> list[tuple[Searched, Space]]:
    baseline = [(UNDISTILLED, without_distillation(space))] if space.robustness.undistilled_search else []
    return [(STUDENTS, space), *baseline]


def _is_searched(space: Space, ledger: Ledger) -> bool:
    """Tell whether every search that is asked for has begun all its trials."""
    return all(
        len(ledger.numbered(searched.folder)) >= count_trials(own, own.budget.trials)
        for searched, own in _searches(space)
    )


def _copy(order: Order, ledger: Ledger, target: Target | None) -> None:
    """Copy a study that is complete to where it was asked for."""
    if target is None:
        return
    if not is_complete(ledger):
        print(f"Not copied to {target.uri}: the study is not complete.", file=sys.stderr)
        return
    what = f"the study is complete, its copy to {target.uri} is not"
    with watched_signals(Farewell(what, continuing(order, ledger.root)).say, leave) as signals:
        try:
            with signals.interrupting():
                copied = copy_study(ledger.root, target)
        except Interrupted as interruption:
            raise Interrupted(f"The copy to {target.uri} was stopped.", interruption.exit_code) from None
    print(
        f"copied     {copied.files} files ({copied.bytes / 1e6:.1f} MB) to {target.uri}, {copied.unchanged} unchanged"
    )


def _complain(sentence: str, keys: list[str]) -> None:
    print(f"{sentence}: {', '.join(keys[:5])}. Each has a log.txt in its folder.", file=sys.stderr)


def continuing(order: Order, folder: Path, *, whole: bool = False) -> str:
    """Return the command that goes on with this study, also where it began with `--resume never`.

    Args:
        order: Of this launch.
        folder: The study's.
        whole: Go on with all stages, also where only one was asked for.
    """
    asked = ("--stage",) if whole else ()
    if order.resume != "never":
        return shlex.join(order.command_without(*asked))
    return shlex.join([*order.command_without("--resume", "--output", *asked), "--output", str(folder)])


def _is_reported(ledger: Ledger) -> bool:
    """Tell whether tables and page were written since the last launch began; older ones do not show how it ended."""
    launches = [event for event in ledger.events() if event.get("type") == "launched"]
    try:
        since = max(datetime.fromisoformat(event["ts"]).timestamp() for event in launches)
    except (KeyError, TypeError, ValueError, OverflowError):  # nobody can say when, or there was none
        return False
    written = [ledger.root / name for name in _REPORTED]
    return all(path.is_file() and path.stat().st_mtime >= since for path in written)


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
