"""One training step: a pure function from state and batch to state and sums."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from alexatm_jax.batch import OBJECTIVES
from alexatm_jax.training.loss import token_cross_entropy
from alexatm_jax.training.optimizer import Optimizer
from alexatm_jax.training.phases import ResolvedPhase
from alexatm_jax.training.state import Sums, TrainState, directions, part_of, zero_sums

DeviceBatch = dict[str, Array]
TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, Sums]]


def make_train_step(
    model: nn.Module,
    optimizer: Optimizer,
    phase: ResolvedPhase,
    *,
    seed: int,
    log_period_steps: int,
    num_microbatches: int = 1,
    loss_chunk_length: int | None = None,
) -> TrainStep:
    """Builds the step of a phase; nothing is compiled here.

    The loss is differentiated with respect to what the phase trains alone: what it freezes has no
    gradient, and keeps nothing for a backward pass. Gradients are clipped by their global norm over
    all that is trained. Microbatches are summed, losses and weights alike, and divided once: the
    update equals that of the whole batch however unevenly its tokens are spread.

    Args:
      model: a `Transformer`.
      optimizer: gives the updates' direction; their learning rate is the phase's.
      phase: says what is trained; the state must have been made for it, or `entered` it.
      seed: of dropout; the key of a step is folded with the step's number.
      log_period_steps: sums restart after this many steps, and when the phase starts.
      num_microbatches: parts of a batch that are computed one after the other.
      loss_chunk_length: positions whose logits are held at a time.

    Returns:
      (state, batch) -> (state, a copy of its sums).
    """
    transformations, clip = directions(model, optimizer, phase), optimizer.clip_norm

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trained, frozen = (part_of(state.params, names) for names in (phase.trained, phase.frozen))
        gradients, sums = accumulated_gradients(
            model, trained, frozen, batch, key, num_microbatches, loss_chunk_length
        )
        with jax.named_scope("optimizer"):
            tokens = jnp.maximum(sums["weight"].sum(), 1)
            norm = optax.tree.norm(gradients) / tokens
            # One factor for mean and clipping, so that both cost one pass with the update itself.
            factor = (1.0 if clip is None else jnp.minimum(1, clip / norm)) / tokens
            gradients = jax.tree.map(lambda g: g * factor, gradients)
            rate, opt_state = phase.schedule(state.step), {}
            for name, parts in phase.groups.items():
                params = part_of(trained, parts)
                before = state.opt_state[name]
                updates, after = transformations[name].update(
                    part_of(gradients, parts), before, params
                )
                # Gradients are wider than the moments of bfloat16 parameters.
                opt_state[name] = jax.tree.map(lambda x, y: x.astype(y.dtype), after, before)
                trained |= optax.apply_updates(params, optax.tree.scale(rate, updates))
        sums |= {"steps": jnp.ones(()), "gradient_norm": norm}
        fresh = (state.step % log_period_steps == 0) | (state.step == phase.start_step)
        sums = jax.tree.map(lambda old, new: jnp.where(fresh, 0, old) + new, state.sums, sums)
        return TrainState(state.step + 1, frozen | trained, opt_state, sums), sums

    return train_step


def accumulated_gradients(
    model: nn.Module,
    trained: dict[str, Any],
    frozen: dict[str, Any],
    batch: DeviceBatch,
    key: Array,
    num_microbatches: int,
    loss_chunk_length: int | None,
) -> tuple[Any, Sums]:
    """Sums gradients of the total loss, and metrics, over the microbatches of a batch.

    Microbatch i takes rows i, i + n, i + 2n, ...: every device keeps rows of its own. The sums are
    float32 whatever the parameters are: small gradients do not vanish beside large sums.

    Args:
      trained, frozen: the parameters, by the first names of their tree; only the first have
        gradients.
    """

    def one(number: Array | int, rows: DeviceBatch) -> tuple[Any, Sums]:
        def total_loss(trained: dict[str, Any]) -> tuple[Array, Sums]:
            return batch_loss(
                model, frozen | trained, rows, jax.random.fold_in(key, number), loss_chunk_length
            )

        (_, sums), gradients = jax.value_and_grad(total_loss, has_aux=True)(trained)
        return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), sums

    if num_microbatches == 1:
        return one(0, batch)

    def step(total: tuple[Any, Sums], numbered: tuple[Array, DeviceBatch]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(*numbered)), None

    split = jax.tree.map(
        lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
    )
    float_zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trained)
    zeros = (float_zeros, _step_sums(zero_sums()))
    total, _ = jax.lax.scan(step, zeros, (jnp.arange(num_microbatches), split))
    return total


def batch_loss(
    model: nn.Module,
    params: Any,
    batch: DeviceBatch,
    dropout_key: Array | None,
    loss_chunk_length: int | None = None,
) -> tuple[Array, Sums]:
    """Computes the total loss of a batch in nats, and its sums.

    Args:
      model, params: the model; without `dropout_key` it runs without dropout.
      batch: see `alexatm_jax.batch`.

    Returns:
      The sum over all target tokens, and per-objective sums of loss and weight with the counts
      of tokens and attending pairs.
    """
    apply: Callable[..., Any] = functools.partial(model.apply, {"params": params})
    hidden_BTD = apply(
        *(batch["encoder_input_tokens"], batch["decoder_input_tokens"]),
        batch["encoder_positions"],
        batch["encoder_segment_ids"],
        batch["decoder_positions"],
        batch["decoder_segment_ids"],
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        method="hidden_states",
    )
    weights_BT = (batch["decoder_segment_ids"] > 0).astype(jnp.float32)
    with jax.named_scope("loss"):
        loss, losses_BT = token_cross_entropy(
            hidden_BTD,
            apply(method="output_table"),
            batch["decoder_target_tokens"],
            weights_BT,
            loss_chunk_length,
        )
    with jax.named_scope("metrics"):
        return loss, _objective_sums(losses_BT, weights_BT, batch) | _work_sums(batch)


def _step_sums(sums: Sums) -> Sums:
    """Keeps what a microbatch adds to; the rest belongs to the whole step."""
    return {name: x for name, x in sums.items() if name not in ("steps", "gradient_norm")}


def _objective_sums(losses_BT: Array, weights_BT: Array, batch: DeviceBatch) -> Sums:
    objectives_BTO = jax.nn.one_hot(batch["decoder_objective_ids"], len(OBJECTIVES))
    return {
        "loss": jnp.einsum("BT,BTO->O", losses_BT, objectives_BTO),
        "weight": jnp.einsum("BT,BTO->O", weights_BT, objectives_BTO),
    }


def _work_sums(batch: DeviceBatch) -> Sums:
    """Counts real tokens and attending pairs, for `model.flops`."""
    source_BS, target_BT = batch["encoder_segment_ids"], batch["decoder_segment_ids"]

    def pairs(query_BL: Array, key_BM: Array) -> Array:
        same_BLM = query_BL[:, :, None] == key_BM[:, None, :]
        return (same_BLM & (query_BL > 0)[:, :, None]).sum(dtype=jnp.float32)

    decoder_tokens = (target_BT > 0).sum(dtype=jnp.float32)
    return {
        "encoder_tokens": (source_BS > 0).sum(dtype=jnp.float32),
        "decoder_tokens": decoder_tokens,
        "encoder_pairs": pairs(source_BS, source_BS),
        # n^2 pairs of an example, of which causality leaves n (n + 1) / 2.
        "decoder_pairs": (pairs(target_BT, target_BT) + decoder_tokens) / 2,
        "cross_pairs": pairs(target_BT, source_BS),
    }
