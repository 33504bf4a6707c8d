"""The progress of a run: one line on the terminal, the same in JSONL and TensorBoard."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexatm_jax.batch import OBJECTIVES
from alexatm_jax.model.config import ModelConfig
from alexatm_jax.model.flops import Work, training_flops

logger = logging.getLogger(__name__)

Row = dict[str, float]


def summarise(
    sums: Mapping[str, np.ndarray],
    *,
    config: ModelConfig,
    step: int,
    total_steps: int,
    timed_steps: int,
    seconds: float,
    input_wait_seconds: float,
    learning_rate: float,
    frozen: Collection[str] = (),
    peak_flops: float | None = None,
) -> Row:
    """Turns a period's sums into the numbers of its progress line.

    Args:
      sums: see `training.state.zero_sums`, fetched from the devices.
      timed_steps: steps that `seconds` covers; fewer than summed if the run began within.
      seconds: wall time of these steps, the last one finished.
      input_wait_seconds: the part spent waiting for batches.
      frozen: parts of the model that these steps did not train, see `model.flops`.
      peak_flops: of all devices together, FLOP/s; None if not known.

    Returns:
      Losses in nats per target token, for each objective that had any; throughput in encoder and
      decoder tokens per second, padding excluded, and in model FLOP/s; `input_wait` as a share;
      with a peak, `mfu`, the model FLOPs as a share of it (arXiv:2204.02311, App. B): what must
      be computed on tokens, never recomputation.
    """
    steps = float(sums["steps"])
    row: Row = {"step": step, "loss": float(sums["loss"].sum() / max(sums["weight"].sum(), 1))}
    for name, loss, weight in zip(OBJECTIVES, sums["loss"], sums["weight"], strict=True):
        if weight:
            row[f"loss/{name}"] = float(loss / weight)
    work = Work(
        *(float(sums[f"{side}_tokens"]) for side in ("encoder", "decoder")),
        *(float(sums[f"{side}_pairs"]) for side in ("encoder", "decoder", "cross")),
    )
    timed_share = timed_steps / steps
    tokens = work.encoder_tokens + work.decoder_tokens
    flops_per_second = training_flops(config, work, frozen) * timed_share / seconds
    if peak_flops is not None:
        row["mfu"] = flops_per_second / peak_flops
    return row | {
        "learning_rate": learning_rate,
        "gradient_norm": float(sums["gradient_norm"]) / steps,
        "encoder_tokens": work.encoder_tokens,
        "decoder_tokens": work.decoder_tokens,
        "tokens_per_second": tokens * timed_share / seconds,
        "model_flops_per_second": flops_per_second,
        "input_wait": input_wait_seconds / seconds,
        "seconds": seconds,
        "eta_seconds": (total_steps - step) * seconds / timed_steps,
    }


def line(row: Row, total_steps: int) -> str:
    """Renders a row for the terminal."""
    losses = "  ".join(
        f"{name} {row[f'loss/{name}']:.3f}" for name in OBJECTIVES if f"loss/{name}" in row
    )
    if "validation_loss" in row:
        losses += f"  validation {row['validation_loss']:.3f}"
    mfu = f"MFU {100 * row['mfu']:.1f} %  " if "mfu" in row else ""
    minutes, seconds = divmod(round(row["eta_seconds"]), 60)
    return (
        f"step {row['step']:.0f}/{total_steps}  loss: {losses}  "
        f"{row['tokens_per_second']:,.0f} tok/s  "
        f"{engineering(row['model_flops_per_second'])}FLOP/s  {mfu}"
        f"input wait {row['input_wait']:.0%}  ETA {minutes}:{seconds:02d}"
    )


def engineering(value: float) -> str:
    """Writes a rate with the prefix of its unit: 3.2e12 is "3.2 T"."""
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if value >= scale:
            return f"{value / scale:.1f} {prefix}"
    return f"{value / 1e6:.1f} M"


class ProgressLog:
    """Writes rows to `metrics.jsonl` and `tensorboard/` in the run's folder.

    On a restart, rows after the step restored are dropped: they will be written again, the same.
    One that does not write, for all but the first process of a run, logs and no more.
    """

    def __init__(
        self,
        directory: str | Path,
        restored_step: int,
        total_steps: int,
        writes: bool = True,
    ):
        directory = Path(directory)
        self.total_steps = total_steps
        self._peak_seconds = self._timed_seconds = 0.0
        path = directory / "metrics.jsonl" if writes else Path(os.devnull)
        if writes:
            _drop_rows_after(path, restored_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = _board(directory / "tensorboard", restored_step) if writes else None

    def write(self, row: Row) -> None:
        """Logs, appends and plots one row."""
        logger.info("%s", line(row, self.total_steps))
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._timed_seconds += row["seconds"]
        self._peak_seconds += row.get("mfu", 0.0) * row["seconds"]
        if self._board is not None:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, int(row["step"]))

    @property
    def mfu(self) -> float | None:
        """The mean over the time of all rows written, if they have one."""
        return self._peak_seconds / self._timed_seconds if self._peak_seconds else None

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(directory: Path, restored_step: int) -> Any:
    # Imported here: benchmarks of steps write no log, and run where it is not installed.
    from tensorboardX import SummaryWriter

    # TensorBoard forgets the step of a purge and those after it.
    return SummaryWriter(str(directory), purge_step=restored_step + 1, flush_secs=10)


def _drop_rows_after(path: Path, step: int) -> None:
    """Rewrites a JSONL file without later rows, and without a line cut off by a kill."""
    if not path.exists():
        return
    kept: list[str] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            row: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(text + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)
