"""Which peers take part in a comparison, and which are missing and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.shapes import Shape
from benchmarks.timing import Timing, Worker, in_turns

PUBLISHED, BART, T5X = "published", "BART", "scalable_t5"

WANTED = {
    PUBLISHED: "--published_python, a Python with torch, transformers 4.29.2 and "
    "alexa-teacher-models",
    BART: "--bart_python, a Python with torch and transformers",
    T5X: "--t5x, the root of a checkout of T5X",
}
"""What each peer needs."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a worker process.

    Attributes:
      module: of `benchmarks`, which serves.
      settings: what it is told.
      python: what runs it.
    """

    module: str
    settings: Mapping[str, Any]
    python: str = sys.executable


@dataclass(frozen=True)
class Compared:
    """What came out, by the sides' names."""

    timings: dict[str, list[Timing]]
    peak_bytes: dict[str, int | None]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what says where peers are."""
    parser.add_argument("--published_python", metavar="PATH", help=WANTED[PUBLISHED])
    parser.add_argument("--bart_python", metavar="PATH", help=WANTED[BART])
    parser.add_argument("--t5x", metavar="PATH", help=WANTED[T5X])
    parser.add_argument(
        "--torch_compile", action="store_true", help="the PyTorch peers compiled, too"
    )


def sides_of_peers(
    task: str, shape: Shape, steps: int, options: argparse.Namespace
) -> tuple[dict[str, Side], dict[str, str]]:
    """Gives the peers that the options name, and for each other one what would be needed.

    Args:
      task: "train", or "decode", which only the published class does.
      steps: of a measurement.
    """
    pythons = {PUBLISHED: options.published_python, BART: options.bart_python, T5X: options.t5x}
    wanted = list(pythons) if task == "train" else [PUBLISHED]
    left_out = {name: f"give {WANTED[name]}" for name in wanted if not pythons[name]}
    sides = {}
    for name in wanted:
        if name in left_out:
            continue
        told = {"task": task, "shape": asdict(shape), "steps": steps}
        if name == T5X:
            sides[name] = Side("t5x_peer", told | {"peer": options.t5x})
            continue
        for peer in (name, f"{name}, compiled") if options.torch_compile else (name,):
            sides[peer] = Side("torch_peer", told | {"peer": peer}, pythons[name])
    return sides, left_out


def compare(
    sides: Mapping[str, Side],
    rounds: int,
    tell: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Compared:
    """Prepares the sides one after the other, then measures them in turns.

    Args:
      environment: of the workers; without it accelerators are hidden from them.

    Raises:
      BenchmarkError: if a worker ends; with the end of what it printed.
    """
    with TemporaryDirectory(prefix="benchmark_") as folder, ExitStack() as stack:
        workers, found = {}, {}
        for number, (name, side) in enumerate(sides.items()):
            command = ["-m", f"benchmarks.{side.module}", json.dumps(side.settings)]
            log = Path(folder, f"{number}.log")
            worker = Worker(command, log, python=side.python, environment=environment)
            stack.callback(worker.close)
            found[name] = worker.ready()
            workers[name] = worker
            tell(f"ready: {name}")
        measures = {name: worker.measure for name, worker in workers.items()}
        timings = in_turns(measures, rounds, tell)
        peak_bytes = {name: worker.peak_bytes() for name, worker in workers.items()}
    return Compared(timings, peak_bytes, found)
