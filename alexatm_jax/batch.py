"""Names, shapes and dtypes of what data hands to training.

A batch is a plain `dict[str, np.ndarray]`. The names are T5X's, so that its users know
them already. B is the batch, S the source and T the target length:

    encoder_input_tokens    int32   [B, S]  0 is padding
    encoder_positions       int32   [B, S]  row of the position table each token reads
    encoder_segment_ids     int32   [B, S]  0 on padding, else 1, 2, ...: which example of the row
    decoder_input_tokens    int32   [B, T]  targets shifted right, `<s>` first
    decoder_target_tokens   int32   [B, T]  0 is padding
    decoder_positions       int32   [B, T]
    decoder_segment_ids     int32   [B, T]  attends to the same number in the encoder
    decoder_objective_ids   int32   [B, T]  index into OBJECTIVES, meaningless on padding

A target token counts in the loss exactly where its segment id is not 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Batch = dict[str, np.ndarray]

OBJECTIVES = ("denoising", "clm")
"""The order of per-objective sums everywhere: recipe §3."""

ENCODER_FEATURES = ("encoder_input_tokens", "encoder_positions", "encoder_segment_ids")
DECODER_FEATURES = (
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_positions",
    "decoder_segment_ids",
    "decoder_objective_ids",
)


class NoMoreBatches(ValueError):
    """What a reader raises when it may read no more: training then saves and ends."""


def batch_shapes(batch_size: int, encoder_length: int, decoder_length: int) -> dict[str, tuple]:
    """Gives the shape of every array in a batch of [B, S] and [B, T]."""
    encoder = dict.fromkeys(ENCODER_FEATURES, (batch_size, encoder_length))
    return encoder | dict.fromkeys(DECODER_FEATURES, (batch_size, decoder_length))


def check_batch(batch: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if an array is missing, foreign or of another shape or dtype."""
    wanted = ENCODER_FEATURES + DECODER_FEATURES
    if set(batch) != set(wanted):
        raise ValueError(
            f"batch has arrays {sorted(batch)}; training needs {sorted(wanted)}; "
            "build batches with alexatm_jax.data.pipeline."
        )
    for names in (ENCODER_FEATURES, DECODER_FEATURES):
        shape = batch[names[0]].shape
        for name in names:
            if batch[name].shape != shape or batch[name].dtype != np.int32:
                raise ValueError(
                    f"{name} is {batch[name].dtype}{batch[name].shape}; it must be int32{shape} "
                    f"like {names[0]}."
                )
