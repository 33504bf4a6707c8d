"""What is said of a row's tokens is true of the documents they were read from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data.cache import TaskSpec
from alexatm_jax.data.inspection.traced_rows import traced_rows
from alexatm_jax.data.packing import MODES
from alexatm_jax.data.pipeline import BatchReader, ReaderConfig
from alexatm_jax.data.vocabulary import SpecialIds

SPECIAL = SpecialIds(*range(7))
TASKS = (
    TaskSpec("low_denoising", "low", 0.3, {"kind": "denoising"}),
    TaskSpec("low_clm", "low", 0.3, {"kind": "clm"}),
    TaskSpec("high_denoising", "high", 0.4, {"kind": "denoising"}),
)


def corpora(seed: int) -> dict[str, list[np.ndarray]]:
    """Documents of few different tokens, some of them `<unk>`; 7 to 10 are low, the rest high."""
    rng = np.random.default_rng(seed)

    def documents(first: int) -> list[np.ndarray]:
        drawn = [rng.integers(first, first + 4, rng.integers(2, 30)) for _ in range(9)]
        return [np.where(rng.random(len(d)) < 0.1, SPECIAL.unk, d).astype(np.int32) for d in drawn]

    return {"low": documents(7), "high": documents(11)}


def config(packing: str, seed: int) -> ReaderConfig:
    return ReaderConfig(
        batch_size=4,
        encoder_length=40,
        decoder_length=44,
        seed=seed,
        num_streams=2,
        packing=packing,
    )


@settings(max_examples=15)
@given(packing=st.sampled_from(MODES), seed=st.integers(0, 1000))
def test_traced_rows_are_the_readers(packing, seed):
    documents, settings_ = corpora(seed), config(packing, seed)
    rows = iter(traced_rows(documents, TASKS, SPECIAL, settings_, num_batches=3))
    reader = BatchReader(documents, TASKS, SPECIAL, settings_)
    for _ in range(3):
        batch = next(reader)
        for r in range(4):
            row = next(rows)
            read = np.concatenate([segment.encoder_tokens for segment in row])
            written = np.concatenate([segment.targets for segment in row])
            np.testing.assert_array_equal(batch["encoder_input_tokens"][r][: len(read)], read)
            np.testing.assert_array_equal(
                batch["decoder_target_tokens"][r][: len(written)], written
            )
            assert (batch["decoder_segment_ids"][r] > 0).sum() == len(written)


@pytest.mark.parametrize("packing", MODES)
def test_each_segment_knows_its_task_and_what_was_dropped(packing):
    rows = traced_rows(corpora(1), TASKS, SPECIAL, config(packing, 1), num_batches=8)
    seen = {segment.task for row in rows for segment in row}
    assert {task.name for task in TASKS} <= seen
    for segment in (segment for row in rows for segment in row if segment.task):
        corpus, objective = segment.task.rsplit("_", 1)
        ordinary = segment.targets[segment.targets > SPECIAL.doc]
        assert segment.objective == objective
        assert set(ordinary.tolist()) <= set(range(7, 11) if corpus == "low" else range(11, 15))
        if objective == "denoising":
            kept = segment.targets[:-1][~segment.dropped[:-1]]
            np.testing.assert_array_equal(kept, segment.encoder_tokens)
            assert not (segment.dropped & (segment.targets <= SPECIAL.doc)).any()
        else:
            np.testing.assert_array_equal(segment.dropped, segment.targets > SPECIAL.doc)


def test_spans_of_equal_tokens_are_told_apart():
    """By their values alone, the dropped ones of seventy equal tokens could be any."""
    documents = {"same": [np.full(70, 9, np.int32)]}
    task = TaskSpec("same_denoising", "same", 1.0, {"kind": "denoising", "mean_span_length": 2.0})
    long = ReaderConfig(
        batch_size=8,
        encoder_length=99,
        decoder_length=99,
        seed=0,
        num_streams=1,
        packing="isolated",
    )
    segments = [s for row in traced_rows(documents, [task], SPECIAL, long) for s in row]
    # 0.15 x 70, rounded half up, go from each document; and not always the same ones.
    assert {int(segment.dropped.sum()) for segment in segments} == {11}
    assert len({segment.dropped.tobytes() for segment in segments}) > 1
