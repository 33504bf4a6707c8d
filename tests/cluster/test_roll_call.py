"""Who calls, in which order, and who is heard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import pytest

from alexatm_jax.cluster import roll_call
from alexatm_jax.cluster.lines import Line
from alexatm_jax.cluster.place import ClusterError, Place


@pytest.fixture
def place(port) -> Place:
    """Process 0 of 3."""
    return Place(f"localhost:{port}", 3, 0)


@pytest.fixture
def answer(place) -> Iterator[Future[Any]]:
    """What the roll call of process 0 gives, which runs meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(roll_call.call_roll, place, 20)


@pytest.fixture
def say_hello(place) -> Iterator[Callable[[int], Line]]:
    """Says hello as a process of that number; its line is open until the end."""
    with contextlib.ExitStack() as closing:

        def caller(process_id: int) -> Line:
            line = Line(roll_call._connection(place, 20))
            closing.callback(line.close)
            line.send(asdict(roll_call.own_hello(replace(place, process_id=process_id))))
            return line

        yield caller


def close(lines: Mapping[int, Line]) -> None:
    for line in lines.values():
        line.close()


def test_a_process_that_died_may_be_started_again(answer, say_hello):
    say_hello(1).close()
    callers = [say_hello(k) for k in (1, 2)]
    hosts, lines = answer.result()
    assert sorted(lines) == [1, 2] and len(hosts) == 3
    for line in callers:
        assert line.receive(20)["hosts"] == hosts
    close(lines)


def test_one_that_lives_keeps_its_number(answer, say_hello):
    callers = [say_hello(1) for _ in range(2)]
    with pytest.raises(ClusterError, match="two processes have the number 1"):
        answer.result()
    for line in callers:
        assert "two processes have the number 1" in line.receive(20)["problem"]


def test_one_that_died_behind_its_hello_does_not_end_the_roll_call(answer, say_hello):
    """It is the watch that names it, in all processes."""
    say_hello(2).close()
    say_hello(1)
    _, lines = answer.result()
    assert lines[2].is_closed() and not lines[1].is_closed()
    close(lines)
