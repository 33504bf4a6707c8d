"""Shuffling: every number once, and no pattern left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data.permutation import Permutation


def shuffled(size: int, key: str = "0") -> np.ndarray:
    permutation = Permutation(size, key)
    return np.array([permutation(index) for index in range(size)])


@settings(max_examples=50)
@given(size=st.integers(1, 600), key=st.text(max_size=5))
def test_every_number_comes_once(size, key):
    assert sorted(shuffled(size, key).tolist()) == list(range(size))


def test_every_place_gets_every_number_as_often():
    """Seven numbers under 2000 keys: each of 49 pairs 286 times, chi-square, 0.1 %."""
    counts = np.zeros((7, 7))
    for key in range(2000):
        counts[np.arange(7), shuffled(7, str(key))] += 1
    expected = 2000 / 7
    assert ((counts - expected) ** 2 / expected).sum() < 67.9  # 36 degrees of freedom


def test_small_orders_are_all_reached():
    orders = [tuple(shuffled(4, str(key))) for key in range(4800)]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - 200) ** 2 / 200).sum() < 49.7  # 23 degrees of freedom, 0.1 %


@pytest.mark.parametrize("size", [1000, 4096, 9973])
def test_neighbours_are_torn_apart(size):
    """Steps from one number to the next, modulo the size, fall anywhere."""
    order = shuffled(size)
    for apart in (1, 2, 64):
        steps = (order[apart:] - order[:-apart]) % size
        counts = np.histogram(steps, bins=20, range=(0, size))[0]
        expected = len(steps) / 20
        assert ((counts - expected) ** 2 / expected).sum() < 43.8  # 19 degrees of freedom


def test_parts_of_a_large_order_are_spread_evenly():
    size = 10**12 + 39
    permutation = Permutation(size, "large")
    numbers = np.array([permutation(index) for index in range(5000)])
    counts = np.histogram(numbers, bins=50, range=(0, size))[0]
    assert ((counts - 100) ** 2 / 100).sum() < 85.4  # 49 degrees of freedom, 0.1 %
    assert len(set((numbers % 1000).tolist())) > 960  # of 1000, 993 are expected


def test_keys_give_unrelated_orders():
    one, other = shuffled(2000, "a"), shuffled(2000, "b")
    assert np.count_nonzero(one == other) < 10
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


@pytest.mark.parametrize("size", [0, 2**64 + 1])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match=r"from 1 to 2\*\*64"):
        Permutation(size, "")
    assert 0 <= Permutation(2**64, "")(2**64 - 1) < 2**64
