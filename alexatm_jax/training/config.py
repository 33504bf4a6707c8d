"""How long and how to train."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from alexatm_jax.model.config import ModelConfig
from alexatm_jax.training.optimizer import Optimizer
from alexatm_jax.training.phases import Phase, ResolvedPhase, resolved
from alexatm_jax.training.profiling import parse_steps
from alexatm_jax.training.validation import ValidationConfig


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
      validation: on what to measure the loss, and when; None measures none.
      peak_flops_per_device: FLOP/s that a device could reach, for MFU; by default the data sheet's
        where the device is known (`hardware.peak_flops`).
      profile_steps: such as "100:105": the updates 101 to 105 are profiled into `profile/` of the
        run's folder (`training.profiling`).

    Raises:
      ValueError: if a number is not positive, `profile_steps` names no steps, or the loss is to be
        measured at steps that have no progress line.
    """

    train_steps: int
    optimizer: Optimizer
    num_microbatches: int = 1
    loss_chunk_length: int | None = None
    log_period_steps: int = 100
    checkpoint_period_steps: int = 1000
    max_checkpoints: int | None = 3
    seed: int = 0
    phases: Sequence[Phase] = ()
    validation: ValidationConfig | None = None
    peak_flops_per_device: float | None = None
    profile_steps: str | None = None

    def __post_init__(self) -> None:
        for name in (
            "train_steps",
            "num_microbatches",
            "log_period_steps",
            "checkpoint_period_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.peak_flops_per_device is not None and self.peak_flops_per_device <= 0:
            raise ValueError(
                f"peak_flops_per_device is {self.peak_flops_per_device}; give FLOP/s above 0, or "
                "None for the data sheet's."
            )
        if self.profile_steps is not None:
            parse_steps(self.profile_steps)
        if self.validation and self.validation.period_steps % self.log_period_steps:
            raise ValueError(
                f"ValidationConfig.period_steps is {self.validation.period_steps} and "
                f"log_period_steps {self.log_period_steps}; the loss on held-out text is part of a "
                "progress line: make the first a multiple of the second."
            )

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
