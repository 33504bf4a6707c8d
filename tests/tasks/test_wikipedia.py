"""Wikipedia's tasks read all 12 languages through TFDS, here through TFDS's own mock."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import seqio
import tensorflow_datasets as tfds

from alexatm_jax.data import cache
from alexatm_jax.data.seqio_cache import build_cache, num_documents
from alexatm_jax.data.vocabulary import train
from alexatm_jax.text.problems import Problems
from alexatm_jax.text.spoken import LANGUAGES

# TFDS 4.9.10 reads its own metadata in a way that protobuf 6 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")

SHARDS = {"mr": [78345, 78199]}
"""Articles of each shard, as published for one language."""


@pytest.fixture
def wikipedia() -> ModuleType:
    """The module with its tasks registered."""
    module = importlib.import_module("alexatm_jax.tasks.wikipedia")
    if "wikipedia_pretrain" not in seqio.MixtureRegistry.names():  # another test emptied it
        importlib.reload(module)
    return module


@pytest.fixture
def published(mock_tfds):
    """Mocks what TFDS published of the dump, with one small shard for the other languages."""
    return mock_tfds(
        {
            f"wikipedia/20230601.{language}:1.0.0": (
                {"train": SHARDS.get(language, [2])},
                "tfrecord",
            )
            for language in LANGUAGES
        }
    )


def test_registering_names_48_tasks_and_reads_nothing(wikipedia, monkeypatch):
    monkeypatch.delenv("ALEXATM_VOCABULARY", raising=False)
    assert len(wikipedia.RECIPE.task_names) == 48
    assert set(wikipedia.RECIPE.task_names) <= set(seqio.TaskRegistry.names())
    mixture = seqio.MixtureRegistry.get("wikipedia_pretrain")
    assert {task.name for task in mixture.tasks} == set(wikipedia.RECIPE.task_names)
    task = seqio.TaskRegistry.get("wikipedia_mr_spoken_clm")
    with pytest.raises(ValueError, match="ALEXATM_VOCABULARY is not set; .*vocabulary train"):
        _ = task.output_features["targets"].vocabulary.vocab_size


def test_tfds_knows_the_data_set_of_every_language(wikipedia):
    """The names are those of the builder that is installed."""
    known = tfds.builder_cls("wikipedia").builder_configs
    for name, split in wikipedia.WIKIPEDIA.datasets.values():
        config, _, version = name.removeprefix("wikipedia/").partition(":")
        assert config in known and split == "train"
        assert version == str(tfds.builder_cls("wikipedia").VERSION)


def test_every_language_is_read_shard_by_shard(wikipedia, published):
    problems = Problems("stop")
    with published:
        for language, source in wikipedia.WIKIPEDIA.documents.items():
            units = source.units()
            assert len(units) == len(SHARDS.get(language, [2]))
            assert all(len(list(source.documents(unit, problems))) == 2 for unit in units)
        assert wikipedia.WIKIPEDIA.documents["mr"].num_documents == 156544


def test_a_cache_is_made_of_it_with_the_recipes_shares(wikipedia, published, tmp_path, monkeypatch):
    path = tmp_path / "v.model"
    train(["abcdefghij abc hij", "def aeiou"], path, size=290)
    monkeypatch.setenv("ALEXATM_VOCABULARY", str(path))
    with published:
        sizes = num_documents("wikipedia_pretrain")
        assert len(sizes) == 24 and sizes["wikipedia_mr_spoken"] == 156544
        spec = build_cache(tmp_path / "cache", "wikipedia_pretrain")
    assert len(spec.tasks) == 48 and sum(t.rate for t in spec.tasks) == pytest.approx(1)
    corpus = cache.read_corpus(tmp_path / "cache", "wikipedia_mr_written")
    assert corpus.num_documents == 2 * len(SHARDS["mr"])
    assert "20230601.mr/1.0.0, split train" in corpus.provenance.source
