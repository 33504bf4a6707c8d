"""Training through the binary in several processes, as on several machines."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from alexatm_jax.preflight import Refusal

DEVICES = 8


@pytest.fixture(autouse=True)
def quick_compilation_there(monkeypatch):
    """Halves the time that the processes spend compiling."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def start(tiny, run: Path, num_processes: int, *flags: str) -> list[subprocess.Popen[str]]:
    """Starts the binary in processes that share the usual number of devices."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"--coordinator_address=localhost:{probe.getsockname()[1]}"
    command = ["-m", "alexatm_jax.main", "--gin_file=tiny.gin", f"--gin_search_paths={tiny.folder}"]
    command += [f"--gin.MODEL_DIR='{run}'", address, f"--num_processes={num_processes}", *flags]
    return [
        tiny.start([*command, f"--process_id={k}"], DEVICES // num_processes)
        for k in range(num_processes)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[list[str]]:
    """Waits; gives what each printed, without what the CPU's collectives print in torn lines."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    torn = re.compile("Gloo|peer ranks|^$")
    return [[line for line in text.splitlines() if not torn.search(line)] for text in outputs]


def finish_well(processes: list[subprocess.Popen[str]]) -> list[list[str]]:
    printed = finish(processes)
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return printed


def interrupt(tiny, run: Path, num_processes: int, victim: int, number: signal.Signals):
    """Sends one process a signal once there are 4 rows; gives codes and what was printed."""
    processes = start(tiny, run, num_processes)
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 4:
        assert processes[0].poll() is None, finish(processes)
        time.sleep(0.002)
    processes[victim].send_signal(number)
    sent = time.monotonic()
    printed = finish(processes)
    assert time.monotonic() - sent < 60
    return [process.returncode for process in processes], printed


def check_losses(found: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    """Compares rows of metrics; processes sum up in another order than devices of one."""
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=2e-5)


def test_two_processes_train_as_one_does(tiny, tmp_path):
    run = tmp_path / "run"
    first, second = finish_well(start(tiny, run, 2, "--gin.TRAIN_STEPS=4"))
    assert any("2 processes of 4 x cpu" in line for line in first)
    assert second == []
    assert {path.name for path in run.iterdir()} >= {"config.gin", "losses.png", "checkpoints"}
    check_losses(tiny.losses(run), tiny.losses(tiny.run)[:2])


def test_what_a_start_that_was_killed_left_makes_no_folder_foreign(tiny, tmp_path):
    (tmp_path / ".shared-0123").touch()
    bindings = dict(MODEL_DIR=str(tmp_path), CACHE_DIR=str(tmp_path / "cache"))
    bindings |= dict(MIXTURE_OR_TASK_NAME="nothing", EVALUATION_TASKS=[])
    with pytest.raises(Refusal, match="'nothing'"):
        tiny.execute("train", **bindings)
    (tmp_path / "other").touch()
    with pytest.raises(Refusal, match="is not empty and no run of alexatm: it holds other;"):
        tiny.execute("train", **bindings)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_exactly(tiny, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish_well(start(tiny, whole, 2))
    check_losses(tiny.losses(whole), tiny.losses(tiny.run))
    codes, (first, _) = interrupt(tiny, run, 2, victim=1, number=signal.SIGKILL)
    assert codes == [1, -signal.SIGKILL]
    assert any("process 1 (" in line and "is gone" in line for line in first), first
    finish_well(start(tiny, run, 2))
    assert tiny.losses(run) == tiny.losses(whole)


@pytest.mark.slow
def test_when_the_first_process_is_killed_one_goes_on_alone(tiny, tmp_path):
    run = tmp_path / "run"
    codes, (_, second) = interrupt(tiny, run, 2, victim=0, number=signal.SIGKILL)
    assert codes == [-signal.SIGKILL, 1]
    assert any("process 0 (" in line and "is gone" in line for line in second), second
    finish_well(start(tiny, run, 1))
    check_losses(tiny.losses(run), tiny.losses(tiny.run))


@pytest.mark.slow
def test_four_processes_stop_together_and_two_go_on(tiny, tmp_path):
    run = tmp_path / "run"
    codes, printed = interrupt(tiny, run, 4, victim=2, number=signal.SIGTERM)
    assert codes == [1] * 4
    (last,) = {lines[-1] for lines in printed}
    assert "stopped by SIGTERM after step" in last
    step = int(last.split("step ")[1].split(";")[0])
    assert (run / "checkpoints" / str(step)).is_dir()
    finish_well(start(tiny, run, 2))
    check_losses(tiny.losses(run), tiny.losses(tiny.run))


@pytest.mark.slow
def test_the_first_alone_checks_a_cache_that_is_to_be_made(tiny, tmp_path):
    """It may write what is kept out of the text; its refusal ends all."""
    flags = ["--gin.MIXTURE_OR_TASK_NAME='nothing'", "--gin.EVALUATION_TASKS=[]"]
    flags += [f"--gin.CACHE_DIR='{tmp_path}/cache'"]
    processes = start(tiny, tmp_path / "run", 2, *flags)
    first, second = ("\n".join(lines) for lines in finish(processes))
    assert [process.returncode for process in processes] == [2, 2]
    reason = first[first.index("alexatm: ") + len("alexatm: ") :]
    assert "'nothing'" in reason and reason in second
    assert re.fullmatch(r"alexatm: process 0 \(.*\) ended: .*", second, re.DOTALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_refusals_end_all(tiny, tmp_path):
    processes = start(tiny, tmp_path / "run", 2, "--gin.BATCH_SIZE=7")
    printed = finish(processes)
    assert [process.returncode for process in processes] == [2, 2]
    for lines in printed:
        assert "7 rows at a time do not divide over data x fsdp = 4" in "\n".join(lines)
        assert "Traceback" not in "\n".join(lines)
    assert not (tmp_path / "run").exists()
