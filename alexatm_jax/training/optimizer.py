"""The optimizer of recipe §4: AdamW, its schedule, and what decays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

NOT_DECAYED = ("bias", "scale")
"""Names of the parameters that weight decay leaves alone: biases, and LayerNorms' scales."""


@dataclasses.dataclass(frozen=True)
class LinearSchedule:
    """Rises linearly to `peak`, holds it, then falls linearly to `final`.

    The paper starts falling at once: 1e-4 to 5e-6 over 500 k updates (recipe §4).

    Attributes:
      peak, final: learning rates.
      total_steps: the step at which `final` is reached; it stays there.
      warmup_steps: steps of the rise from 0; 0 starts at the peak.
      decay_start_step: the step at which the fall begins; at the end of the warm-up by default.
    """

    peak: float
    final: float
    total_steps: int
    warmup_steps: int = 0
    decay_start_step: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps <= self.decay_start < self.total_steps:
            raise ValueError(
                f"the schedule warms up for {self.warmup_steps} steps and decays from step "
                f"{self.decay_start} to {self.total_steps}; these must come in this order: "
                "lower warmup_steps and decay_start_step, or raise total_steps."
            )
        if not 0 <= self.final <= self.peak:
            raise ValueError(
                f"the learning rate goes from {self.peak} to {self.final}; it must fall, and "
                "never below 0."
            )

    @property
    def decay_start(self) -> int:
        """The step at which the fall begins."""
        return self.warmup_steps if self.decay_start_step is None else self.decay_start_step

    def __call__(self, step: Array | int) -> Array:
        """Gives the learning rate of an update, counted from 0: a float32 scalar."""
        step = jnp.asarray(step, jnp.float32)
        rise = (step + 1) / max(self.warmup_steps, 1)
        fallen = (step - self.decay_start) / (self.total_steps - self.decay_start)
        return jnp.where(
            step < self.warmup_steps,
            self.peak * rise,
            self.peak + (self.final - self.peak) * jnp.clip(fallen, 0, 1),
        )


def decay_mask(params: Any) -> Any:
    """Says which parameters decay: all but biases and LayerNorms (recipe §4)."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW behind global-norm clipping; the paper's decay of 0.1 by default (recipe §4).

    Attributes:
      schedule: learning rate of each update.
      b1, b2, epsilon: Adam's.
      weight_decay: per unit of learning rate, on what `decay_mask` names.
      clip_norm: largest global norm of the gradient; None clips nothing.
    """

    schedule: LinearSchedule
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0

    def direction(self, specs: Any) -> optax.GradientTransformation:
        """Gives the update at learning rate 1, before clipping: Adam's and the decay's, negated.

        Args:
          specs: logical axis names of the parameters that it gets, possibly only part of a
            model's, as `nn.get_partition_spec` gives them.
        """
        del specs  # Adam treats every element alike
        return optax.chain(
            optax.scale_by_adam(self.b1, self.b2, self.epsilon),
            optax.add_decayed_weights(self.weight_decay, decay_mask),
            optax.scale(-1.0),
        )

    def transformation(self) -> optax.GradientTransformation:
        """Gives the optax transformation of a parameter tree."""
        adamw = optax.adamw(
            self.schedule,
            b1=self.b1,
            b2=self.b2,
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            mask=decay_mask,
        )
        if self.clip_norm is None:
            return adamw
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), adamw)
