"""The batches of all processes end together."""

from __future__ import annotations

import pytest

from alexatm_jax import cluster
from alexatm_jax.batch import NoMoreBatches
from alexatm_jax.runs.training_data import ending_together


@pytest.mark.parametrize(("here", "elsewhere"), [(2, None), (5, 3), (5, None)])
def test_batches_end_where_those_of_any_process_do(monkeypatch, here, elsewhere):
    calls = []

    def gathered(value):
        calls.append(value)
        return [value, "theirs are read" if len(calls) - 1 == elsewhere else None]

    def batches():
        for number in range(here):
            yield number, {}
        raise NoMoreBatches("ours are read")

    monkeypatch.setattr(cluster, "gathered", gathered)
    given = []
    with pytest.raises(NoMoreBatches, match="theirs" if elsewhere else "ours"):
        for number, _ in ending_together(batches()):
            given.append(number)
    assert len(given) == (here if elsewhere is None else elsewhere) == len(calls) - 1
