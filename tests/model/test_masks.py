"""What sees what, one pair of positions at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.model.masks import Segments

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(queries=IDS, keys=IDS)
def test_a_query_sees_the_keys_of_its_segment(queries, keys):
    mask = np.asarray(Segments(np.array([queries]), np.array([keys])).mask())
    assert mask.shape == (1, 1, len(queries), len(keys))
    for i, query in enumerate(queries):
        for j, key in enumerate(keys):
            assert mask[0, 0, i, j] == (query == key)


@given(positions=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=6))
def test_a_causal_query_sees_no_later_key_and_no_other_branch(positions):
    segments, branches = np.array(positions).T[:, None]
    visible = Segments.of_self(segments, causal=True, branches_BL=branches)
    mask = np.asarray(visible.mask())[0, 0]
    for i, (segment, branch) in enumerate(positions):
        for j, (of_key, of_branch) in enumerate(positions):
            seen = segment == of_key and of_branch in (0, branch) and j <= i
            assert mask[i, j] == seen
    assert mask.diagonal().all()


@given(segments=IDS, data=st.data(), causal=st.booleans())
def test_the_mask_of_some_queries_lacks_keys_that_none_sees(segments, data, causal):
    begin = data.draw(st.integers(0, len(segments) - 1))
    end = data.draw(st.integers(begin + 1, len(segments)))
    visible = Segments.of_self(np.array([segments]), causal=causal)
    whole, part = np.asarray(visible.mask())[0], np.asarray(visible.of_queries(begin, end))
    np.testing.assert_array_equal(part, whole[:, begin:end, : part.shape[2]])
    assert not whole[:, begin:end, part.shape[2] :].any()
