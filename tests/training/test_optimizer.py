"""The schedule at its corners, what decays, and AdamW in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.training.optimizer import AdamW, LinearSchedule, decay_mask
from alexatm_jax.training.state import abstract_params


def test_the_papers_schedule_falls_from_the_first_step():
    schedule = LinearSchedule(peak=1e-4, final=5e-6, total_steps=500_000)
    wanted = {0: 1e-4, 250_000: 5.25e-5, 500_000: 5e-6, 600_000: 5e-6}
    for step, rate in wanted.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=1e-5)


def test_a_schedule_rises_holds_and_falls():
    schedule = LinearSchedule(
        peak=8.0, final=2.0, total_steps=20, warmup_steps=4, decay_start_step=8
    )
    rates = [float(schedule(step)) for step in range(23)]
    assert rates[:4] == [2, 4, 6, 8]
    assert rates[4:9] == [8] * 5
    assert rates[8:21] == pytest.approx(np.linspace(8, 2, 13))
    assert rates[20:] == [2] * 3


@given(step=st.integers(0, 99), warmup=st.integers(0, 20), hold=st.integers(0, 20))
def test_a_schedule_stays_between_its_ends(step, warmup, hold):
    schedule = LinearSchedule(3.0, 1.0, 50, warmup, warmup + hold)
    rate, later = float(schedule(step)), float(schedule(step + 1))
    assert 0 < rate <= 3 and float(schedule(warmup)) == 3
    assert later >= rate if step < warmup else later <= rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(warmup_steps=20), "warms up for 20 steps and decays from step 20 to 10"),
        (dict(warmup_steps=-1), "warms up for -1 steps"),
        (dict(warmup_steps=5, decay_start_step=3), "decays from step 3 to 10"),
        (dict(total_steps=0), "to 0; these must come in this order"),
        (dict(final=2.0), "goes from 1.0 to 2.0; it must fall"),
        (dict(final=-1.0), "never below 0"),
    ],
)
def test_an_impossible_schedule_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LinearSchedule(**(dict(peak=1.0, final=0.5, total_steps=10) | changes))


@pytest.mark.parametrize("scan_layers", [False, True])
def test_exactly_biases_and_layer_norms_do_not_decay(tiny, scan_layers):
    params = nn.unbox(abstract_params(tiny(scan_layers=scan_layers)))
    decayed = {True: set(), False: set()}
    for path, decays in jax.tree_util.tree_leaves_with_path(decay_mask(params)):
        names = [key.key for key in path]
        in_norm = any(name.endswith("_norm") for name in names)
        decayed[decays].add((in_norm, names[-1]))
    assert decayed[True] == {(False, "kernel"), (False, "table")}
    assert decayed[False] == {(False, "bias"), (True, "bias"), (True, "scale")}


@pytest.mark.parametrize("clip_norm", [None, 1.0, 1e6])
def test_adamw_is_its_formulas(clip_norm):
    rng = np.random.default_rng(0)
    shapes = {"a": {"kernel": (3, 4), "bias": (4,)}, "b": {"scale": (4,), "table": (5, 2)}}
    is_shape = dict(is_leaf=lambda x: isinstance(x, tuple))

    def random(scale: float):
        return jax.tree.map(lambda shape: rng.normal(0, scale, shape), shapes, **is_shape)

    params, gradients = random(1), [random(scale) for scale in (3, 0.01, 1)]
    schedule = LinearSchedule(peak=0.1, final=0.0, total_steps=3)
    optimizer = AdamW(schedule, b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.3, clip_norm=clip_norm)
    transformation = optimizer.transformation()

    got = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    state = transformation.init(got)
    for gradient in gradients:
        updates, state = transformation.update(
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient), state, got
        )
        got = optax.apply_updates(got, updates)

    wanted, tree = jax.tree.flatten(params)
    decays = jax.tree.leaves({"a": {"kernel": 1, "bias": 0}, "b": {"scale": 0, "table": 1}})
    m, v = [0.0] * 4, [0.0] * 4
    for step, gradient in enumerate(map(jax.tree.leaves, gradients)):
        norm = np.sqrt(sum((g**2).sum() for g in gradient))
        factor = 1 if clip_norm is None else min(1, clip_norm / norm)
        rate = 0.1 * (1 - step / 3)
        for i, g in enumerate(gradient):
            g = g * factor
            m[i], v[i] = 0.8 * m[i] + 0.2 * g, 0.9 * v[i] + 0.1 * g**2
            m_hat, v_hat = m[i] / (1 - 0.8 ** (step + 1)), v[i] / (1 - 0.9 ** (step + 1))
            adam = m_hat / (np.sqrt(v_hat) + 1e-3)
            wanted[i] = wanted[i] - rate * (adam + 0.3 * decays[i] * wanted[i])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        *(got, jax.tree.unflatten(tree, wanted)),
    )
