"""Vocabulary and objectives on verses of the New Testament in 11 of the 12 languages."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from alexatm_jax.data.causal_lm import CausalLM
from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.vocabulary import train

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "pt", "ta", "te")


@pytest.fixture(scope="module")
def verses(shared_data: Path) -> list[str]:
    """The first 150 verses of each language, in NFC."""
    texts = []
    for language in LANGUAGES:
        lines = (shared_data / "bible" / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        texts += [" ".join(unicodedata.normalize("NFC", line).split()) for line in lines[:150]]
    return [text for text in texts if text]


@pytest.fixture(scope="module")
def vocabulary(verses, tmp_path_factory):
    return train(verses, tmp_path_factory.mktemp("vocabulary") / "bible.model", size=3000)


def test_every_verse_survives_the_round_trip(verses, vocabulary):
    assert len(verses) > 1600
    assert [vocabulary.decode(vocabulary.encode(verse)) for verse in verses] == verses


def test_every_verse_can_be_denoised_and_continued(verses, vocabulary):
    special, rng = vocabulary.special, np.random.default_rng(0)
    for verse in verses:
        tokens = vocabulary.encode(verse)
        kept, restored = Denoising()(tokens, special, rng)
        assert len(tokens) - len(kept) == int(np.floor(0.15 * len(tokens) + 0.5))
        assert vocabulary.decode(restored) == verse
        shown, rest = CausalLM()(tokens, special, rng)
        assert shown[0] == special.clm and rest[-1] == special.eos
        assert np.array_equal(np.concatenate([shown[1:], rest[:-1]]), tokens)
