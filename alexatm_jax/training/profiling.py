"""Profiles given steps of a run, and says where their time went."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import jax

from alexatm_jax.training.time_by_part import Breakdown, time_by_part
from alexatm_jax.whole_files import write_whole

logger = logging.getLogger(__name__)


def parse_steps(text: str) -> range:
    """Reads such as "100:105", from when 100 updates are made until 105 are.

    Raises:
      ValueError: unless it is two numbers, the second one larger.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError(
            f"profile_steps is {text!r}; give the updates made before and after the steps to "
            "profile, such as 100:105."
        )
    return range(int(found[1]), int(found[2]))


class Profile:
    """Traces the steps asked for, of the program that runs when they begin."""

    def __init__(self, steps: str | None, directory: str | Path) -> None:
        """Prepares to write into a folder.

        Args:
          steps: see `parse_steps`; None profiles nothing.
          directory: gets `profile.txt`, and the trace for TensorBoard and Perfetto.
        """
        self._steps = parse_steps(steps) if steps else range(0)
        self._directory = Path(directory)
        self._first: int | None = None
        self._ran: tuple[int, Any, jax.stages.Compiled] | None = None
        self.found: Breakdown | None = None

    @property
    def shares(self) -> dict[str, float] | None:
        """Shares of the profiled time, for `goodput.Goodput.bound`; None before there is one."""
        return self.found.shares if self.found else None

    def begins(self, made: int) -> bool:
        """Whether the next step is the first of those asked for, so many updates being made."""
        return self._first is None and not self.found and made in self._steps

    def ends(self, made: int) -> bool:
        """Whether a trace runs, and the step just given to the devices is its last."""
        return self._first is not None and made >= self._steps.stop

    def before_step(self, made: int) -> None:
        """Starts the trace if it `begins`; what runs on devices should be finished."""
        if not self.begins(made):
            return
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it would slow the host and tells nothing here
        jax.profiler.start_trace(str(self._directory), profiler_options=options)
        self._first = made

    def after_step(self, made: int, outputs: Any, program: jax.stages.Compiled) -> None:
        """Ends the trace if the step was the last one of those asked for.

        Args:
          made: updates given to the devices so far.
          outputs: of the step, to wait for.
          program: what the step ran.
        """
        if self._first is not None:
            self._ran = made, outputs, program
            if self.ends(made):
                self.close()

    def close(self) -> None:
        """Ends a trace that still runs, such as at the end of a phase, and reports on it."""
        first, self._first = self._first, None
        if first is None:
            return
        if self._ran is None:  # the step failed
            jax.profiler.stop_trace()
            return
        last, outputs, program = self._ran
        jax.block_until_ready(outputs)
        jax.profiler.stop_trace()
        try:
            self.found = time_by_part(self._directory, program.as_text() or "", last - first)
        except Exception:  # whatever a tracer wrote, a run does not end for it
            logger.exception("the trace in %s cannot be broken down", self._directory)
        else:
            self._report(f"a step, on average over those from {first} to {last}:", self.found)

    def _report(self, heading: str, found: Breakdown) -> None:
        path = self._directory / "profile.txt"
        logger.info("profile of %s\n%s", heading, found)
        longest = f"The longest instructions:\n{found.longest_text()}"
        write_whole(path, f"{heading}\n{found}\n\n{longest}\n".encode())
        logger.info("wrote %s; the trace beside it opens in TensorBoard or Perfetto", path)
