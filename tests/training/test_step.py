"""One step: accumulation, sums, keys."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from alexatm_jax.batch import OBJECTIVES
from alexatm_jax.training.state import TrainState, abstract_params, directions, zero_sums
from alexatm_jax.training.step import batch_loss, make_train_step

NO_DROPOUT = dict(encoder_attention_dropout_rate=0.0)


@pytest.fixture(scope="module")
def start(phases_of):
    """Makes a state with random parameters, which NumPy draws faster than JAX compiles."""

    def make(model, optimizer) -> TrainState:
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype),
            nn.unbox(abstract_params(model)),
        )
        phase = phases_of(model, optimizer)[0]
        opt_state = {"from_0": directions(model, optimizer, phase)["from_0"].init(params)}
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, zero_sums()), phase

    return make


def logits_of(model, params, batch):
    inputs = {name: x for name, x in batch.items() if name.startswith("encoder")} | {
        f"decoder_{name}": batch[f"decoder_{name}"]
        for name in ("input_tokens", "positions", "segment_ids")
    }
    return model.apply({"params": params}, **inputs)


def mean_loss(params, model, batch):
    """The mean negative log-likelihood of the real tokens, from all logits at once."""
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(
        logits_of(model, params, batch), batch["decoder_target_tokens"]
    )
    real_BT = batch["decoder_segment_ids"] > 0
    return jnp.where(real_BT, losses_BT, 0).sum() / real_BT.sum()


def test_accumulation_equals_the_whole_batch(tiny, start, sgd, make_batch):
    model, optimizer, batch = tiny(**NO_DROPOUT), sgd(1.0), make_batch(0)
    tokens_B = (batch["decoder_segment_ids"] > 0).sum(axis=1)
    assert len({int(tokens_B[i::4].sum()) for i in range(4)}) > 1, "rows must be uneven"
    state, phase = start(model, optimizer)
    loss, gradient = jax.jit(jax.value_and_grad(mean_loss), static_argnums=1)(
        state.params, model, batch
    )
    wanted = jax.tree.map(jnp.subtract, state.params, gradient)
    for num_microbatches in (1, 2, 4):
        train_step = make_train_step(
            model,
            optimizer,
            phase,
            seed=0,
            log_period_steps=1,
            num_microbatches=num_microbatches,
            loss_chunk_length=3,
        )
        after, sums = jax.jit(train_step)(state, batch)
        assert float(sums["loss"].sum() / sums["weight"].sum()) == pytest.approx(float(loss), 1e-5)
        assert float(sums["gradient_norm"]) == pytest.approx(
            float(optax.tree.norm(gradient)), rel=1e-4
        )
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), after.params, wanted)


def test_sums_restart_after_each_progress_line(tiny, start, sgd, make_batch):
    model, optimizer = tiny(**NO_DROPOUT), sgd(0.0)
    state, phase = start(model, optimizer)
    train_step = jax.jit(make_train_step(model, optimizer, phase, seed=0, log_period_steps=3))
    alone, kept = [], []
    for index in range(7):
        batch = make_batch(index)
        _, sums = train_step(state.replace(sums=zero_sums()), batch)
        alone.append(jax.device_get(sums))
        state, sums = train_step(state, batch)
        kept.append(jax.device_get(sums))
        assert int(state.step) == index + 1
        np.testing.assert_array_equal(state.sums["loss"], sums["loss"])
    assert [float(sums["steps"]) for sums in kept] == [1, 2, 3, 1, 2, 3, 1]
    for index, first in enumerate([0, 0, 0, 3, 3, 3, 6]):
        for name, value in kept[index].items():
            wanted = sum(sums[name] for sums in alone[first : index + 1])
            np.testing.assert_allclose(value, wanted, rtol=1e-5, err_msg=name)


def test_sums_count_tokens_pairs_and_objectives_one_by_one(tiny, start, sgd, make_batch):
    model, batch = tiny(), make_batch(3)
    params = start(model, sgd(0.0))[0].params
    loss, sums = jax.jit(functools.partial(batch_loss, model, dropout_key=None))(params, batch)
    log_probs = jax.nn.log_softmax(jax.jit(functools.partial(logits_of, model))(params, batch))

    wanted = {name: np.zeros(2) for name in ("loss", "weight")} | dict.fromkeys(
        ("encoder_tokens", "decoder_tokens", "encoder_pairs", "decoder_pairs", "cross_pairs"), 0
    )
    sources, targets = batch["encoder_segment_ids"], batch["decoder_segment_ids"]
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        for segment in source[source > 0]:
            wanted["encoder_tokens"] += 1
            wanted["encoder_pairs"] += (source == segment).sum()
        for t in np.flatnonzero(target):
            wanted["decoder_tokens"] += 1
            wanted["decoder_pairs"] += (target[: t + 1] == target[t]).sum()
            wanted["cross_pairs"] += (source == target[t]).sum()
            objective = batch["decoder_objective_ids"][row, t]
            wanted["loss"][objective] -= log_probs[row, t, batch["decoder_target_tokens"][row, t]]
            wanted["weight"][objective] += 1
    assert len(OBJECTIVES) == 2 and (wanted["weight"] > 0).all()
    assert sums.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5, err_msg=name)
    assert float(loss) == pytest.approx(wanted["loss"].sum(), rel=1e-5)


def test_dropout_follows_seed_and_step_alone(tiny, start, sgd, make_batch):
    model, optimizer, batch = tiny(), sgd(0.0), make_batch(0)
    state, phase = start(model, optimizer)
    steps = [
        jax.jit(make_train_step(model, optimizer, phase, seed=seed, log_period_steps=1))
        for seed in (0, 1)
    ]

    def loss(seed: int, step: int) -> float:
        at = state.replace(step=jnp.asarray(step, jnp.int32))
        return float(steps[seed](at, batch)[1]["loss"].sum())

    assert loss(0, 5) == loss(0, 5)
    assert len({loss(0, 5), loss(0, 6), loss(1, 5)}) == 3


def test_a_batch_of_padding_moves_nothing(tiny, start, sgd, make_batch):
    model, optimizer = tiny(**NO_DROPOUT), sgd(1.0)
    state, phase = start(model, optimizer)
    padding = jax.tree.map(np.zeros_like, make_batch(0))
    train_step = make_train_step(
        model, optimizer, phase, seed=0, log_period_steps=1, loss_chunk_length=3
    )
    after, sums = jax.jit(train_step)(state, padding)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert not sums["loss"].any() and not sums["weight"].any()
