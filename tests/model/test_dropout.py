"""The masks of dropout: their rate, their independence, and any tile of them alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from alexatm_jax.model.dropout import dropped, kept, kept_at

KEY = jax.random.key(3)


def standardised(key, rate, shape):
    return (np.asarray(kept(key, rate, shape)) - (1 - rate)) / np.sqrt(rate * (1 - rate))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_holds_overall_in_rows_and_in_columns(rate):
    x = standardised(KEY, rate, (16, 32, 512))
    assert abs(x.mean()) * np.sqrt(x.size) < 4
    for axes in ((0, 1), (2,), (0, 2), (1, 2)):
        means = x.mean(axis=axes) * np.sqrt(x.size / x.mean(axis=axes).size)
        assert abs(means.std() - 1) < 0.25 and np.abs(means).max() < 5


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lag", [1, 2, 7])
def test_neighbours_are_independent(axis, lag):
    x = np.moveaxis(standardised(KEY, 0.1, (16, 32, 512)), axis, 0)
    product = x[lag:] * x[:-lag]
    assert abs(product.mean()) * np.sqrt(product.size) < 4


def test_keys_that_follow_each_other_draw_independent_masks():
    masks = [standardised(jax.random.fold_in(KEY, n), 0.1, (64, 512)) for n in range(8)]
    correlations = np.corrcoef([mask.ravel() for mask in masks])
    off_diagonal = correlations[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal).max() * np.sqrt(masks[0].size) < 5


def test_a_tile_alone_is_the_tile_of_the_whole():
    whole = np.asarray(kept(KEY, 0.3, (4, 6, 10)))
    rows = (2 * 6 + np.arange(1, 5, dtype=np.uint32))[:, None]
    columns = np.arange(3, 9, dtype=np.uint32)[None]
    np.testing.assert_array_equal(kept_at(KEY, 0.3, rows, columns), whole[2, 1:5, 3:9])


def test_values_and_gradients_are_dropped_alike_and_scaled_up():
    x = jnp.linspace(1, 2, 60).reshape(3, 4, 5)
    mask = np.asarray(kept(KEY, 0.25, x.shape))
    np.testing.assert_allclose(dropped(x, KEY, 0.25), np.where(mask, x / 0.75, 0), rtol=1e-6)
    gradient = jax.grad(lambda x: (dropped(x, KEY, 0.25) * x).sum())(x)
    np.testing.assert_allclose(gradient, np.where(mask, 2 * x / 0.75, 0), rtol=1e-6)


def test_between_the_passes_no_mask_is_kept():
    _, backward = jax.vjp(lambda x: dropped(x, KEY, 0.25), jnp.ones((8, 512)))
    assert sum(leaf.size for leaf in jax.tree.leaves(backward)) < 8


def test_a_mesh_drops_what_one_device_drops():
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = NamedSharding(mesh, PartitionSpec("a", None, "b"))
    drawn = jax.jit(lambda: kept(KEY, 0.1, (4, 6, 8)), out_shardings=split)
    np.testing.assert_array_equal(drawn(), kept(KEY, 0.1, (4, 6, 8)))
    assert "all-" not in drawn.lower().compile().as_text()


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_keys_of_every_generator_serve(implementation):
    key = jax.random.key(3, impl=implementation)
    assert 0.85 < np.asarray(kept(key, 0.1, (100, 100))).mean() < 0.95
