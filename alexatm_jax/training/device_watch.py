"""Notices when the devices have finished all that they were given."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections.abc import Callable
from typing import Any

import jax


class DeviceWatch:
    """Waits for what devices compute in a thread of its own, and notes when each was finished.

    The thread does not keep the process alive, and sleeps but for an instant a step.
    """

    def __init__(self, timer: Callable[[], float]) -> None:
        """Starts; `close` ends it.

        Args:
          timer: gives the time that `idle_since` is told in.
        """
        self._timer = timer
        self._given = self._finished = 0
        self._finished_at = -math.inf
        self._outputs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="device watch", daemon=True).start()

    def given(self, output: Any) -> None:
        """Tells what a step that was just given to the devices will put out."""
        self._given += 1
        self._outputs.put(output)

    def idle_since(self) -> float | None:
        """Says since when the devices have nothing to do; None if they have.

        Before the first step they have been idle since ever.
        """
        return self._finished_at if self._finished == self._given else None

    def close(self) -> None:
        """Ends the thread, once all that was given is finished."""
        self._outputs.put(None)

    def _watch(self) -> None:
        while (output := self._outputs.get()) is not None:
            with contextlib.suppress(Exception):  # whoever fetches it is told
                jax.block_until_ready(output)
            self._finished_at = self._timer()
            self._finished += 1
