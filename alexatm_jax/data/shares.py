"""Decides which task of a mixture comes next, so that each has its share of the text tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np


class Shares:
    """Always names the task that lags most behind its share.

    A task of rate r that has served c text tokens, and whose next example has n more, is due
    when the stream has read (c + u n) / r in all, with a phase u of its own in (0, 1); the task
    that is due first comes next. So no task ever leads or lags by more than about one example
    of its own, whatever the lengths of its documents.

    Were u the same everywhere, all streams would serve the same task first and a small one
    last. A phase that is uniform over the streams makes what they have read of a task, on
    average, exactly its share at every moment, and phases spaced evenly over them keep the sum
    near it. Each task spaces its phases in another order of the streams, lest one begin with
    all of its tasks and another with none. (Our choice: the paper gives shares, recipe §2, and
    no way to keep them.)

    Attributes:
      served: text tokens of each task so far, int64 [tasks].
      sizes: text tokens of each task's next example, int64 [tasks]; the caller keeps them.

    Args:
      rates: of the tasks; they need not sum to 1. A task without any is never due.
      stream: number of the stream.
      num_streams: how many streams there are.
    """

    def __init__(self, rates: Sequence[float], stream: int, num_streams: int) -> None:
        self._rates = np.asarray(rates) / math.fsum(rates)
        self._phases = np.where(self._rates > 0, _phases(num_streams, len(rates))[stream], np.inf)
        self.served = np.zeros(len(rates), np.int64)
        self.sizes = np.where(self._rates > 0, 0, 1)

    def next_task(self) -> int:
        """Gives the task that is due first; of several, the one that stands first."""
        return int(self._due().argmin())

    def next_of(self, tasks: np.ndarray) -> int:
        """Gives the one of these tasks, int [n], n >= 1, that is due first."""
        return int(tasks[self._due()[tasks].argmin()])

    def lead(self, tasks: np.ndarray) -> float:
        """Counts the text tokens that these tasks, int [n], are together ahead of their share."""
        due = self._rates[tasks].sum() * self.served.sum()
        return float(self.served[tasks].sum() - due)

    def _due(self) -> np.ndarray:
        return (self.served + self._phases * self.sizes) / self._rates


@functools.lru_cache(maxsize=1)
def _phases(num_streams: int, num_tasks: int) -> np.ndarray:
    """Deals the phases 1/2, 3/2, ... of num_streams to the streams, to each task anew."""
    order = np.random.default_rng(0).random((num_streams, num_tasks)).argsort(axis=0)
    return (order + 0.5) / num_streams
