"""Who serves which call."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from alexatm_jax.model.attention_rule import Call, _log_once, chosen

LAYER = Call(
    platform="tpu",
    batch=8,
    queries=1024,
    keys=1024,
    heads=32,
    width=128,
    dtype="bfloat16",
    explicit=False,
    branches=False,
    dropout_rate=0.0,
    row_parts=4,
    head_parts=2,
)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({}, "splash"),
        ({"platform": "gpu"}, "cudnn"),
        ({"platform": "cpu"}, "blocked"),
        # What the kernels cannot.
        ({"dropout_rate": 0.1}, "blocked"),
        ({"platform": "gpu", "dropout_rate": 0.1}, "blocked"),
        ({"platform": "gpu", "dtype": "float32"}, "blocked"),
        ({"platform": "gpu", "width": 256}, "blocked"),
        ({"platform": "gpu", "keys": 1023}, "blocked"),
        ({"keys": 1000}, "blocked"),
        ({"branches": True}, "blocked"),
        # What nothing but the definition takes, or is worth no other.
        ({"explicit": True}, "reference"),
        ({"batch": 6}, "reference"),
        ({"row_parts": 1, "head_parts": 64}, "reference"),
        ({"platform": "cpu", "queries": 8, "keys": 8}, "reference"),
    ],
    ids=str,
)
def test_auto_takes_the_first_that_can(change, name):
    assert chosen(dataclasses.replace(LAYER, **change), "auto") == name


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("splash", {"platform": "gpu"}, "'splash'.*runs on tpu, not on gpu"),
        ("splash", {"dropout_rate": 0.1}, "rate is 0.1.*encoder_attention_dropout_rate"),
        ("splash", {"keys": 1000}, r"multiples of 128, not \(1024, 1000\)"),
        ("cudnn", {"platform": "gpu", "dtype": "float32"}, "not in float32"),
        ("cudnn", {"platform": "gpu", "width": 100}, "not of 100"),
        ("blocked", {"explicit": True}, "not an explicit mask"),
        ("blocked", {"batch": 6}, "6 rows and 32 heads to divide over the mesh's 4 and 2 parts"),
        ("flash", {}, "choose one of"),
    ],
)
def test_one_asked_for_that_cannot_says_why(name, change, message):
    with pytest.raises(ValueError, match=message):
        chosen(dataclasses.replace(LAYER, **change), name)


def test_what_is_chosen_is_logged_once(caplog):
    _log_once.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            for change in (
                {},
                {"dropout_rate": 0.1},
                {"explicit": True, "queries": 4},
                {"queries": 1, "keys": 1},
            ):
                chosen(dataclasses.replace(LAYER, **change), "auto")
    best, other = caplog.messages
    assert best == "attention of 1024 queries to 1024 keys is 'splash'"
    assert "1024 queries to 1024 keys is 'blocked': splash drops no" in other
    assert "encoder_attention_dropout_rate" in other
