"""Stops a run on SIGTERM, on all machines behind the same step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alexatm_jax import cluster


@contextmanager
def termination() -> Iterator[Callable[[int], bool]]:
    """Turns SIGTERM into a wish to stop, while steps run and the last checkpoint is written.

    Outside the main thread, to which signals go, only the other processes' wishes are heard.

    Yields:
      `agreed(step)`: whether to save and stop behind this step. To be called by every process
      behind every step, once it was given to the devices. Alone it answers at once; several
      processes agree on one step that none has passed, so one or a few later, and otherwise
      neither send anything nor wait.
    """
    received: list[int] = []

    def agreed(step: int) -> bool:
        return cluster.agreed_to_stop(step, wish=bool(received))

    if threading.current_thread() is not threading.main_thread():
        yield agreed
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield agreed
    finally:
        signal.signal(signal.SIGTERM, previous)
