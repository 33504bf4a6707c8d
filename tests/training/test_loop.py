"""The real loop on made-up batches: it learns, stops anywhere, and goes on exactly."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time

import jax
import numpy as np
import pytest

from alexatm_jax.batch import NoMoreBatches
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training import loop
from alexatm_jax.training.checkpoint import Checkpoints, locate, read_provenance
from alexatm_jax.training.config import TrainingConfig
from alexatm_jax.training.goodput import read_goodput
from alexatm_jax.training.progress import ProgressLog
from alexatm_jax.training.validation import ValidationConfig

LOSSES = ("step", "loss", "loss/denoising", "loss/clm", "gradient_norm", "decoder_tokens")


class Stopped(Exception):
    """What a test's reader raises, in the place of a kill."""


@pytest.fixture(scope="module")
def run(tiny, adamw, make_batch):
    """Trains on one device into a folder; `before(i)` is called before the i-th batch is read."""

    def train(
        folder,
        *,
        model=None,
        before=lambda index: None,
        batch_of=make_batch,
        held_out=None,
        **changes,
    ):
        settings = dict(train_steps=7, optimizer=adamw(), log_period_steps=2, num_microbatches=2)
        config = TrainingConfig(**(settings | dict(checkpoint_period_steps=3) | changes))
        model = model or tiny()

        def open_reader(phase, state, crossing):
            index = 0 if state is None else state["next"]
            while True:
                before(index)
                index += 1
                yield batch_of(index - 1), {"next": index}

        partitioning = Partitioning()
        return loop.train(
            model,
            config,
            config.resolved_phases(model.config, 8, 6, 7),
            partitioning,
            partitioning.make_mesh(jax.devices()[:1]),
            open_reader,
            folder,
            {"model": dataclasses.asdict(model.config), "vocabulary_sha256": "abc"},
            validation_batches=held_out,
        )

    return train


def losses_in(folder) -> list[dict]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: row[name] for name in LOSSES} for row in rows]


def saved_steps(folder) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def assert_identical(state, other) -> None:
    jax.tree.map(np.testing.assert_array_equal, state, other)


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, run(folder)


def test_a_run_leaves_its_log_and_checkpoints(unbroken, tiny):
    folder, state = unbroken
    assert [row["step"] for row in losses_in(folder)] == [2, 4, 6, 7]
    assert saved_steps(folder) == [3, 6, 7]
    assert int(state.step) == 7
    assert locate(folder) == (folder / "checkpoints", 7)
    assert read_provenance(folder)["model"] == dataclasses.asdict(tiny().config)


@pytest.mark.parametrize("killed_at", [2, 4, 6], ids=lambda step: f"after_step_{step}")
def test_a_killed_run_goes_on_bit_for_bit(unbroken, run, tmp_path, killed_at):
    """Killed before the first checkpoint, after a line that will be repeated, after both."""

    def kill(index):
        if index == killed_at:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path, before=kill)
    assert saved_steps(tmp_path) == [step for step in (3, 6) if step <= killed_at]
    seen = []
    state = run(tmp_path, before=seen.append)
    assert seen[0] == killed_at // 3 * 3, "batches before the checkpoint are not read again"
    folder, wanted = unbroken
    assert losses_in(tmp_path) == losses_in(folder)
    assert_identical(state, wanted)


def test_when_batches_end_what_was_learnt_is_saved(unbroken, run, tmp_path):
    def end(index):
        if index >= 5:
            raise NoMoreBatches("all documents are read")

    with pytest.raises(NoMoreBatches, match="stopped after step 5: all documents are read"):
        run(tmp_path, before=end)
    assert saved_steps(tmp_path) == [3, 5]
    with pytest.raises(NoMoreBatches, match="stopped after step 5"):
        run(tmp_path, before=end)
    folder, wanted = unbroken
    assert_identical(run(tmp_path), wanted)


def test_a_finished_run_has_nothing_to_do(unbroken, run):
    folder, wanted = unbroken
    rows = losses_in(folder)
    assert_identical(run(folder, before=lambda index: pytest.fail("a batch was read")), wanted)
    assert losses_in(folder) == rows


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_exits(unbroken, run, tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="stopped by SIGTERM after step 5"):
        run(tmp_path, before=lambda index: index == 4 and terminate())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert saved_steps(tmp_path) == [3, 5]
    state = run(tmp_path)
    folder, wanted = unbroken
    assert losses_in(tmp_path) == losses_in(folder)
    assert_identical(state, wanted)


def test_sigterm_while_a_line_is_written_saves_too(run, tmp_path, monkeypatch):
    write = ProgressLog.write

    def write_and_terminate(self, row):
        write(self, row)
        if row["step"] == 4:
            terminate()

    monkeypatch.setattr(ProgressLog, "write", write_and_terminate)
    with pytest.raises(SystemExit, match="stopped by SIGTERM after step") as stopped:
        run(tmp_path)
    assert f"after step {saved_steps(tmp_path)[-1]};" in str(stopped.value)


def test_sigterm_while_the_last_checkpoint_is_written_leaves_it_whole(run, tmp_path, monkeypatch):
    """As when whoever sent the first sends another, losing patience."""
    leave = Checkpoints.__exit__

    def terminate_and_leave(self, *error):
        terminate()
        leave(self, *error)

    monkeypatch.setattr(Checkpoints, "__exit__", terminate_and_leave)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="stopped by SIGTERM after step 2"):
        run(tmp_path, before=lambda index: index == 1 and terminate())
    assert signal.getsignal(signal.SIGTERM) is handler
    assert saved_steps(tmp_path) == [2]


def test_a_loss_that_is_no_number_stops_the_run_and_is_not_saved(run, adamw, tmp_path):
    diverging = dict(optimizer=adamw(1e38, clip_norm=None), checkpoint_period_steps=1)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run(tmp_path, log_period_steps=4, **diverging)
    assert saved_steps(tmp_path) == [1]


def test_one_batch_is_learnt_by_heart(run, tiny, adamw, make_batch, tmp_path):
    model = tiny(d_model=32, d_ff=64, encoder_attention_dropout_rate=0.0, norm="published")
    batch = make_batch(0)
    run(
        tmp_path,
        model=model,
        batch_of=lambda index: batch,
        optimizer=adamw(0.01, weight_decay=0.0),
        train_steps=120,
        log_period_steps=20,
        checkpoint_period_steps=1000,
        loss_chunk_length=3,
    )
    rows = losses_in(tmp_path)
    assert rows[0]["loss"] > 1 and rows[-1]["loss"] < 0.05
    assert max(rows[-1]["loss/denoising"], rows[-1]["loss/clm"]) < 0.05


def test_held_out_text_is_measured_in_its_period_and_at_the_end(
    unbroken, run, make_batch, tmp_path
):
    """Training does not notice; what bounds it and where its time went is said at the end."""
    state = run(
        tmp_path,
        held_out=lambda: iter([make_batch(90), make_batch(91)]),
        validation=ValidationConfig("held_out", num_batches=2, period_steps=4),
    )
    rows = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    assert [row["step"] for row in rows if "validation_loss" in row] == [4, 7]
    assert_identical(state, unbroken[1])
    goodput = read_goodput(tmp_path)
    assert goodput.starts == 1 and goodput.seconds["validation"] > 0
    assert all(goodput.seconds[kind] > 0 for kind in ("step", "compile", "restore", "checkpoint"))


def test_the_wait_for_the_last_checkpoint_is_counted(run, tmp_path, monkeypatch):
    wait = Checkpoints.wait

    def wait_long(self):
        time.sleep(0.7)
        wait(self)
        assert saved_steps(tmp_path) == [1]

    monkeypatch.setattr(Checkpoints, "wait", wait_long)
    run(tmp_path, train_steps=1)
    seconds = [json.loads(line) for line in (tmp_path / "goodput.jsonl").read_text().splitlines()]
    before, after = (line["seconds"] for line in seconds[-2:])
    assert after["checkpoint"] - before["checkpoint"] >= 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(profile_steps="5"), "profile_steps is '5'"),
        (dict(peak_flops_per_device=0.0), "peak_flops_per_device is 0.0; give FLOP/s above 0"),
        (dict(validation=ValidationConfig("a", period_steps=30)), "is 30 and log_period_steps 100"),
    ],
    ids=str,
)
def test_what_cannot_be_logged_is_refused(adamw, changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(1, adamw(), **changes)


@pytest.mark.parametrize(
    "name", ["train_steps", "num_microbatches", "log_period_steps", "checkpoint_period_steps"]
)
def test_counts_are_positive(adamw, name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        TrainingConfig(**({"train_steps": 1, "optimizer": adamw()} | {name: 0}))
