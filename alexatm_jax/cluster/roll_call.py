"""The roll call: process 0 hears every other one, or all who came learn who did not.

Before jax starts, for its own start-up aborts all processes after its time-out and names none.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jaxlib

from alexatm_jax import __version__
from alexatm_jax.cluster.lines import Line
from alexatm_jax.cluster.place import Absence, ClusterError, Place

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 30.0
_HELLO_SECONDS = 10.0
_RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class Hello:
    """What a process says of itself, and the address from which process 0 heard it."""

    process: int
    of: int
    host: str
    versions: Mapping[str, str]
    address: str = ""

    @property
    def name(self) -> str:
        """The process for messages, such as `process 1 (node002)`."""
        return f"process {self.process} ({self.host})"


def own_hello(place: Place) -> Hello:
    """Says what this process is."""
    versions = {
        "alexatm_jax": __version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }
    return Hello(place.process_id, place.num_processes, socket.gethostname(), versions)


def call_roll(place: Place, timeout_seconds: float) -> tuple[list[str], dict[int, Line]]:
    """Brings the processes together.

    Returns:
      Every process's host name; and open lines: process 0's to all others, another's to it.

    Raises:
      Absence: in every process that came, if one did not come within the time.
      ClusterError: in every process that came, if two have one number, their numbers differ, or
        they run different versions.
    """
    if place.process_id == 0:
        return _hear_all(place, timeout_seconds)
    return _answer(place, timeout_seconds)


def _hear_all(place: Place, timeout_seconds: float) -> tuple[list[str], dict[int, Line]]:
    """Process 0: hears the others, then tells all of them how it went."""
    heard = {0: own_hello(place)}
    lines: list[tuple[int, Line]] = []
    problem: str | None = None
    for hello, line in _callers(place, heard, timeout_seconds):
        _forget_earlier(hello.process, heard, lines)
        lines.append((hello.process, line))
        if problem := _misplaced(hello, heard):
            break
        heard[hello.process] = hello
    problem = problem or _differing(heard.values())
    absent = None if problem else _absent(place, heard, timeout_seconds)
    hosts = [heard[k].host for k in sorted(heard)]
    for _, line in lines:
        with contextlib.suppress(OSError):  # whoever is gone by now, the watch will name
            line.send({"problem": problem, "absent": absent, "hosts": hosts})
    _check(problem, absent, [line for _, line in lines])
    return hosts, dict(lines)


def _forget_earlier(process: int, heard: dict[int, Hello], lines: list[tuple[int, Line]]) -> None:
    """Makes way for a process that was heard, died, and was started again."""
    for entry in [(k, line) for k, line in lines if k == process and line.is_closed()]:
        entry[1].close()
        lines.remove(entry)
        del heard[process]


def _check(problem: str | None, absent: str | None, lines: Sequence[Line]) -> None:
    if problem or absent:
        for line in lines:
            line.close()
    if problem:
        raise ClusterError(problem)
    if absent:
        raise Absence(absent)


def _callers(place: Place, heard: Mapping[int, Hello], timeout_seconds: float) -> Any:
    """Yields who calls, until all have been `heard` or the time is over."""
    deadline = time.monotonic() + timeout_seconds
    with _listener(place.coordinator[1]) as listener:
        while len(heard) < place.num_processes and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(min(left, _REPORT_SECONDS))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                logger.info("roll call: waiting for process %s", _numbers(_missing(place, heard)))
                continue
            line = Line(connection)
            try:
                said = line.receive(min(left, _HELLO_SECONDS))
                yield Hello(**(said | {"address": line.address})), line
            except (OSError, ValueError, TypeError):
                line.close()  # not one of ours: something that looks for open ports


def _listener(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        raise ClusterError(
            f"process 0 cannot listen on port {port} of this machine ({error.strerror}); if "
            "another run has it, give another port in --coordinator_address."
        ) from error


def _answer(place: Place, timeout_seconds: float) -> tuple[list[str], dict[int, Line]]:
    """Another process: says who it is, and waits to hear how the roll call went."""
    line = Line(_connection(place, timeout_seconds))
    try:
        line.send(asdict(own_hello(place)))
        verdict = line.receive(timeout_seconds + _REPORT_SECONDS)
        problem, absent, hosts = (verdict[key] for key in ("problem", "absent", "hosts"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Absence(
            f"process {place.process_id} reached {place.coordinator_address} and got no answer of "
            f"process 0 ({error}); see what process 0 printed, and whether another program has "
            "that port."
        ) from error
    _check(problem, absent, [line])
    return hosts, {0: line}


def _connection(place: Place, timeout_seconds: float) -> socket.socket:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return socket.create_connection(place.coordinator, timeout=_HELLO_SECONDS)
        except OSError as error:
            if time.monotonic() > deadline:
                raise Absence(
                    f"process {place.process_id} of {place.num_processes} could not reach the "
                    f"coordinator, process 0, at {place.coordinator_address} within "
                    f"{timeout_seconds:.0f} s ({error}); was process 0 started there, and may this "
                    "machine connect to that port?"
                ) from error
            time.sleep(_RETRY_SECONDS)


def _misplaced(hello: Hello, heard: Mapping[int, Hello]) -> str | None:
    """Says what is wrong with a caller's numbers, if anything."""
    if hello.of != heard[0].of:
        return (
            f"{hello.name} was started as one of {hello.of} processes, {heard[0].name} as one of "
            f"{heard[0].of}; start all with the same --num_processes."
        )
    if other := heard.get(hello.process):
        return (
            f"two processes have the number {hello.process}: on {other.host} and on {hello.host}; "
            f"give each its own --process_id, from 0 to {hello.of - 1}."
        )
    return None


def _missing(place: Place, heard: Mapping[int, Hello]) -> list[int]:
    return [k for k in range(place.num_processes) if k not in heard]


def _absent(place: Place, heard: Mapping[int, Hello], timeout_seconds: float) -> str | None:
    """Says who did not come, by number and, where the environment tells, by host name."""
    missing = _missing(place, heard)
    if not missing:
        return None
    present = {name for h in heard.values() for name in (h.host.partition(".")[0], h.address)}
    silent = [h for h in place.hosts if not {h, h.partition(".")[0]} & present]
    return (
        f"process {_numbers(missing)} of {place.num_processes} did not come within "
        f"{timeout_seconds:.0f} s"
        + (f"; nothing was heard from {', '.join(silent)}" if silent else "")
        + f". Here: {', '.join(heard[k].name for k in sorted(heard))}. See what the missing ones "
        f"printed, whether they can reach {place.coordinator_address}, or raise --start_timeout."
    )


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _differing(heard: Any) -> str | None:
    return difference([(hello.name, dict(hello.versions)) for hello in heard], "versions")


def difference(named: Sequence[tuple[str, Mapping[str, Any]]], what: str) -> str | None:
    """Says where what processes tell differs from what the first tells; None if it does not."""
    (first, wanted), *others = named
    lines = [
        f"  {key}: {wanted.get(key)} in {first}, {found.get(key)} in {name}"
        for name, found in others
        for key in sorted(wanted.keys() | found.keys())
        if wanted.get(key) != found.get(key)
    ]
    if not lines:
        return None
    return f"these processes have different {what}; make them alike:\n" + "\n".join(lines)
