"""A tiny model to train, batches of uneven rows, and one compilation per program."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from alexatm_jax.batch import batch_shapes, check_batch
from alexatm_jax.model import ModelConfig, Transformer
from alexatm_jax.training.optimizer import AdamW, LinearSchedule

ROWS, S, T, V = 8, 6, 7, 20


@pytest.fixture(autouse=True, scope="module")
def compile_once(quick_compilation, tmp_path_factory):
    """Keeps what `train` compiles for its next run."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.getbasetemp() / "compiled"))
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def tiny():
    """Makes a scanned model of 2 + 2 layers that every mesh of 8 devices can hold.

    It drops attention probabilities alone: each further kind of dropout costs seconds to compile.
    """

    def make(**changes) -> Transformer:
        sizes = dict(
            vocab_size=V,
            d_model=8,
            num_heads=4,
            d_ff=16,
            num_encoder_layers=2,
            num_decoder_layers=2,
            max_positions=8,
            norm="standard",
            norm_epsilon=1e-6,
            dropout_rate=0.0,
            encoder_attention_dropout_rate=0.1,
        )
        return Transformer(ModelConfig(**(sizes | changes)))

    return make


@pytest.fixture(scope="session")
def adamw():
    """Makes an optimizer with a constant learning rate."""

    def make(rate: float = 0.01, **changes) -> AdamW:
        return AdamW(LinearSchedule(rate, rate, total_steps=1000), **changes)

    return make


@pytest.fixture(scope="session")
def make_batch():
    """Makes the batch of an index: rows of one or two examples, of very different lengths."""

    def make(index: int, rows: int = ROWS) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([index, rows])
        batch = {
            name: np.zeros(shape, np.int32) for name, shape in batch_shapes(rows, S, T).items()
        }
        for row in range(rows):
            filled = {"encoder": 0, "decoder": 0}
            for segment, longest in ((1, (S - 1, T - 1)), (2, (1, 1)))[: 1 + row % 2]:
                lengths = {"encoder": longest[0], "decoder": rng.integers(1, longest[1] + 1)}
                for side, length in lengths.items():
                    place = (row, slice(filled[side], filled[side] + length))
                    filled[side] += length
                    batch[f"{side}_segment_ids"][place] = segment
                    batch[f"{side}_positions"][place] = np.arange(length)
                    tokens = rng.integers(7, V, length)
                    if side == "encoder":
                        batch["encoder_input_tokens"][place] = tokens
                    else:
                        batch["decoder_target_tokens"][place] = tokens
                        batch["decoder_input_tokens"][place] = np.r_[1, tokens[:-1]]
                        batch["decoder_objective_ids"][place] = (row + segment) % 2
        check_batch(batch)
        return batch

    return make
