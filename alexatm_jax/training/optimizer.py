"""The optimizers, their schedule, and what decays; the paper's is AdamW (recipe §4)."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import PartitionSpec

from alexatm_jax.training.moments import factored_rms, matrix, stored_in

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


_POSITIVE = (
    *("epsilon", "decay_exponent", "clip_threshold", "smallest_scale", "smallest_side"),
    "iterations",
)


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """What all optimizers have; the step multiplies `direction` by the learning rate.

    Attributes:
      schedule: learning rate of each update.
      weight_decay: per unit of learning rate, on what `decay_mask` names.
      clip_norm: largest global norm of the gradient; None clips nothing.
      moment_dtype: "float32" or "bfloat16", of what is kept for each element; None keeps it as
        optax does, in the dtype of the parameters. `moments.stored_in` says what bfloat16 costs.
    """

    schedule: LinearSchedule
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0
    moment_dtype: str | None = None

    def __post_init__(self) -> None:
        if self.weight_decay < 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError(
                f"weight_decay is {self.weight_decay} and clip_norm {self.clip_norm}; the first "
                "is 0 or more, the second more than 0, or None to clip nothing."
            )
        if self.moment_dtype not in (None, "float32", "bfloat16"):
            raise ValueError(
                f"moment_dtype is {self.moment_dtype!r}; write 'float32' or 'bfloat16', or None "
                "for the dtype of the parameters."
            )
        settings = dataclasses.asdict(self)
        for name in ("b1", "b2", "momentum"):
            if settings.get(name) is not None and not 0 <= settings[name] < 1:
                raise ValueError(
                    f"{name} is {settings[name]}; it is the share of the past, in [0, 1)."
                )
        for name in _POSITIVE:
            if settings.get(name, 1) <= 0:
                raise ValueError(f"{name} is {settings[name]}; it must be more than 0.")

    @abc.abstractmethod
    def scaling(self, specs: Any) -> optax.GradientTransformation:
        """Gives what turns gradients into steps, upwards and at learning rate 1."""

    def direction(self, specs: Any) -> optax.GradientTransformation:
        """Gives the update at learning rate 1, without clipping, weight decay included.

        Args:
          specs: logical axis names of the parameters that it gets, possibly only part of a
            model's, as `nn.get_partition_spec` gives them.
        """
        return optax.chain(
            self.scaling(specs),
            optax.add_decayed_weights(self.weight_decay, decay_mask),
            optax.scale(-1.0),
        )

    def _stored(self, inner: optax.GradientTransformation) -> optax.GradientTransformation:
        return inner if self.moment_dtype is None else stored_in(inner, self.moment_dtype)


@dataclasses.dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW, arXiv:1711.05101; the paper's, with its decay of 0.1 (recipe §4).

    Attributes:
      b1, b2, epsilon: Adam's; the paper gives none of them.
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def scaling(self, specs: Any) -> optax.GradientTransformation:
        """Gives m / (sqrt(v) + epsilon) of bias-corrected moments, element by element."""
        return self._stored(optax.scale_by_adam(self.b1, self.b2, self.epsilon))


@dataclasses.dataclass(frozen=True)
class Lion(Optimizer):
    """Lion, arXiv:2302.06675: the sign of momentum and gradient; one moment instead of two.

    Every element moves by the whole learning rate: the authors take one 3 to 10 times smaller
    than AdamW's, and a weight decay larger by as much.

    Attributes:
      b1: share of the momentum in the direction.
      b2: share of the past in the momentum.
    """

    b1: float = 0.9
    b2: float = 0.99

    def scaling(self, specs: Any) -> optax.GradientTransformation:
        """Gives sign(b1 m + (1 - b1) g), element by element."""
        return self._stored(optax.scale_by_lion(self.b1, self.b2))


@dataclasses.dataclass(frozen=True)
class Adafactor(Optimizer):
    """Adafactor as T5 used it (arXiv:1804.04235, arXiv:1910.10683): factored second moments.

    A matrix of n x m keeps n + m numbers. The learning rate is relative to the size of each
    parameter: T5's was 0.01, falling with 1 / sqrt(step) in pre-training. Each layer of a stack is
    a parameter of its own. T5 clipped no global norm and decayed nothing; these are the defaults.

    Attributes:
      momentum: share of the past in a first moment of the steps; None keeps none, as T5.
      moment_dtype: of the momentum, where there is one; the second moments are float32.
      decay_exponent: the second moment forgets a share of t^-decay_exponent at update t.
      clip_threshold: largest root mean square of a parameter's step, before its own scale.
      smallest_scale: of a parameter, for the learning rate.
      smallest_side: matrices with a smaller side keep the whole second moment.
      epsilon: added to squared gradients.
    """

    weight_decay: float = 0.0
    clip_norm: float | None = None
    momentum: float | None = None
    decay_exponent: float = 0.8
    clip_threshold: float = 1.0
    smallest_scale: float = 1e-3
    smallest_side: int = 128
    epsilon: float = 1e-30

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moment_dtype == "bfloat16" and self.momentum is None:
            raise ValueError(
                "moment_dtype is 'bfloat16' and Adafactor has no momentum, the only thing it would "
                "store so; leave moment_dtype out, or set momentum."
            )

    def scaling(self, specs: Any) -> optax.GradientTransformation:
        """Gives the gradient over its running size, times the parameter's own."""

        def relative(names: PartitionSpec, step: Array, param: Array) -> Array:
            size = jnp.maximum(_size(param, names), self.smallest_scale)
            return step * size / jnp.maximum(1, _size(step, names) / self.clip_threshold)

        steps = [
            factored_rms(specs, self.decay_exponent, self.smallest_side, self.epsilon),
            optax.stateless(lambda steps, params: jax.tree.map(relative, specs, steps, params)),
        ]
        if self.momentum is not None:
            steps.append(self._stored(optax.ema(self.momentum, debias=False)))
        return optax.chain(*steps)


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the matrices within the layers, AdamW for everything else.

    Everything else is token, position and output tables, biases and norms. A layer's query, key
    and value kernels are matrices of D x (H K), its output kernel of (H K) x D. Their momentum is
    made orthogonal and scaled by 0.2 sqrt(max(rows, columns)), so that its root mean square is
    0.2, about AdamW's: both parts take the same learning rates and weight decay, AdamW's.

    Attributes:
      momentum: share of the past in the matrices' momentum, of Nesterov's form.
      iterations: of Newton and Schulz.
      b1, b2, epsilon: of the part that AdamW trains.

    Source: arXiv:2502.16982, Sec. 2; momentum and iteration are K. Jordan's,
    https://kellerjordan.github.io/posts/muon/. Unlike in optax.contrib.muon, each device makes
    whole matrices of a few layers orthogonal, sent to it and back; unrolled layers, all of them.
    """

    momentum: float = 0.95
    iterations: int = 5
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def scaling(self, specs: Any) -> optax.GradientTransformation:
        """Gives orthogonal matrices for those within layers, Adam's steps for the rest."""

        def scaled(names: PartitionSpec, momentum: Array) -> Array:
            return _orthogonal(momentum, names, self.iterations)

        hidden = jax.tree.map(_is_hidden, specs)
        others = jax.tree.map(lambda name: not name, hidden)
        kept = jax.tree.map(lambda names: names if _is_hidden(names) else optax.MaskedNode(), specs)
        momentum = optax.trace(self.momentum, nesterov=True)
        muon = optax.chain(
            self._stored(momentum),
            optax.stateless(lambda steps, _: jax.tree.map(scaled, kept, steps)),
        )
        adam = self._stored(optax.scale_by_adam(self.b1, self.b2, self.epsilon))
        return optax.chain(optax.masked(muon, hidden), optax.masked(adam, others))


def _is_hidden(names: PartitionSpec) -> bool:
    return matrix(names) is not None and ("heads" in names or "mlp" in names)


def _size(x: Array, names: PartitionSpec) -> Array:
    """Gives the root mean square of a parameter, layer by layer."""
    axes = [axis for axis, name in enumerate(names) if name != "layers"]
    return jnp.sqrt(jnp.square(x.astype(jnp.float32)).mean(axes, keepdims=True))


def _orthogonal(x: Array, names: PartitionSpec, iterations: int) -> Array:
    """Takes matrices to about the nearest orthogonal ones, times 0.2 sqrt(the longer side)."""
    sides = matrix(names)
    assert sides is not None
    rows, columns = (math.prod(x.shape[axis] for axis in axes) for axes in sides)
    whole = _whole_matrices(x.astype(jnp.float32), names)
    flat = whole.reshape(-1, rows, columns)
    found = jax.vmap(functools.partial(newton_schulz, iterations=iterations))(flat)
    scale = 0.2 * math.sqrt(max(rows, columns))
    return scale * _whole_matrices(found.reshape(whole.shape), names)[: x.shape[0]]


def _whole_matrices(x: Array, names: PartitionSpec) -> Array:
    """Gives devices the whole width of some layers, where they had part of the width of all.

    Layers are filled up with zeros, so that they divide over the devices of a width. A layer that
    is not stacked is gathered once, and all of them compute it. Without this every product of the
    iteration would gather the matrices anew.
    """
    if names[0] != "layers":
        whole = tuple(None if name == "embed" else name for name in names)
        return nn.with_logical_constraint(x, whole)
    mesh, axes = jax.sharding.get_abstract_mesh(), nn.logical_to_mesh_axes(("embed",))
    parts = math.prod(mesh.shape.get(axis, 1) for axis in jax.tree.leaves(tuple(axes or ())))
    x = jnp.pad(x, ((0, -x.shape[0] % parts), *((0, 0),) * (x.ndim - 1)))
    swapped = {"layers": "embed", "embed": None}
    return nn.with_logical_constraint(x, tuple(swapped.get(name, name) for name in names))


def newton_schulz(matrix: Array, iterations: int) -> Array:
    """Brings the singular values of a matrix, float32 [R, C], near 1: most into [0.7, 1.2].

    Source: the quintic of https://kellerjordan.github.io/posts/muon/, whose coefficients raise
    small singular values fast and let large ones swing about 1.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (jnp.linalg.norm(wide) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide is matrix else x.T
