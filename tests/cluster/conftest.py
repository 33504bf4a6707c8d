"""Several processes on this machine, which start together and then run a few lines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

START = """
import json, os, signal, sys, time
from alexatm_jax import cluster
def start(process_id, num_processes, seconds=30):
    try:
        given = cluster.Given({address!r}, num_processes, process_id)
        cluster.start(cluster.find_place("auto", given, seconds), seconds)
    except (cluster.Absence, cluster.ClusterError) as error:
        sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    printed: str
    errors: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    """One that is free on this machine."""
    return free_port()


@pytest.fixture
def together() -> Iterator[Callable[..., list[Ended]]]:
    """Runs each text in a process of its own, and waits for all; `start` and `k` are there."""
    processes: list[subprocess.Popen[str]] = []

    def run(*codes: str, environment: dict[str, str] | None = None) -> list[Ended]:
        prelude = START.format(address=f"localhost:{free_port()}")
        for k, code in enumerate(codes):
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", f"{prelude}k = {k}\n{code}"],
                    env=os.environ | (environment or {}),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return [
            Ended(process.wait(), *outputs)
            for process in processes
            if (outputs := process.communicate(timeout=60))
        ]

    yield run
    for process in processes:
        process.kill()
        process.communicate()
