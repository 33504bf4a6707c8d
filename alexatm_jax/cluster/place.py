"""Which process of how many this is: from flags, Slurm, Kubernetes or a TPU pod."""

from __future__ import annotations

import itertools
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from jax._src import clusters  # jax's own cluster detection has no public door of its own

CLUSTERS = ("auto", "none", "slurm", "kubernetes", "tpu")


class ClusterError(ValueError):
    """Processes that cannot run together, or do not know where they are."""


class Absence(Exception):
    """Processes that did not come in time, as after the loss of a machine; worth another try."""


@dataclass(frozen=True)
class Place:
    """Which process of how many this is.

    Attributes:
      coordinator_address: HOST:PORT at which process 0 can be reached.
      num_processes: how many run together.
      process_id: which this is, from 0.
      local_device_ids: those of its machine's devices that it uses; None for all.
      hosts: names of the machines that should take part, where the environment tells.
    """

    coordinator_address: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        host, _, port = self.coordinator_address.rpartition(":")
        if not host or not port.isdigit():
            raise ClusterError(
                f"the coordinator's address is {self.coordinator_address!r}; give HOST:PORT, such "
                "as 10.0.0.1:8476: where process 0 runs, and a port that is free there."
            )
        if not 0 <= self.process_id < self.num_processes:
            raise ClusterError(
                f"process {self.process_id} of {self.num_processes} cannot be; processes are "
                "numbered from 0 to one less than their number."
            )

    @property
    def coordinator(self) -> tuple[str, int]:
        """Host and port of process 0."""
        host, _, port = self.coordinator_address.rpartition(":")
        return host.strip("[]"), int(port)


@dataclass(frozen=True)
class Given:
    """What flags say of the place; None for what they leave to the environment."""

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def flags(self) -> dict[str, str | int | None]:
        """Gives the values by the names of their flags."""
        return {f"--{name}": value for name, value in vars(self).items()}


def find_place(cluster: str, given: Given, timeout_seconds: int) -> Place | None:
    """Finds this process's place; what flags give goes before what the environment says.

    Args:
      cluster: one of CLUSTERS. "auto" takes three flags as they are, else asks Slurm and TPU
        pods; Kubernetes is asked when named alone, for its jobs often are many single processes.
      timeout_seconds: how long to wait for the coordinator's name to be known.

    Returns:
      None where there is one process and nothing to start.

    Raises:
      ClusterError: if flags are missing, or the environment is not that of the cluster named.
      Absence: if nothing is known in time of the machine of process 0.
    """
    values = given.flags()
    missing = [flag for flag, value in values.items() if value is None]
    if cluster == "none":
        if len(missing) < len(values):
            raise ClusterError(f"--cluster=none goes without {', '.join(values)}; leave them out.")
        return None
    if cluster == "auto":
        if not missing:
            return _several(Place(**vars(given)))
        found = next((name for name in _FOUND_BY_ITSELF if _present(name)), None)
        if found is None:
            if len(missing) < len(values):
                raise ClusterError(
                    f"{', '.join(missing)} is missing; give {', '.join(values)}, or name the "
                    "--cluster that tells."
                )
            return None
        cluster = found
    try:
        return _several(_FINDERS[cluster](given, timeout_seconds))
    except (RuntimeError, OSError) as error:  # of jax's detection, and of what it asks
        # It looks up process 0's name, until the time is over, and Google's metadata server.
        absent = cluster == "tpu" or isinstance(error.__cause__, socket.gaierror)
        raise (Absence if absent else ClusterError)(f"--cluster={cluster}: {error}") from error


def _several(place: Place) -> Place | None:
    return place if place.num_processes > 1 else None


def _present(name: str) -> bool:
    if name == "slurm":
        return bool(clusters.SlurmCluster.is_env_present())
    try:
        return any(kind.is_env_present() for kind in _TPU_CLUSTERS)
    except (ImportError, OSError):  # a machine with TPUs and without Google's metadata server
        return False


_FOUND_BY_ITSELF = ("slurm", "tpu")
_TPU_CLUSTERS = (clusters.GkeTpuCluster, clusters.GceTpuCluster)


def _slurm(given: Given, timeout_seconds: int) -> Place:
    if not _present("slurm"):
        raise ClusterError("--cluster=slurm needs the variables of a job step; start with srun.")
    tasks_here = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    alone = set(re.sub(r"\(x\d+\)", "", tasks_here).split(",")) == {"1"}
    chosen = alone or "JAX_LOCAL_DEVICE_IDS" in os.environ  # which jax reads by itself
    # SLURM_NTASKS, which jax takes, is the whole job's in an interactive shell, itself a step of 1.
    if given.num_processes is None and (tasks := os.environ.get("SLURM_STEP_NUM_TASKS")):
        given = replace(given, num_processes=int(tasks))
    return _filled(
        clusters.SlurmCluster,
        given,
        timeout_seconds,
        # As jax does it, a task has one device of its node; but a task alone has them all.
        local_device_ids=None if chosen else (int(os.environ["SLURM_LOCALID"]),),
        hosts=expand_node_list(os.environ["SLURM_STEP_NODELIST"]),
    )


def _kubernetes(given: Given, timeout_seconds: int) -> Place:
    index = os.environ.get("JOB_COMPLETION_INDEX")
    if index is None:
        raise ClusterError(
            "--cluster=kubernetes finds no JOB_COMPLETION_INDEX; give the Job the completionMode "
            "Indexed, or the JobSet's Jobs."
        )
    own = Given(
        given.coordinator_address,
        given.num_processes,
        int(index) if given.process_id is None else given.process_id,
    )
    if own.coordinator_address and own.num_processes:
        place = Place(own.coordinator_address, own.num_processes, int(own.process_id or 0))
    elif clusters.K8sCluster.is_env_present():
        place = _filled(clusters.K8sCluster, own, timeout_seconds)
    else:
        raise ClusterError(
            "--cluster=kubernetes needs --coordinator_address and --num_processes; without them "
            "it asks the cluster's API, for which the package kubernetes must be installed."
        )
    pod = place.coordinator[0].partition(".")[0]
    # The pods of an indexed Job are called after it and their index.
    hosts = [pod[:-1] + str(n) for n in range(place.num_processes)] if pod.endswith("-0") else ()
    return Place(place.coordinator_address, place.num_processes, place.process_id, None, (*hosts,))


def _tpu(given: Given, timeout_seconds: int) -> Place:
    kind = next((kind for kind in _TPU_CLUSTERS if kind.is_env_present()), None)
    if kind is None:
        raise ClusterError(
            "--cluster=tpu finds no TPU pod: neither TPU_WORKER_HOSTNAMES nor Google's metadata "
            "server tells of one, or libtpu is not installed."
        )
    place = _filled(kind, given, timeout_seconds)
    hosts = tuple(filter(None, os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")))
    known = hosts if len(hosts) == place.num_processes else ()  # else of one slice of several
    return Place(place.coordinator_address, place.num_processes, place.process_id, None, known)


_FINDERS: dict[str, Callable[[Given, int], Place]] = {
    "slurm": _slurm,
    "kubernetes": _kubernetes,
    "tpu": _tpu,
}


def _filled(
    kind: type[clusters.ClusterEnv],
    given: Given,
    timeout_seconds: int,
    local_device_ids: tuple[int, ...] | None = None,
    hosts: tuple[str, ...] = (),
) -> Place:
    """Asks jax's detection for what the flags leave open."""
    address, count, index = vars(given).values()
    return Place(
        address or kind.get_coordinator_address(timeout_seconds, None),
        kind.get_process_count() if count is None else count,
        kind.get_process_id() if index is None else index,
        local_device_ids,
        hosts,
    )


def expand_node_list(text: str) -> tuple[str, ...]:
    """Expands Slurm's node list: `n[01-03,7],m` is n01, n02, n03, n7, m (man scontrol)."""
    names = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text)
    return tuple(itertools.chain.from_iterable(map(_expand_name, names)))


def _expand_name(name: str) -> list[str]:
    before, bracket, rest = name.partition("[")
    if not bracket:
        return [name]
    numbers, _, after = rest.partition("]")
    tails = _expand_name(after)
    expanded = []
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            expanded += [f"{before}{number:0{len(first)}d}{tail}" for tail in tails]
    return expanded
