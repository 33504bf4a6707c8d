"""The mask, one pair of positions at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.model.masks import attention_mask

SEGMENTS = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(queries=SEGMENTS, keys=SEGMENTS)
def test_a_query_sees_the_keys_of_its_segment(queries, keys):
    mask = np.asarray(attention_mask(np.array([queries]), np.array([keys])))
    assert mask.shape == (1, 1, len(queries), len(keys))
    for i, query in enumerate(queries):
        for j, key in enumerate(keys):
            assert mask[0, 0, i, j] == (query == key)


@given(segments=SEGMENTS)
def test_a_causal_query_sees_no_later_key(segments):
    row = np.array([segments])
    mask = np.asarray(attention_mask(row, row, causal=True))[0, 0]
    for i, query in enumerate(segments):
        for j, key in enumerate(segments):
            assert mask[i, j] == (query == key and j <= i)
    assert mask.any(axis=1).all()


def test_a_causal_mask_between_different_lengths_is_refused():
    with pytest.raises(ValueError, match="3 queries and 4 keys"):
        attention_mask(np.ones((1, 3), int), np.ones((1, 4), int), causal=True)
