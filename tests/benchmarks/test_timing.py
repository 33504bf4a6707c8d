"""Measurements are taken in turns, in processes of their own, and summed up by medians."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks import timing
from benchmarks.timing import BenchmarkError, Timing, Worker

SERVING = """
import os
from benchmarks.timing import Timing, serve

def prepare():
    os.write(1, b"a library says hello\\n")
    return lambda: Timing(len(os.sched_getaffinity(0)), 2.0, 1.0)

serve(prepare)
"""


def timings(*seconds: float) -> list[Timing]:
    return [Timing(100, one, 50) for one in seconds]


def test_a_step_is_repeated_for_as_long_as_asked():
    steps = []
    timing_ = timing.timed(lambda: steps.append(1) or 10, seconds=0.02)
    assert timing_.amount == 10 * len(steps) and len(steps) > 1 and timing_.seconds >= 0.02
    warm = timing.timed(lambda: steps.append(1) or 10, warm_up=0.02)
    assert warm.amount == 10
    assert timing.timed(lambda: 10 if sum(range(10**6)) else 0).amount == 10


def test_turns_alternate_and_every_other_round_goes_backwards():
    order: list[str] = []
    said: list[str] = []

    def measure(name: str):
        return lambda: order.append(name) or Timing(1, 1, 1)

    found = timing.in_turns({name: measure(name) for name in "abc"}, 3, said.append)
    assert "".join(order) == "abccbaabc" and list(map(len, found.values())) == [3, 3, 3]
    assert len(said) == 9 and "round 3/3: c" in said[-1]


def test_ratios_compare_within_a_round():
    """A round in which the whole machine was slow changes rates, and not the ratio."""
    ours, theirs = timings(1, 10, 2), timings(2, 20, 4)
    assert timing.ratio(ours, theirs) == 2
    assert timing.median_rate(ours) == 50 and timing.median_cpu_rate(ours) == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no pinning on this system")
def test_a_worker_answers_from_its_own_core(tmp_path):
    worker = Worker(["-c", SERVING], tmp_path / "log", timing.available_cores()[:1])
    try:
        worker.ready()
        assert worker.measure() == worker.measure() == Timing(1, 2.0, 1.0)
        assert "a library says hello" in (tmp_path / "log").read_text()
    finally:
        worker.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc on this system")
def test_a_worker_is_stopped_while_others_measure(tmp_path):
    worker = Worker(["-c", SERVING], tmp_path / "log")
    try:
        for wait in (worker.ready, worker.measure, worker.measure):
            wait()
            deadline = time.monotonic() + 5
            while state(worker) != "T" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert state(worker) == "T"
    finally:
        worker.close()


def state(worker: Worker) -> str:
    """The letter that Linux gives the state of a worker's process: T is stopped."""
    return Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.parametrize("asked", ["ready", "measure"])
def test_a_worker_that_ends_says_why(tmp_path, asked):
    worker = Worker(["-c", "raise SystemExit('no such corpus')"], tmp_path / "log")
    try:
        with pytest.raises(BenchmarkError, match=r"ended with 1 before.*\n.*no such corpus"):
            getattr(worker, asked)()
    finally:
        worker.close()


def test_nothing_timed_is_refused():
    with pytest.raises(BenchmarkError, match="timed nothing"):
        Timing(0, 1.0, 1.0)


def test_versions_are_of_what_is_installed():
    assert set(timing.versions("numpy", "no-such-package")) == {"python", "numpy"}
