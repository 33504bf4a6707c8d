"""The numbers of a progress line, and what a restart leaves of the log."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest

from alexatm_jax.model.flops import ENCODER_PARTS, Work, training_flops
from alexatm_jax.training.progress import ProgressLog, line, summarise

SUMS = {
    "loss": np.array([30.0, 8.0]),
    "weight": np.array([10.0, 4.0]),
    "steps": np.array(4.0),
    "gradient_norm": np.array(6.0),
    "encoder_tokens": np.array(20.0),
    "decoder_tokens": np.array(14.0),
    "encoder_pairs": np.array(100.0),
    "decoder_pairs": np.array(60.0),
    "cross_pairs": np.array(90.0),
}


@pytest.fixture
def row_of(tiny):
    def make(timed_steps=4, frozen=(), peak_flops=None, **changes):
        return summarise(
            SUMS | changes,
            config=tiny().config,
            step=12,
            total_steps=20,
            timed_steps=timed_steps,
            seconds=2.0,
            input_wait_seconds=0.5,
            learning_rate=0.25,
            frozen=frozen,
            peak_flops=peak_flops,
        )

    return make


def test_sums_become_means_and_rates(tiny, row_of):
    row = row_of()
    flops = training_flops(tiny().config, Work(20, 14, 100, 60, 90))
    assert row == pytest.approx(
        {
            "step": 12,
            "loss": 38 / 14,
            "loss/denoising": 3.0,
            "loss/clm": 2.0,
            "learning_rate": 0.25,
            "gradient_norm": 1.5,
            "encoder_tokens": 20,
            "decoder_tokens": 14,
            "tokens_per_second": 17,
            "model_flops_per_second": flops / 2,
            "input_wait": 0.25,
            "seconds": 2.0,
            "eta_seconds": 4.0,  # 8 steps to go, half a second each
        }
    )
    assert json.loads(json.dumps(row)) == row


def test_rates_are_those_of_the_steps_timed(row_of):
    """A run that begins within a period sums more steps than it sees."""
    whole, half = row_of(), row_of(timed_steps=2)
    assert half["loss"] == whole["loss"] and half["encoder_tokens"] == whole["encoder_tokens"]
    assert half["tokens_per_second"] == whole["tokens_per_second"] / 2
    assert half["eta_seconds"] == whole["eta_seconds"] * 2


def test_mfu_counts_neither_padding_nor_what_is_frozen(tiny, row_of):
    flops = training_flops(tiny().config, Work(20, 14, 100, 60, 90), ENCODER_PARTS)
    row = row_of(frozen=ENCODER_PARTS, peak_flops=flops)
    assert row["mfu"] == 1 / 2  # seconds
    assert row["model_flops_per_second"] == flops / 2 < row_of()["model_flops_per_second"]
    assert "  MFU 50.0 %  input wait" in line(row, 20)


def test_the_log_knows_the_mean_mfu(tmp_path, row_of):
    log = ProgressLog(tmp_path, restored_step=0, total_steps=9)
    assert log.mfu is None
    for seconds, mfu in ((1.0, 0.2), (3.0, 0.4)):
        log.write(row_of() | {"seconds": seconds, "mfu": mfu})
    log.close()
    assert log.mfu == pytest.approx(0.35)


def test_an_objective_without_tokens_has_no_loss(row_of):
    row = row_of(loss=np.array([0.0, 8.0]), weight=np.array([0.0, 4.0]))
    assert "loss/denoising" not in row and row["loss"] == row["loss/clm"] == 2


def test_the_line_shows_what_one_watches(row_of):
    text = line(row_of() | {"model_flops_per_second": 3.21e12, "eta_seconds": 125.4}, 20)
    assert text == (
        "step 12/20  loss: denoising 3.000  clm 2.000  17 tok/s  3.2 TFLOP/s  "
        "input wait 25%  ETA 2:05"
    )
    assert "clm 2.000  validation 2.500  17 tok/s" in line(row_of() | {"validation_loss": 2.5}, 20)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2.5e15, "2.5 P"), (1e12, "1.0 T"), (9.99e11, "999.0 G"), (4e6, "4.0 M"), (0, "0.0 M")],
)
def test_flops_are_shown_in_a_unit_that_fits(row_of, value, shown):
    assert f"  {shown}FLOP/s  " in line(row_of() | {"model_flops_per_second": value}, 20)


def test_rows_after_the_restored_step_are_dropped(tmp_path, row_of):
    path = tmp_path / "metrics.jsonl"
    rows = [row_of() | {"step": step} for step in (2, 4, 6)]
    # Killed while writing: the last line was cut off.
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 8, "lo')
    log = ProgressLog(tmp_path, restored_step=4, total_steps=9)
    log.write(row_of() | {"step": 6, "loss": 1.5})
    log.close()
    written = [json.loads(text) for text in path.read_text().splitlines()]
    assert [row["step"] for row in written] == [2, 4, 6]
    assert written[:2] == rows[:2] and written[2]["loss"] == 1.5
    assert any((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("restored", [0, 4])
def test_tensorboard_shows_the_rows_that_a_restart_keeps(tmp_path, row_of, monkeypatch, restored):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    # TensorBoard then reads without TensorFlow, which takes long to import.
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", ModuleType("notf"))
    board = tmp_path / "tensorboard"
    for number, start in enumerate((0, restored)):
        log = ProgressLog(tmp_path, restored_step=start, total_steps=9)
        for step in (2, 4, 6):
            if step > start:
                log.write(row_of() | {"step": step})
        log.close()
        (file,) = board.glob("events.*")
        file.rename(board / f"{number}-{file.name}")  # names are alike within a second
    shown = reader.EventAccumulator(str(board)).Reload()
    assert [point.step for point in shown.Scalars("loss")] == [2, 4, 6]


def test_a_new_run_starts_a_log(tmp_path, row_of):
    ProgressLog(tmp_path, restored_step=0, total_steps=9).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
