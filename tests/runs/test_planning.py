"""Run mode `plan`, as a user types it: no data, no folder of a run, any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexatm_jax import main
from alexatm_jax.preflight import Refusal

LENGTHS = "TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 16}"
SMALL = (
    *("BATCH_SIZE=8", LENGTHS, "DecodingConfig.batch_size=4", "DecodingConfig.max_new_tokens=4"),
    "DecodingConfig.max_prompt_tokens=16",
)


def alexatm(*flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alexatm_jax.main", "--run_mode=plan", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=dict(os.environ))


def test_the_command_plans_for_machines_that_are_not_here(tmp_path):
    """16 devices, where the tests have 8: the topology wins."""
    done = alexatm(
        *("--gin_file=models/tiny.gin", "--gin_file=runs/pretrain.gin", "--topology=cpu:16"),
        *("--gin.partitioning.Partitioning.fsdp=4", "--gin.partitioning.Partitioning.tensor=4"),
        *(f"--gin.{binding}" for binding in (*SMALL, "planning.plan.memory_gib=0.0001")),
        "--gin.planning.plan.advice_seconds=0",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for part in ("mesh data 1 x fsdp 4 x tensor 4", "1,221,504", "all-gather", "DOES NOT FIT"):
        assert part in done.stdout
    assert "Traceback" not in done.stderr
    found = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert found["num_parameters"] == 1_221_504
    assert found["topology"]["num_devices"] == 16
    assert [program["name"] for program in found["programs"]] == ["train", "rank", "generate"]
    assert found["fits"] is False and found["trials"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan"]


@pytest.mark.parametrize(
    ("bindings", "topology", "parts"),
    [
        ((), "cpu:many", ["cpu:many", "cpu:N"]),
        (("BATCH_SIZE=3",), "cpu:8", ["3 rows", "do not divide"]),
        (("Partitioning.fsdp=3",), "cpu:8", ["8 are here"]),
        (("planning.plan.output_dir=/proc/x",), "cpu:8", ["/proc/x", "cannot be written"]),
        (("TASK_FEATURE_LENGTHS={'inputs': 500, 'targets': 8}",), None, ["500", "128 positions"]),
        (("DecodingConfig.max_new_tokens=500",), None, ["500", "128 positions"]),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_refused(tmp_path, monkeypatch, bindings, topology, parts):
    monkeypatch.chdir(tmp_path)
    files = ["models/tiny.gin", "runs/pretrain.gin"]
    with pytest.raises(Refusal) as raised:
        main.execute("plan", files, (*SMALL, *bindings), topology=topology)
    for part in parts:
        assert part in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_alexatm_20b_is_planned_for_256_devices(tmp_path):
    """Acceptance: under 3 GB of host memory; under 90 s on two idle cores."""
    done = alexatm(
        *("--gin_file=models/alexatm_20b.gin", "--gin_file=runs/pretrain.gin"),
        *("--topology=cpu:256", "--gin.Partitioning.data=1", "--gin.Partitioning.fsdp=-1"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert found["num_parameters"] == 19_751_751_680
    train, _, generate = found["programs"]
    state = sum(row["parameter_bytes"] + row["optimizer_bytes"] for row in found["tables"]["train"])
    share = 12 * 19_751_751_680 / 256  # parameter and two moments in float32
    assert share <= state <= 1.06 * share  # norms and biases are whole on every device
    assert state <= train["figures"]["argument_bytes"] <= 1.01 * state
    gathered = [c for c in train["figures"]["collectives"] if c["kind"] == "all-gather"]
    assert {c["group_size"] for c in gathered} == {256}
    # Every layer, in bfloat16 or more: in the forward pass, and again in the backward pass.
    assert sum(c["bytes"] for c in gathered) > 2 * 2 * 17.8e9
    assert generate["figures"]["host_peak_bytes"] < 3e9
