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
from alexatm_jax.training.state import Sums, TrainState, zero_sums

DeviceBatch = dict[str, Array]
TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, Sums]]


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    log_period_steps: int,
    num_microbatches: int = 1,
    loss_chunk_length: int | None = None,
) -> TrainStep:
    """Builds the step; nothing is compiled here.

    Microbatches are summed, losses and weights alike, and divided once: the update equals that of
    the whole batch however unevenly its tokens are spread.

    Args:
      model: a `Transformer`.
      optimizer: what updates the parameters.
      seed: of dropout; the key of a step is folded with the step's number.
      log_period_steps: sums restart after this many steps.
      num_microbatches: parts of a batch that are computed one after the other.
      loss_chunk_length: positions whose logits are held at a time.

    Returns:
      (state, batch) -> (state, a copy of its sums).
    """

    def train_step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients, sums = accumulated_gradients(
            model, state.params, batch, key, num_microbatches, loss_chunk_length
        )
        tokens = jnp.maximum(sums["weight"].sum(), 1)
        gradients = jax.tree.map(lambda g: g / tokens.astype(g.dtype), gradients)
        sums |= {"steps": jnp.ones(()), "gradient_norm": optax.tree.norm(gradients)}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        fresh = state.step % log_period_steps == 0
        sums = jax.tree.map(lambda old, new: jnp.where(fresh, 0, old) + new, state.sums, sums)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, sums), sums

    return train_step


def accumulated_gradients(
    model: nn.Module,
    params: Any,
    batch: DeviceBatch,
    key: Array,
    num_microbatches: int,
    loss_chunk_length: int | None,
) -> tuple[Any, Sums]:
    """Sums gradients of the total loss, and metrics, over the microbatches of a batch.

    Microbatch i takes rows i, i + n, i + 2n, ...: every device keeps rows of its own.
    """

    def one(number: Array | int, rows: DeviceBatch) -> tuple[Any, Sums]:
        def total_loss(params: Any) -> tuple[Array, Sums]:
            return batch_loss(
                model, params, rows, jax.random.fold_in(key, number), loss_chunk_length
            )

        (_, sums), gradients = jax.value_and_grad(total_loss, has_aux=True)(params)
        return gradients, sums

    if num_microbatches == 1:
        return one(0, batch)

    def step(total: tuple[Any, Sums], numbered: tuple[Array, DeviceBatch]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(*numbered)), None

    split = jax.tree.map(
        lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1), batch
    )
    zeros = (jax.tree.map(jnp.zeros_like, params), _step_sums(zero_sums()))
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
    loss, losses_BT = token_cross_entropy(
        hidden_BTD,
        apply(method="output_table"),
        batch["decoder_target_tokens"],
        weights_BT,
        loss_chunk_length,
    )
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
