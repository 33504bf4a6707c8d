"""A bad configuration is refused by the name of its field."""

from __future__ import annotations

import dataclasses

import pytest

from alexatm_jax.model.config import ModelConfig

INTEGERS = [f.name for f in dataclasses.fields(ModelConfig) if f.type in ("int", "int | None")]
CHOICES = (
    *("norm", "activation", "remat", "decoder_remat"),
    *("attention", "position_init", "dtype", "param_dtype"),
)
RATES = ("dropout_rate", "encoder_attention_dropout_rate", "decoder_attention_dropout_rate")


@pytest.mark.parametrize("name", INTEGERS)
def test_sizes_are_positive(tiny, name):
    with pytest.raises(ValueError, match=f"ModelConfig.{name} is 0"):
        tiny(**{name: 0})


@pytest.mark.parametrize("name", CHOICES)
def test_an_unknown_word_is_answered_with_the_known_ones(tiny, name):
    with pytest.raises(
        ValueError, match=rf"ModelConfig.{name} is 'typo'; choose one of \((None, )?'"
    ):
        tiny(**{name: "typo"})


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_are_below_one(tiny, name, rate):
    with pytest.raises(ValueError, match=f"ModelConfig.{name} is"):
        tiny(**{name: rate})


def test_heads_divide_the_width(tiny):
    assert tiny(d_model=12, num_heads=4).head_dim == 3
    for name in ("num_heads", "decoder_num_heads"):
        with pytest.raises(ValueError, match="d_model 12 does not divide into 5 heads"):
            tiny(**{name: 5})


def test_the_decoder_has_the_encoder_s_widths_unless_given_its_own(tiny):
    same, own = tiny(), tiny(decoder_num_heads=2, decoder_d_ff=7)
    assert (same.decoder_heads, same.decoder_head_dim, same.decoder_ff) == (3, 4, 20)
    assert (own.decoder_heads, own.decoder_head_dim, own.decoder_ff) == (2, 6, 7)
