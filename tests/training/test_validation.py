"""The held-out loss is that of the same batches, however they are split."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from alexatm_jax.batch import OBJECTIVES, batch_shapes
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.training.state import abstract_params
from alexatm_jax.training.step import batch_loss
from alexatm_jax.training.validation import ValidationConfig, make_validate

ROWS, NUM_BATCHES = 16, 3


@pytest.fixture(scope="module")
def params(tiny):
    rng = np.random.default_rng(0)
    shapes = nn.unbox(abstract_params(tiny()))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def measured(tiny, params, make_batch):
    """Measures three of four batches, dropout in the model's settings."""

    def measure(sizes=(1, 1, 1), num_microbatches: int = 1) -> list[dict[str, float]]:
        partitioning = Partitioning(*sizes)
        mesh = partitioning.make_mesh(jax.devices()[: np.prod(sizes)])
        placed = jax.device_put(params, partitioning.param_shardings(abstract_params(tiny()), mesh))
        validate = make_validate(
            tiny(dropout_rate=0.2),
            ValidationConfig("held_out", NUM_BATCHES),
            partitioning,
            mesh,
            lambda: map(functools.partial(make_batch, rows=ROWS), range(NUM_BATCHES + 1)),
            batch_shapes(ROWS, 6, 7),
            num_microbatches=num_microbatches,
            loss_chunk_length=3,
        )
        return [validate(placed) for _ in range(2)]

    return measure


def test_it_is_the_mean_over_the_tokens_of_the_first_batches(tiny, params, make_batch, measured):
    first, second = measured()
    assert first == second
    loss = jax.jit(functools.partial(batch_loss, tiny(), dropout_key=None))
    sums = [loss(params, make_batch(index, rows=ROWS))[1] for index in range(NUM_BATCHES)]
    totals = {name: sum(np.float64(s[name]) for s in sums) for name in ("loss", "weight")}
    wanted = {"validation_loss": totals["loss"].sum() / totals["weight"].sum()} | {
        f"validation_loss/{name}": totals["loss"][i] / totals["weight"][i]
        for i, name in enumerate(OBJECTIVES)
    }
    assert first == pytest.approx(wanted, rel=1e-6)
    assert first["validation_loss/clm"] != first["validation_loss/denoising"]


@pytest.mark.parametrize(("sizes", "num_microbatches"), [((1, 1, 1), 4), ((2, 2, 2), 2)])
def test_neither_microbatches_nor_devices_change_it(measured, sizes, num_microbatches):
    assert measured(sizes, num_microbatches)[0] == pytest.approx(measured()[0], rel=1e-5)


@pytest.mark.parametrize("name", ["num_batches", "period_steps"])
def test_counts_are_positive(name):
    with pytest.raises(ValueError, match=f"ValidationConfig.{name} is 0; it must be at least 1"):
        ValidationConfig("held_out", **{name: 0})
