"""Where the wall time of a run went, through all of its starts.

A run is one folder, whose `goodput.jsonl` gets a line whenever progress is logged and after every
checkpoint: what this start of the run has spent so far, and on what. From these lines the next
start knows what came before, a kill included:

* Steps done after the checkpoint that a later start went on from were done again: their time is
  "lost", and no longer "step".
* From the last line of a killed start to the next start the run was "down". What was done after
  that line lies in there too: nobody could write it down. It is told, and is no part of the wall
  time that goodput is a share of.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

KINDS = ("step", "input", "compile", "restore", "checkpoint", "validation", "profile", "startup")
"""What the loop spends time on: updates, waiting for batches while the devices have nothing to do,
compiling, restoring or making the state, saving as far as the loop waits for it, validation, making
a profile, and whatever comes before all of it."""

LOST = "lost"
"""The kind of steps that were done again."""


@dataclasses.dataclass(frozen=True)
class Lap:
    """What passed between two progress lines.

    Attributes:
      steps: given to the devices.
      seconds: of these steps and the waiting for their batches; nothing else is in it.
      input_wait_seconds: the part spent waiting while the devices had nothing to do.
    """

    steps: int
    seconds: float
    input_wait_seconds: float


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Where the time of a run went, all of its starts together.

    Attributes:
      starts: how often it was started.
      seconds: by KINDS and LOST; "step" are the useful ones.
      down_seconds: between starts, not part of `seconds`.
    """

    starts: int
    seconds: Mapping[str, float]
    down_seconds: float = 0.0

    @property
    def wall_seconds(self) -> float:
        """All seconds in which the run was up, as far as its lines tell."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """The goodput: useful steps' share of the wall time."""
        return self.seconds["step"] / self.wall_seconds if self.wall_seconds else 0.0

    def line(self) -> str:
        """Renders it for the log, the largest loss first."""
        losses = sorted(self.seconds.items(), key=lambda item: -item[1])
        told = [f"{kind} {_duration(s)}" for kind, s in losses if kind != "step" and s > 0]
        starts = "1 start" if self.starts == 1 else f"{self.starts} starts"
        down = f"; down {_duration(self.down_seconds)}, not counted" if self.starts > 1 else ""
        return (
            f"goodput {self.share:.1%} of {_duration(self.wall_seconds)} in {starts}: useful steps "
            f"{_duration(self.seconds['step'])}, {', '.join(told) or 'nothing else'}{down}"
        )

    def bound(
        self,
        num_devices: int,
        mfu: float | None = None,
        profiled: Mapping[str, float] | None = None,
    ) -> str:
        """Says what bounds the steps: input, communication or compute, with the figures.

        The wait for input is measured throughout. What the devices do when they need not wait is
        known from a profile alone; but a single device has nobody to communicate with.

        Args:
          num_devices: that train.
          mfu: model FLOPs as a share of the devices' peak, if that is known.
          profiled: shares of the steps' time, see `training.profiling`: "communication" that no
            computation hides, and "idle".
        """
        trained = self.seconds["step"] + self.seconds["input"]
        waiting = self.seconds["input"] / trained if trained else 0.0
        figures = [f"devices waited for input {waiting:.1%} of the time"]
        shares = {"input": waiting}
        if profiled:
            figures += [f"{name} {profiled[name]:.1%}" for name in ("communication", "idle")]
            figures[-1] += " (profile)"
            shares |= {name: (1 - waiting) * share for name, share in profiled.items()}
        elif num_devices > 1:
            figures.append("communication unknown (set TrainingConfig.profile_steps)")
        rest = "compute" if profiled or num_devices == 1 else "compute or communication"
        shares[rest] = 1 - sum(shares.values())
        if mfu is not None:
            figures.append(f"MFU {mfu:.1%}")
        return f"bound by {max(shares, key=lambda name: shares[name])}: {'; '.join(figures)}"


class Clock:
    """Counts the seconds of one start of a run, each second once, and keeps them in its folder."""

    def __init__(
        self,
        timer: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Starts in "startup"; nothing is read or written before `open`."""
        self._timer, self._wall_clock = timer, wall_clock
        self._start = wall_clock()
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._doing = ["startup"]
        self._counted = timer()
        self._steps = self._made = 0
        self._lap_began = (0, 0.0, 0.0)
        self._past = Goodput(0, {})
        self._file: TextIO | None = None

    def now(self) -> float:
        """The time by this clock, seconds."""
        return self._timer()

    def open(self, directory: str | Path, restored_step: int, writes: bool = True) -> None:
        """Reads what came before, and goes on with the file if this process `writes`.

        Args:
          restored_step: updates that were made before this start; 0 for none.
        """
        path, self._made = Path(directory) / "goodput.jsonl", restored_step
        self._past = _past(_read(path), restored_step, self._start)
        if writes:
            self._file = path.open("a", encoding="utf-8")
            if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
                self._file.write("\n")  # after a line that a kill cut off
            self.record(restored_step)

    @contextmanager
    def spending(
        self, kind: str, since: Callable[[], float | None] = lambda: -math.inf
    ) -> Iterator[None]:
        """Counts the seconds of a `with` block as `kind`; of nested blocks, the innermost counts.

        Args:
          kind: one of KINDS.
          since: asked at the end of the block: what came before that moment, by `now`, is left to
            what surrounds the block; for None, all of it.
        """
        if kind not in KINDS:
            raise ValueError(f"time was to be spent on {kind!r}; choose one of {', '.join(KINDS)}.")
        self._count()
        self._doing.append(kind)
        began, before = self._counted, self._seconds[kind]
        try:
            yield
        finally:
            self._count()
            self._doing.pop()
            moment = since()
            left = math.inf if moment is None else max(moment - began, 0.0)
            self._move(kind, self._doing[-1], min(left, self._seconds[kind] - before))

    def _move(self, kind: str, to: str, seconds: float) -> None:
        self._seconds[kind] -= seconds
        self._seconds[to] += seconds

    def step_done(self) -> None:
        """Counts a step that was given to the devices."""
        self._steps += 1
        self._made += 1

    def lap(self, longest: Callable[[float], float] = lambda wait: wait) -> Lap:
        """Ends a lap: what was counted since the last one, the devices' work being finished.

        Args:
          longest: turns the wait for input here into the longest of all processes: where one
            waits, the devices of the others wait for its own, and that is no useful step either.
        """
        self._count()
        steps, step, waited = (a - b for a, b in zip(self._lap(), self._lap_began, strict=True))
        others = min(max(longest(waited) - waited, 0.0), step)
        self._move("step", "input", others)
        self._lap_began = self._lap()
        return Lap(int(steps), step + waited, waited + others)

    def _lap(self) -> tuple[int, float, float]:
        return self._steps, self._seconds["step"], self._seconds["input"]

    def record(self, step: int) -> None:
        """Writes the line that tells what was spent until `step` updates were made."""
        if self._file is None:
            return
        self._count()
        line = {
            "start": self._start,
            "time": self._wall_clock(),
            "step": step,
            "seconds": {kind: round(s, 3) for kind, s in self._seconds.items()},
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def goodput(self) -> Goodput:
        """Adds up this start and all before it."""
        self._count()
        past = self._past
        seconds = {
            kind: self._seconds.get(kind, 0.0) + past.seconds.get(kind, 0.0)
            for kind in (*KINDS, LOST)
        }
        return Goodput(past.starts + 1, seconds, past.down_seconds)

    def close(self) -> None:
        """Writes a last line, and closes the file."""
        if self._file is not None:
            self.record(self._made)
            self._file.close()

    def _count(self) -> None:
        now = self._timer()
        self._seconds[self._doing[-1]] += now - self._counted
        self._counted = now


Line = dict[str, Any]
"""Of `goodput.jsonl`; "start" is the same for all lines of a start, both times are Unix times."""


def read_goodput(directory: str | Path) -> Goodput:
    """Tells where the time of a run went, from the lines in its folder alone.

    Steps after the last checkpoint of the last start still count as useful: whether they were
    lost is settled by the start that follows.
    """
    lines = _read(Path(directory) / "goodput.jsonl")
    if not lines:
        raise ValueError(
            f"{directory} holds no goodput.jsonl with a line in it; give the MODEL_DIR of a run."
        )
    return _past(lines, lines[-1]["step"], lines[-1]["time"])


def _read(path: Path) -> list[Line]:
    """Reads the lines, but for those that a kill cut off."""
    lines: list[Line] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _past(lines: Sequence[Line], restored_step: int, now: float) -> Goodput:
    """Adds up earlier starts, as seen by one that goes on from `restored_step`."""
    starts = [list(group) for _, group in itertools.groupby(lines, lambda line: line["start"])]
    seconds = dict.fromkeys((*KINDS, LOST), 0.0)
    down, kept_step = 0.0, restored_step
    for start in reversed(starts):
        for kind, spent in start[-1]["seconds"].items():
            seconds[kind] += spent
        lost = _lost_seconds(start, kept_step)
        seconds["step"] -= lost
        seconds[LOST] += lost
        down += max(now - start[-1]["time"], 0.0)
        now, kept_step = start[0]["start"], min(kept_step, start[0]["step"])
    return Goodput(len(starts), seconds, down)


def _lost_seconds(start: Sequence[Line], kept_step: int) -> float:
    """Adds up the time of a start's steps beyond `kept_step`, between lines in proportion."""
    lost = 0.0
    for before, after in itertools.pairwise(start):
        steps = after["step"] - before["step"]
        beyond = min(max(after["step"] - kept_step, 0), steps)
        if steps:
            spent = after["seconds"]["step"] - before["seconds"]["step"]
            lost += spent * beyond / steps
    return lost


def _duration(seconds: float) -> str:
    """Writes a duration with the two units that matter: 2 h 13 min, 4 min 5 s, 3.2 s."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
