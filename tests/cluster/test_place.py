"""Where a process finds its place: flags first, then what the environment says."""

from __future__ import annotations

import os

import pytest

from alexatm_jax.cluster.place import (
    Absence,
    ClusterError,
    Given,
    Place,
    expand_node_list,
    find_place,
)

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[001-003,010],big",
    "SLURM_NTASKS": "10",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x5)",
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    """No test depends on the machine it runs on."""
    monkeypatch.setattr("alexatm_jax.cluster.place._TPU_CLUSTERS", ())
    for name in (*SLURM, "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def slurm(monkeypatch, **changed: str) -> None:
    for name, value in (SLURM | changed).items():
        monkeypatch.setenv(name, value)


def test_a_single_process_has_no_place_and_starts_nothing(monkeypatch):
    assert find_place("auto", Given(), 1) is None
    assert find_place("auto", Given("here:80", 1, 0), 1) is None
    slurm(monkeypatch, SLURM_NTASKS="1", SLURM_PROCID="0")
    assert find_place("auto", Given(), 1) is None


def test_flags_are_taken_as_they_are():
    assert find_place("auto", Given("10.0.0.1:80", 4, 2), 1) == Place("10.0.0.1:80", 4, 2)
    assert Place("[fd00::1]:80", 4, 2).coordinator == ("fd00::1", 80)


def test_slurm_tells_the_place_and_the_hosts(monkeypatch):
    slurm(monkeypatch)
    place = find_place("auto", Given(), 1)
    assert place.coordinator_address.startswith("node001:")
    assert (place.num_processes, place.process_id) == (10, 3)
    assert place.local_device_ids == (1,)
    assert place.hosts == ("node001", "node002", "node003", "node010", "big")
    assert find_place("none", Given(), 1) is None


def test_an_interactive_shell_in_an_allocation_of_several_is_alone(monkeypatch):
    slurm(monkeypatch, SLURM_STEP_NUM_TASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0")
    assert find_place("auto", Given(), 1) is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert find_place("auto", Given(), 1).num_processes == 4
    assert find_place("auto", Given(num_processes=2), 1).num_processes == 2


def test_a_task_that_is_alone_on_its_node_has_all_its_devices(monkeypatch):
    slurm(monkeypatch, SLURM_STEP_TASKS_PER_NODE="1(x10)", SLURM_LOCALID="0")
    assert find_place("slurm", Given(), 1).local_device_ids is None


def test_flags_go_before_the_environment(monkeypatch):
    slurm(monkeypatch)
    place = find_place("auto", Given(coordinator_address="other:9"), 1)
    assert (place.coordinator_address, place.process_id) == ("other:9", 3)


def test_an_indexed_kubernetes_job_needs_no_api(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    place = find_place("kubernetes", Given("train-workers-0-0.train:8476", 3), 1)
    assert place.process_id == 2
    assert place.hosts == ("train-workers-0-0", "train-workers-0-1", "train-workers-0-2")


@pytest.fixture
def tpu_pod(monkeypatch):
    """The second of two hosts, as GKE tells it; jax's class that finds it."""
    from jax._src import clusters
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value", os.environ.get)
    monkeypatch.setattr("alexatm_jax.cluster.place._TPU_CLUSTERS", (clusters.GkeTpuCluster,))
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,b")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    return clusters.GkeTpuCluster


def test_a_tpu_pod_is_found_by_what_gke_sets(tpu_pod):
    place = find_place("auto", Given(), 1)
    assert (place.coordinator, place.num_processes) == (("localhost", 8482), 2)
    assert (place.process_id, place.hosts) == (1, ("localhost", "b"))


def test_a_first_host_that_has_no_name_yet_is_absent(tpu_pod, monkeypatch):
    def unknown(*_):
        raise RuntimeError("Failed to recognize coordinator address a")  # as jax does

    monkeypatch.setattr(tpu_pod, "get_coordinator_address", unknown)
    with pytest.raises(Absence, match="--cluster=tpu: Failed to recognize"):
        find_place("auto", Given(), 1)


@pytest.mark.parametrize(
    ("cluster", "given", "parts"),
    [
        ("auto", Given(num_processes=2), ["--coordinator_address, --process_id is missing"]),
        ("none", Given(num_processes=2), ["--cluster=none", "leave them out"]),
        ("auto", Given("here", 2, 0), ["'here'", "HOST:PORT"]),
        ("auto", Given("here:80", 2, 2), ["process 2 of 2", "from 0"]),
        ("slurm", Given(), ["--cluster=slurm", "srun"]),
        ("kubernetes", Given(), ["JOB_COMPLETION_INDEX", "Indexed"]),
        ("tpu", Given(), ["--cluster=tpu", "TPU_WORKER_HOSTNAMES"]),
    ],
)
def test_what_is_missing_is_said(cluster, given, parts):
    with pytest.raises(ClusterError) as raised:
        find_place(cluster, given, 1)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a,b-1", ["a", "b-1"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("n[08-10,3].x,m", ["n08.x", "n09.x", "n10.x", "n3.x", "m"]),
        ("r[1-2]n[1,3]", ["r1n1", "r1n3", "r2n1", "r2n3"]),
    ],
)
def test_node_lists_are_expanded_as_slurm_writes_them(text, names):
    assert list(expand_node_list(text)) == names
