"""Held-out text comes from the cache, the same each time, and is not the text trained on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from alexatm_jax.data import cache
from alexatm_jax.data.corpora.writing import write_tokens
from alexatm_jax.data.pipeline import ReaderConfig
from alexatm_jax.data.vocabulary import train
from alexatm_jax.partitioning import Partitioning
from alexatm_jax.runs.caching import DataConfig
from alexatm_jax.runs.validating import open_validation
from alexatm_jax.training.validation import ValidationConfig

READING = ReaderConfig(8, 24, 24, seed=3, num_streams=4, max_epochs=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataConfig:
    """A cache of two corpora of 20 lines, a mixture of each, and one of both."""
    folder = tmp_path_factory.mktemp("cache")
    lines = {name: [f"{name} {n} is {n * n}" for n in range(20)] for name in ("old", "new")}
    vocabulary = train([*lines["old"], *lines["new"]], folder / "made.model", size=290)
    cache.install_vocabulary(folder, vocabulary)
    sha = {"vocabulary_sha256": vocabulary.sha256}
    for name, texts in lines.items():
        write_tokens(folder, name, map(vocabulary.encode, texts), split="train", source="x", **sha)
    for mixture, corpora in {"old": ["old"], "new": ["new"], "both": ["old", "new"]}.items():
        tasks = tuple(cache.TaskSpec(name, name, 1.0, {"kind": "denoising"}) for name in corpora)
        cache.write_mixture(folder, cache.MixtureSpec(mixture, vocabulary.sha256, tasks))
    return DataConfig("old", str(folder))


def opened(data: DataConfig, name: str):
    return open_validation(data, ValidationConfig(name), READING, Partitioning().make_mesh())


def test_the_same_batches_come_each_time(data):
    open_batches = opened(data, "new")
    # Ten batches of 8 rows go through 20 short lines more than once.
    first, second = (list(itertools.islice(open_batches(), 10)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert first[0]["encoder_input_tokens"].shape == (8, 24)


def test_text_that_training_reads_is_refused(data):
    with pytest.raises(ValueError, match=r"'both', and training reads its text too \(old\)"):
        opened(data, "both")


def test_a_mixture_that_is_not_cached_is_refused_with_the_command(data):
    with pytest.raises(ValueError, match="validation reads 'neu'.*nearest.*new.*--run_mode=cache"):
        opened(data, "neu")
