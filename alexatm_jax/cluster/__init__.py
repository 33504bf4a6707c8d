"""Many machines: starts the processes of a run together, and lets them agree.

    cluster.find_place(...)       which process of how many this is; None where there is one
    cluster.start(place)          before any computation
    cluster.is_first()            whether this process writes what one must write
    cluster.gathered(value)       the values of all processes, in order

A single process needs no start: it is the first, and gathers what it gives.
"""

from __future__ import annotations

import atexit
import logging
import secrets
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from alexatm_jax.cluster.peers import REFUSED, Peers
from alexatm_jax.cluster.place import CLUSTERS, Absence, ClusterError, Given, Place, find_place
from alexatm_jax.cluster.roll_call import call_roll, difference

__all__ = [
    "CLUSTERS",
    "SHARED_TOKENS",
    "Absence",
    "ClusterError",
    "Given",
    "Place",
    "abandon",
    "agreed_to_stop",
    "check_alike",
    "check_configuration",
    "check_devices",
    "check_shared_folder",
    "find_place",
    "gathered",
    "is_first",
    "process_id",
    "seen_soon",
    "start",
]

logger = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 50
"""jax's own watch stands behind ours: it also sees a process that lives and does nothing."""
_ECHO_SECONDS = 1.0
_SIGHT_SECONDS = 70.0

SHARED_TOKENS = ".shared-*"
"""Files that `check_shared_folder` makes and removes; a process killed meanwhile leaves one."""

_peers: Peers | None = None


def start(place: Place, start_timeout_seconds: int = 300) -> None:
    """Brings the processes of a run together; call it before any jax computation.

    Args:
      place: of this process among them, as `find_place` gives it.
      start_timeout_seconds: how long to wait for the others.

    Raises:
      Absence: in every process that came, if some did not.
      ClusterError: in all of them, if they differ in their versions.
      Both name processes and machines.
    """
    global _peers
    hosts, lines = call_roll(place, start_timeout_seconds)
    # Before jax's start, in which the others would wait out the time for one that dies.
    _peers = Peers(place.process_id, hosts, lines)
    # jax would take SIGTERM for its own service; see training/stopping.py for ours.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator_address,
        place.num_processes,
        place.process_id,
        local_device_ids=place.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=start_timeout_seconds,
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
    atexit.register(_peers.leave)  # runs before jax's goodbye, registered when jax was imported


def check_devices() -> None:
    """Checks that every process has as many devices of one kind; logs what came together.

    Raises:
      ClusterError: in all of them, naming processes, machines and what differs.
    """
    if _peers is None:
        return  # without waking the devices, which some run modes never use
    devices = jax.local_devices()
    kind = f"{len(devices)} x {devices[0].device_kind}"
    check_alike("devices", {"devices": kind})
    hosts = ", ".join(dict.fromkeys(_peers.hosts))
    logger.info("%d processes of %s on %s", len(_peers.hosts), kind, hosts)


def check_configuration(text: str) -> None:
    """Checks that every process was given the same configuration; all must call it."""
    lines = text.splitlines()
    check_alike("configurations", {f"line {n}": line for n, line in enumerate(lines, 1)})


def process_id() -> int:
    """The number of this process, from 0."""
    return _peers.process_id if _peers else 0


def is_first() -> bool:
    """Whether this is process 0, which writes logs, metrics and whatever one must write."""
    return process_id() == 0


def gathered(value: Any) -> list[Any]:
    """Waits until every process has called this; gives the JSON-able values of all, in order.

    It computes nothing on devices. All must call it equally often, in the same order.
    """
    return _peers.gathered(value) if _peers else [value]


def agreed_to_stop(step: int, wish: bool) -> bool:
    """Whether all processes stop behind this step; all call it behind every step.

    Args:
      step: the one just given to the devices; rises from call to call.
      wish: whether this process wants all to stop.

    Returns:
      Alone, `wish`. Among several, True in all of them at the same step, soon after one wished.
    """
    if _peers is None:
        return wish
    if wish:
        _peers.ask_to_stop()
    return _peers.stops_at(step)


def check_alike(what: str, facts: Mapping[str, Any]) -> None:
    """Checks that every process has the same facts; all must call it.

    Raises:
      ClusterError: in all of them, naming processes, machines and what differs.
    """
    if _peers:
        names = [_peers.name(k) for k in range(len(_peers.hosts))]
        everybody = zip(names, gathered(dict(facts)), strict=True)
        if problem := difference(list(everybody), what):
            raise ClusterError(problem)


def check_shared_folder(folder: str | Path, name: str) -> None:
    """Checks that a folder, made if need be, is one and the same for all; all must call it.

    Args:
      name: what the configuration calls it.

    Raises:
      ClusterError: in all processes, naming those that see another folder.
    """
    if _peers is None:
        return
    token = Path(folder) / SHARED_TOKENS.replace("*", secrets.token_hex(8))
    if is_first():
        token.parent.mkdir(parents=True, exist_ok=True)
        for left in Path(folder).glob(SHARED_TOKENS):
            left.unlink(missing_ok=True)
        token.touch()
    first_folder, first_name = gathered([str(folder), token.name])[0]
    seen = gathered(seen_soon((Path(folder) / first_name).exists))
    if is_first():
        token.unlink()
    if not all(seen):
        blind = ", ".join(_peers.name(k) for k, there in enumerate(seen) if not there)
        raise ClusterError(
            f"{name} {first_folder} of {_peers.name(0)} is not that of {blind}; give a folder "
            "that all machines share."
        )


def seen_soon(condition: Callable[[], bool]) -> bool:
    """Waits until a condition on what another process wrote to a shared folder holds.

    NFS may go on for a minute to deny what was not there when it was last asked.

    Returns:
      Whether it came to hold; False after 70 seconds.
    """
    deadline = time.monotonic() + _SIGHT_SECONDS
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def abandon(code: int, reason: str) -> None:
    """Tells the other processes that this one fails, so that they end, and exits; alone, nothing.

    Call it where an error would end the program: an ordinary exit waits for the others.

    Args:
      code: exit code, of them all.
      reason: what the others print.
    """
    if _peers is None:
        return
    if code != REFUSED:
        # It may be the echo of another's end, of which the watch tells better, in an instant.
        time.sleep(_ECHO_SECONDS)
        traceback.print_exc()
    _peers.abandon(code, reason)
