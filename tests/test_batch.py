"""A batch is checked by name, shape and dtype."""

from __future__ import annotations

import numpy as np
import pytest

from alexatm_jax.batch import DECODER_FEATURES, ENCODER_FEATURES, batch_shapes, check_batch

NAMES = ENCODER_FEATURES + DECODER_FEATURES


def batch() -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.int32) for name, shape in batch_shapes(2, 3, 4).items()}


def test_a_batch_of_the_shapes_is_right():
    assert {x.shape for name, x in batch().items() if name.startswith("encoder")} == {(2, 3)}
    assert {x.shape for name, x in batch().items() if name.startswith("decoder")} == {(2, 4)}
    assert len(NAMES) == len(batch()) == 8
    check_batch(batch())


@pytest.mark.parametrize("name", NAMES)
def test_each_array_is_needed(name):
    short = batch()
    del short[name]
    with pytest.raises(ValueError, match=rf"training needs \[.*'{name}'"):
        check_batch(short)


def test_foreign_arrays_are_refused():
    with pytest.raises(ValueError, match="batch has arrays .*'labels'"):
        check_batch(batch() | {"labels": np.zeros((2, 4), np.int32)})


@pytest.mark.parametrize("name", ENCODER_FEATURES[1:] + DECODER_FEATURES[1:])
def test_each_array_has_the_shape_of_its_side(name):
    with pytest.raises(ValueError, match=rf"{name} is int32\(2, 5\); it must be int32\(2, "):
        check_batch(batch() | {name: np.zeros((2, 5), np.int32)})


@pytest.mark.parametrize("name", NAMES)
def test_each_array_is_int32(name):
    with pytest.raises(ValueError, match=f"{name} is int64"):
        check_batch(batch() | {name: batch()[name].astype(np.int64)})
