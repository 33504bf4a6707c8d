"""Times alternatives side by side: in turns, each in a process and on cores of its own."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import IO, Any, TextIO

ROOT = Path(__file__).resolve().parents[1]


class BenchmarkError(ValueError):
    """A measurement that could not be taken."""


@dataclass(frozen=True)
class Timing:
    """What was done in how long.

    Args:
      amount: of work, in the benchmark's unit, such as tokens.
      seconds: by the clock on the wall.
      cpu_seconds: of all threads and of child processes that have ended: what the work would
        take on a machine that does nothing else, where it has one thread.
    """

    amount: float
    seconds: float
    cpu_seconds: float

    def __post_init__(self) -> None:
        if not (self.amount > 0 and self.seconds > 0 and self.cpu_seconds > 0):
            raise BenchmarkError(f"{self} timed nothing; measure for longer.")

    @property
    def per_second(self) -> float:
        return self.amount / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.amount / self.cpu_seconds


def timed(step: Callable[[], float], seconds: float = 0.0, *, warm_up: float = 0.0) -> Timing:
    """Repeats a step, which tells the amount it did, once and until `seconds` are over.

    Args:
      step: what to do.
      seconds: to go on for at least.
      warm_up: seconds to do it before, untimed, until nothing is left of what was read ahead.
    """
    begin = time.perf_counter()
    while time.perf_counter() - begin < warm_up:
        step()
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    amount = step()
    while time.perf_counter() - start < seconds:
        amount += step()
    return Timing(amount, time.perf_counter() - start, _cpu_seconds() - cpu_start)


def repeated(step: Callable[[], float], steps: int) -> Callable[[], Timing]:
    """Gives a measurement of so many steps; a step tells the amount it did."""
    return lambda: timed(lambda: sum(step() for _ in range(steps)))


def _cpu_seconds() -> float:
    return time.process_time() + sum(os.times()[2:4])  # the latter of children


class Worker:
    """A process that takes one measurement whenever it is asked.

    Imports and preparation are paid once. Between measurements the process is stopped, so that
    no thread of its own that reads ahead slows the others, or does work that is not timed.

    Args:
      command: what to run with this Python, such as ["-m", "benchmarks.data_stages", "..."];
        it calls `serve`.
      log: file for all that it prints.
      cores: to run on, where the system can pin processes; all by default.
      python: what runs it, where a peer has a virtual environment of its own.
      environment: variables that are set besides; by default accelerators are hidden.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        cores: Sequence[int] = (),
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command, self._log = [python, *command], log
        chosen = dict(_CPU_ALONE if environment is None else environment)
        threads = {name: "1" for name in _THREADS} if len(cores) == 1 else {}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=ROOT,
                env=os.environ | _QUIET | chosen | threads | {_CORES: ",".join(map(str, cores))},
            )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def ready(self) -> dict[str, str]:
        """Waits until preparation is done.

        Returns:
          The versions that the worker told to `serve`.

        Raises:
          BenchmarkError: if the process ended instead; with the end of its log.
        """
        found = self._answer()
        self._send_signal("SIGSTOP")
        return found

    def measure(self) -> Timing:
        """Has one measurement taken.

        Raises:
          BenchmarkError: if the process ended instead; with the end of its log.
        """
        self._send_signal("SIGCONT")
        try:
            self._pipe(self._process.stdin).write("measure\n")
            self._pipe(self._process.stdin).flush()
        except BrokenPipeError:
            pass  # the answer tells why
        timing = Timing(**self._answer())
        self._send_signal("SIGSTOP")
        return timing

    def peak_bytes(self) -> int | None:
        """Gives the most memory that the process has held so far; None where /proc has none."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return None
        kilobytes = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        return int(kilobytes[1]) * 1024 if kilobytes else None

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            end = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            code = self._process.wait()
            killed = " (killed: if memory ran out, time fewer sides at once)" if code == -9 else ""
            raise BenchmarkError(
                f"{' '.join(self._command)} ended with {code}{killed} before it had answered; "
                f"the end of {self._log}:\n{end}"
            )
        return json.loads(line)

    def _send_signal(self, name: str) -> None:
        if hasattr(signal, name):  # not everywhere
            self._process.send_signal(getattr(signal, name))

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


_CORES = "BENCHMARK_CORES"
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
_CPU_ALONE = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def serve(prepare: Callable[[], Callable[[], Timing]], *packages: str) -> None:
    """Runs a worker: prepares, then takes a measurement for every line of its standard input.

    Args:
      prepare: gives what takes one measurement; it runs on the worker's cores already.
      packages: whose versions it tells.
    """
    answers = _own_standard_output()
    cores = [int(core) for core in os.environ.get(_CORES, "").split(",") if core]
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    measure = prepare()
    print(json.dumps(versions(*packages)), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(asdict(measure())), file=answers, flush=True)


def _own_standard_output() -> TextIO:
    """Keeps standard output for answers; what libraries print there joins the log."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def tell(line: str) -> None:
    """Says how far a comparison is, beside its table on standard output."""
    print(line, file=sys.stderr, flush=True)


def in_turns(
    measurements: Mapping[str, Callable[[], Timing]],
    rounds: int,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, list[Timing]]:
    """Takes each measurement once a round, so that a slow minute of the machine slows all.

    Every other round goes backwards: what warms or slows the machine in the course of a round
    then favours none.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in measurements}
    for number in range(rounds):
        names = list(measurements)
        for name in names if number % 2 == 0 else reversed(names):
            timings[name].append(measurements[name]())
            report(f"round {number + 1}/{rounds}: {name} {timings[name][-1].per_second:,.0f}/s")
    return timings


def median_rate(timings: Sequence[Timing]) -> float:
    """The median of the amounts per second."""
    return median(timing.per_second for timing in timings)


def median_cpu_rate(timings: Sequence[Timing]) -> float:
    """The median of the amounts per second of processor time."""
    return median(timing.per_cpu_second for timing in timings)


def ratio(ours: Sequence[Timing], theirs: Sequence[Timing]) -> float:
    """The median over the rounds of our speed divided by theirs in the same round."""
    pairs = zip(ours, theirs, strict=True)
    return median(our.per_second / their.per_second for our, their in pairs)


def cpu_ratio(ours: Sequence[Timing], theirs: Sequence[Timing]) -> float:
    """The same of the amounts per second of processor time."""
    pairs = zip(ours, theirs, strict=True)
    return median(our.per_cpu_second / their.per_cpu_second for our, their in pairs)


def available_cores() -> list[int]:
    """Lists the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def machine() -> dict[str, Any]:
    """Describes the hardware: cores, the processor's name, bytes of memory."""
    name = platform.processor() or platform.machine()
    found = Path("/proc/cpuinfo")
    if found.exists():
        names = re.findall(r"^model name\s*: (.+)$", found.read_text(), re.MULTILINE)
        name = names[0] if names else name
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    memory = pages * os.sysconf("SC_PAGE_SIZE") if pages else None
    return {"cores": len(available_cores()), "processor": name, "memory_bytes": memory}


def versions(*packages: str) -> dict[str, str]:
    """Gives the versions of Python and of those of the packages that are installed."""
    found = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
