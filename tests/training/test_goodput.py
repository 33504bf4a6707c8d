"""Seconds by a clock that stands still: each is counted once, through any number of starts."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.training.goodput import KINDS, LOST, Clock, Goodput, Lap, read_goodput


class Time:
    """Seconds that pass only when they are told to."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def clock(self) -> Clock:
        return Clock(self, self)


@pytest.fixture
def now():
    return Time()


def spent(goodput: Goodput) -> dict[str, float]:
    return {kind: round(s, 3) for kind, s in goodput.seconds.items() if s}


def train(now: Time, folder, first: int, last: int, seconds_per_step: float, saves=()) -> Clock:
    """One start of a run, a line after every step, ended by a kill."""
    clock = now.clock()
    now.now += 3
    clock.open(folder, first)
    with clock.spending("compile"):
        now.now += 5
    with clock.spending("step"):
        for step in range(first + 1, last + 1):
            now.now += seconds_per_step
            clock.step_done()
            if step in saves:
                with clock.spending("checkpoint"):
                    now.now += 1
            clock.record(step)
    clock.close()
    return clock


moments = st.none() | st.floats(-1, 9)


@given(
    st.recursive(
        st.lists(st.tuples(st.sampled_from(KINDS), moments), max_size=2),
        lambda inner: st.lists(st.tuples(st.sampled_from(KINDS), moments, inner), max_size=3),
        max_leaves=8,
    )
)
def test_every_second_is_counted_once_however_blocks_nest(blocks):
    now = Time()
    clock = now.clock()

    def spend(blocks):
        for kind, moment, *inner in blocks:
            since = moment and now.now + moment
            with clock.spending(kind, since=lambda since=since: since):
                now.now += 1
                spend(inner[0] if inner else ())
                now.now += 2

    spend(blocks)
    assert math.isclose(clock.goodput().wall_seconds, now.now - 1e9)


def test_a_block_is_what_is_in_it_but_for_the_blocks_within(now):
    clock = now.clock()
    with clock.spending("step"):
        now.now += 4
        with clock.spending("input"):
            now.now += 2
        with clock.spending("input", since=lambda: None):  # the devices still computed
            now.now += 1
        with clock.spending("checkpoint"):
            now.now += 8
    assert spent(clock.goodput()) == {"step": 5, "input": 2, "checkpoint": 8}
    assert clock.goodput().share == 5 / 15


def test_a_wait_counts_from_when_the_devices_have_nothing_to_do(now):
    clock = now.clock()
    with clock.spending("step"):
        for idle_after, seconds in ((-5, 3), (2, 3), (3, 3), (9, 3)):
            since = now.now + idle_after
            with clock.spending("input", lambda since=since: since):
                now.now += seconds
    assert spent(clock.goodput()) == {"input": 3 + 1, "step": 2 + 3 + 3}


def test_the_longest_wait_of_all_processes_counts(now):
    clock = now.clock()
    with clock.spending("step"):
        for others in (4, 100):
            with clock.spending("input"):
                now.now += 1
            now.now += 9
            clock.step_done()
            lap = clock.lap(lambda own, others=others: max(own, others))
            assert lap == Lap(steps=1, seconds=10, input_wait_seconds=min(others, 10))
    assert spent(clock.goodput()) == {"input": 14, "step": 6}


def test_a_lap_holds_its_steps_and_their_wait(now):
    clock = now.clock()
    with clock.spending("step"):
        for waits in (1, 2, 3):
            with clock.spending("input"):
                now.now += waits
            now.now += 10
            clock.step_done()
            with clock.spending("validation"):
                now.now += 100
            if waits > 1:
                lap = clock.lap()
    assert lap == Lap(steps=1, seconds=13, input_wait_seconds=3)


def test_steps_done_again_are_lost(now, tmp_path):
    """Killed after step 8, the last checkpoint at 6; down for 60 seconds; then to the end."""
    train(now, tmp_path, 0, 8, 2.0, saves=(3, 6))
    now.now += 60
    clock = train(now, tmp_path, 6, 10, 1.0)
    found = clock.goodput()
    wanted = {"step": 6 * 2 + 4, LOST: 2 * 2, "compile": 10, "startup": 6, "checkpoint": 2}
    assert spent(found) == spent(read_goodput(tmp_path)) == wanted
    assert (found.starts, found.down_seconds) == (2, 60)
    assert found.share == 16 / 38
    assert found.line() == (
        "goodput 42.1% of 38.0 s in 2 starts: useful steps 16.0 s, compile 10.0 s, startup 6.0 s, "
        "lost 4.0 s, checkpoint 2.0 s; down 1 min 0 s, not counted"
    )


def test_what_an_earlier_checkpoint_undoes_is_lost_in_every_start(now, tmp_path):
    for first, last in ((0, 4), (4, 7), (2, 5)):
        clock = train(now, tmp_path, first, last, 1.0)
    assert clock.goodput().seconds[LOST] == (4 - 2) + (7 - 4)
    assert clock.goodput().seconds["step"] == 5


def test_lines_a_kill_cut_off_are_passed_over(now, tmp_path):
    train(now, tmp_path, 0, 4, 1.0)
    path = tmp_path / "goodput.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:-20])
    clock = train(now, tmp_path, 3, 4, 1.0)
    # The step whose line is gone is nobody's: it lies in the time that the run was down.
    assert spent(clock.goodput()) == {"step": 4, "compile": 10, "startup": 6}
    assert clock.goodput().down_seconds == 1
    assert json.loads(path.read_text().splitlines()[-1])["step"] == 4


def test_one_process_of_many_writes(now, tmp_path):
    clock = now.clock()
    clock.open(tmp_path, 0, writes=False)
    clock.record(1)
    clock.close()
    assert list(tmp_path.iterdir()) == []


def test_between_two_lines_steps_are_lost_in_proportion(now, tmp_path):
    clock = now.clock()
    clock.open(tmp_path, 0)
    with clock.spending("step"):
        now.now += 10
    clock.record(5)
    clock.close()
    again = now.clock()
    again.open(tmp_path, 4)
    again.close()
    assert spent(again.goodput()) == {"step": 8, LOST: 2}


@pytest.mark.parametrize(
    ("seconds", "arguments", "wanted"),
    [
        ((90, 10), (1,), "compute: devices waited for input 10.0% of the time"),
        (
            (40, 60),
            (8,),
            "input: devices waited for input 60.0% of the time; communication unknown",
        ),
        ((90, 10), (8,), "compute or communication: devices"),
        (
            (90, 10),
            (8, 0.412, {"communication": 0.3, "idle": 0.1}),
            "compute: devices waited for input 10.0% of the time; communication 30.0%; idle 10.0% "
            "(profile); MFU 41.2%",
        ),
        ((90, 10), (8, None, {"communication": 0.6, "idle": 0.1}), "communication: "),
        ((90, 10), (1, None, {"communication": 0.0, "idle": 0.7}), "idle: "),
        ((0, 0), (1,), "compute: "),
    ],
)
def test_the_closing_line_names_the_largest_share(seconds, arguments, wanted):
    goodput = Goodput(1, dict(zip(("step", "input"), seconds, strict=True)))
    assert goodput.bound(*arguments).startswith(f"bound by {wanted}")


def test_mistakes_are_named(now, tmp_path):
    with pytest.raises(ValueError, match="'stepp'; choose one of step, input"):
        with now.clock().spending("stepp"):
            pass
    with pytest.raises(ValueError, match="holds no goodput.jsonl"):
        read_goodput(tmp_path)
