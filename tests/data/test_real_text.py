"""Vocabulary and objectives on verses of the New Testament in 11 of the 12 languages."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from alexatm_jax.data.cache import TaskSpec
from alexatm_jax.data.causal_lm import CausalLM
from alexatm_jax.data.denoising import Denoising
from alexatm_jax.data.packing import MODES
from alexatm_jax.data.pipeline import BatchReader, ReaderConfig
from alexatm_jax.data.vocabulary import train

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "pt", "ta", "te")


@pytest.fixture(scope="module")
def verses_of(shared_data: Path) -> dict[str, list[str]]:
    """The first 150 verses of each language, in NFC."""
    texts = {}
    for language in LANGUAGES:
        lines = (shared_data / "bible" / f"{language}.txt").read_text(encoding="utf-8").splitlines()
        verses = [" ".join(unicodedata.normalize("NFC", line).split()) for line in lines[:150]]
        texts[language] = [verse for verse in verses if verse]
    return texts


@pytest.fixture(scope="module")
def verses(verses_of) -> list[str]:
    return [verse for verses in verses_of.values() for verse in verses]


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


@pytest.mark.parametrize("packing", MODES)
def test_rows_of_verses_are_full_in_each_languages_share(verses_of, vocabulary, packing):
    """At 1024 + 1024 tokens, denoising : CLM = 80 : 20, and shares that differ by 3.3 times."""
    corpora = {
        language: [vocabulary.encode(verse) for verse in verses]
        for language, verses in verses_of.items()
    }
    rates = np.arange(1, 12) ** 0.5
    tasks = [
        TaskSpec(f"{language}_{kind}", language, rate * share, {"kind": kind})
        for (language, rate), (kind, share) in itertools.product(
            zip(LANGUAGES, rates, strict=True), [("denoising", 0.8), ("clm", 0.2)]
        )
    ]
    config = ReaderConfig(16, 1024, 1024, seed=0, num_streams=16, packing=packing)
    reader = BatchReader(corpora, tasks, vocabulary.special, config)
    for _ in itertools.islice(reader, 64):
        pass
    statistics = reader.statistics()
    assert statistics["decoder_fill"] > 0.99
    shares = np.array([[t["share"], t["expected"]] for t in statistics["tasks"].values()])
    by_language = shares.reshape(len(LANGUAGES), 2, 2).sum(axis=1)
    assert abs(by_language[:, 0] - by_language[:, 1]).max() < 0.005
