"""The binary answers a mistake with exit code 2 and a message, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexatm_jax import main
from alexatm_jax.batch import NoMoreBatches
from alexatm_jax.preflight import Refusal

DEMO = "experiments/demo.gin"


def alexatm(*flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the real command in a folder of its own."""
    command = [sys.executable, "-m", "alexatm_jax.main", *flags]
    environment = os.environ | {"ALEXATM_CACHE": str(cwd / "cache_of_vocabularies")}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["no --gin_file was given", "--gin_file=experiments/demo.gin"]),
        (["--run_mode=trian"], ["--run_mode=trian", "plan|train"]),
        (["--run_mod=train"], ["'run_mod'", "run_mode", "--help"]),
        (
            ["--run_mode=eval", "--coordinator_address=localhost:1", "--num_processes=8"]
            + ["--process_id=1"],
            ["--run_mode=eval runs in one process", "one of 8", "--cluster=none"],
        ),
        (["--topology=cpu:8"], ["--topology=cpu:8", "--run_mode=train", "--run_mode=plan"]),
        (
            [f"--gin_file={DEMO}", "--gin.MIXTURE_OR_TASK_NAME=cldr_dmo"],
            ["'cldr_dmo'", "nearest", "cldr_demo,"],
        ),
    ],
)
def test_the_command_refuses_with_exit_code_2(tmp_path, flags, parts):
    done = alexatm(*flags, cwd=tmp_path)
    message = done.stderr[done.stderr.index("alexatm: ") :]
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_process_whose_others_do_not_come_exits_with_code_1(tmp_path):
    place = ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=1"]
    done = alexatm(*place, "--start_timeout=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "alexatm: process 1 of 2 could not reach the coordinator" in done.stderr


@pytest.mark.parametrize("end", [FloatingPointError, NoMoreBatches])
def test_an_end_that_would_come_again_exits_with_code_2(monkeypatch, capsys, end):
    """Whoever starts it again would have it come to the same step and the same loss."""

    def stop(*_):
        raise end("by step 8 the loss is nan")

    monkeypatch.setattr(main, "execute", stop)
    main.parse_flags(["alexatm"])
    with pytest.raises(SystemExit) as ended:
        main.run([])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "alexatm: by step 8 the loss is nan\n"


def refusal(mode: str, *files: str, bindings: tuple[str, ...] = ()) -> str:
    with pytest.raises(Refusal) as raised:
        main.execute(mode, files, bindings)
    return str(raised.value)


@pytest.mark.parametrize(
    ("files", "bindings", "parts"),
    [
        (["experiments/dmeo.gin"], (), ["no gin file", DEMO, "--gin_search_paths"]),
        ([DEMO], ("MODLE_DIR=x",), ["--gin.MODLE_DIR:", "nearest: MODEL_DIR"]),
        ([DEMO], ("ModelConfig.dmodel=8",), ["no parameter dmodel", "nearest: d_model"]),
        ([DEMO], ("MODEL_DIR",), ["--gin.MODEL_DIR was given", "--gin.NAME=VALUE"]),
        (
            ["runs/pretrain.gin"],
            (),
            ["lacks 3", "MIXTURE_OR_TASK_NAME (", "CACHE_DIR (", "MODEL_DIR ("],
        ),
        (
            ["runs/pretrain.gin"],
            ("MODEL_DIR=a", "CACHE_DIR=b", "MIXTURE_OR_TASK_NAME=c"),
            ["missing 6", "'vocab_size'", "gin/models/"],
        ),
        ([DEMO], ("TRAIN_STEPS=many",), [" is 'many', of type str; it must be int"]),
        ([DEMO], ("BATCH_SIZE=1.5",), ["train.batch_size is 1.5", "must be int"]),
        ([DEMO], ("ModelConfig.tie_lm_head=1",), ["ModelConfig.tie_lm_head is 1", "must be bool"]),
        ([DEMO], ("TRAIN_STEPS=0",), ["decays from step"]),
        ([DEMO], ("ModelConfig.dropout_rate=1",), ["dropout_rate is 1", "in [0, 1)"]),
    ],
    ids=str,
)
def test_mistakes_in_the_configuration_are_refused(tmp_path, monkeypatch, files, bindings, parts):
    monkeypatch.chdir(tmp_path)
    message = refusal("train", *files, bindings=bindings)
    for part in parts:
        assert part in message
    assert list(tmp_path.iterdir()) == []


def test_a_mode_asks_only_for_what_it_reads(tmp_path, monkeypatch):
    """A plan needs no data and no folder of a run, though its file has both open."""
    monkeypatch.chdir(tmp_path)
    message = refusal("plan", "runs/pretrain.gin", bindings=("BATCH_SIZE=%gin.REQUIRED",))
    assert "lacks 1 value(s):\n  BATCH_SIZE (--gin.BATCH_SIZE)" in message


@pytest.mark.parametrize("mode", sorted(main.RUN_MODES))
def test_a_mode_without_its_files_names_what_is_unbound(mode):
    message = refusal(mode, "models/tiny.gin")
    assert f"--run_mode={mode} calls {main.RUN_MODES[mode]}, and no gin file binds" in message
    assert "gin/runs/" in message


def test_t5x_style_bindings_are_understood():
    given = ["alexatm", "--run_mode=eval", "--gin.A='b=c'", "--gin_file=x", "--gin_bindings=D=1"]
    assert main.expand_gin_flags(given) == [
        *given[:2],
        "--gin_bindings=A='b=c'",
        *given[3:],
    ]
