"""What a pipe and a terminal are told."""

import io
import random
import time

from rich.console import Console

from study.engine.job import Job
from study.fronts import non_dominated
from study.progress import LiveProgress, PlainProgress, Tally, duration, progress_for, summary

COMPLETE = {
    "state": "COMPLETE",
    "reason": None,
    "values": {"accuracy": 0.9, "adversarial_accuracy": 0.4},
    "metrics": {},
    "seconds": 2.0,
}
FAILED = {"state": "FAIL", "reason": "diverged", "values": None, "metrics": {}, "seconds": 1.0}


def job(number):
    return Job("/s", f"trials/{number:06d}", "student")


def test_a_pipe_gets_a_line_per_event_and_no_escape_codes():
    stream = io.StringIO()
    progress = progress_for(stream, refresh_s=1, heartbeat_s=30)
    assert isinstance(progress, PlainProgress)
    with progress.showing():
        progress.stage("search", 3, 1)
        progress.started(job(1))
        progress.settled(job(1), COMPLETE)
        progress.started(job(2))
        progress.settled(job(2), FAILED)
        progress.note("a worker was lost")
    lines = stream.getvalue().splitlines()
    assert lines == [
        "stage search: 3 jobs, 1 settled earlier",
        "trials/000001: complete, accuracy 0.900, adversarial_accuracy 0.400, 2.0 s (2/3 done, 0 running, 0 failed)",
        "trials/000002: FAIL, diverged (3/3 done, 0 running, 1 failed)",
        "a worker was lost",
    ]


def test_a_heartbeat_tells_that_work_goes_on():
    stream = io.StringIO()
    progress = PlainProgress(stream, heartbeat_s=0.02)
    with progress.showing():
        progress.stage("search", 2, 0)
        progress.started(job(0))
        time.sleep(0.2)
    assert "search: 0/2 done, 1 running, 0 failed" in stream.getvalue()
    length = len(stream.getvalue())
    assert len(stream.getvalue()) == length


def test_a_terminal_gets_stage_counts_and_front():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    progress = LiveProgress(console, 1.0)
    with progress.showing():
        progress.stage("search", 3, 0)
        for number, values in enumerate([(0.9, 0.4), (0.8, 0.6), (0.7, 0.5)]):
            progress.started(job(number))
            outcome = {**COMPLETE, "values": dict(zip(("accuracy", "adversarial_accuracy"), values, strict=True))}
            progress.settled(job(number), outcome)
    screen = console.file.getvalue()
    assert "search front, 2 of 3 trials" in screen
    assert "3/3 done" in screen
    assert "0.900" in screen
    assert "0.700" not in screen


def test_time_left_is_unknown_before_three_jobs_and_counts_workers():
    tally = Tally()
    tally.begin("search", 11, 1)
    tally.width = 2
    assert tally.seconds_left is None
    tally.seconds, tally.done = [10.0, 20.0, 30.0], 4
    assert tally.seconds_left == 20.0 * 7 / 2
    assert (duration(20), duration(600), duration(3 * 3600)) == ("20 s", "10 min", "3.0 h")


def test_the_front_so_far_is_the_front_of_all():
    """Kept by comparing each new trial with the front alone."""
    draw, tally, points = random.Random(0), Tally(), {}
    for number in range(300):
        point = (draw.randrange(30) / 30, draw.randrange(30) / 30)
        key = job(number).key
        points[number] = (key, *point)
        outcome = {**COMPLETE, "values": dict(zip(("accuracy", "adversarial_accuracy"), point, strict=True))}
        tally.end(key, outcome)
    on_front = non_dominated([point for _, *point in points.values()])
    whole = [each for each, member in zip(points.values(), on_front, strict=True) if member]
    assert sorted(tally.front) == sorted(whole)
    assert tally.measured == 300


def test_jobs_without_objectives_are_summed_up_too():
    attacked = {
        **COMPLETE,
        "values": None,
        "metrics": {"accuracy": 0.9, "robust": [{"robust_accuracy": 0.5, "epsilon": 0.0625}]},
    }
    assert summary(attacked) == "complete, accuracy 0.900, robust 0.500 at 0.0625, 2.0 s"
