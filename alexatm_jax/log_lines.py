"""What the commands print while they work."""

from __future__ import annotations

import logging
import sys


def print_log_lines() -> None:
    """Prints this package's log on standard error, each line with the time of day."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    package = logging.getLogger("alexatm_jax")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


def mark_log_lines(process: int) -> None:
    """Puts the process's number before its log lines; all but process 0 print warnings only."""
    package = logging.getLogger("alexatm_jax")
    for handler in package.handlers:
        marked = logging.Formatter(f"%(asctime)s [process {process}] %(message)s", "%H:%M:%S")
        handler.setFormatter(marked)
    if process > 0:
        package.setLevel(logging.WARNING)
