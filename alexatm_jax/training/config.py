"""How long and how to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from alexatm_jax.model.config import ModelConfig
from alexatm_jax.training.optimizer import AdamW
from alexatm_jax.training.phases import Phase, ResolvedPhase, resolved


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how to train.

    Attributes:
      train_steps: updates in all.
      optimizer: what makes them.
      num_microbatches: parts of a batch computed one after the other.
      loss_chunk_length: target positions whose logits are held at a time; by default, as many as
        `training.loss` finds fit.
      log_period_steps, checkpoint_period_steps: a progress line and a checkpoint are due after
        this many steps.
      max_checkpoints: older ones are deleted; None keeps all.
      seed: of initialisation and dropout.
      phases: what changes at given steps; none trains everything alike from first to last.

    Raises:
      ValueError: if a count is not positive.
    """

    train_steps: int
    optimizer: AdamW
    num_microbatches: int = 1
    loss_chunk_length: int | None = None
    log_period_steps: int = 100
    checkpoint_period_steps: int = 1000
    max_checkpoints: int | None = 3
    seed: int = 0
    phases: Sequence[Phase] = ()

    def __post_init__(self) -> None:
        for name in (
            "train_steps",
            "num_microbatches",
            "log_period_steps",
            "checkpoint_period_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    def resolved_phases(
        self, model: ModelConfig, batch_size: int, source_length: int, target_length: int
    ) -> tuple[ResolvedPhase, ...]:
        """Gives the phases of a run with these settings; see `training.phases.resolved`."""
        return resolved(
            self.phases,
            train_steps=self.train_steps,
            model=model,
            schedule=self.optimizer.schedule,
            batch_size=batch_size,
            source_length=source_length,
            target_length=target_length,
        )
