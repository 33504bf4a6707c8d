"""Devices are idle from when they finish what they were given last."""

from __future__ import annotations

import math
import threading
import time

import jax.numpy as jnp
import pytest

from alexatm_jax.training.device_watch import DeviceWatch


class Output:
    """Stands for what a device is still computing."""

    def __init__(self, error: Exception | None = None) -> None:
        self.finished, self._error = threading.Event(), error

    def block_until_ready(self) -> None:
        self.finished.wait()
        if self._error:
            raise self._error


@pytest.fixture
def watch():
    made = DeviceWatch(time.perf_counter)
    yield made
    made.close()


def until_idle(watch: DeviceWatch) -> float:
    deadline = time.perf_counter() + 10
    while (since := watch.idle_since()) is None:
        assert time.perf_counter() < deadline
        time.sleep(0.001)
    return since


def test_before_the_first_step_devices_are_idle(watch):
    assert watch.idle_since() == -math.inf


def test_devices_are_busy_until_the_last_step_is_finished(watch):
    first, last = Output(), Output(RuntimeError("it failed"))
    watch.given(first)
    watch.given(last)
    first.finished.set()
    time.sleep(0.01)
    assert watch.idle_since() is None
    before = time.perf_counter()
    last.finished.set()
    assert before < until_idle(watch) < time.perf_counter()


def test_arrays_are_waited_for(watch):
    watch.given(jnp.zeros(()) + 1)
    assert until_idle(watch) > 0
