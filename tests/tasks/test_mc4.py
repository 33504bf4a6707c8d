"""mC4's tasks read all 12 languages through TFDS's own mock, in both published file formats."""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType

import pytest
import seqio
import tensorflow_datasets as tfds

from alexatm_jax.data.recipe import TfdsText, language_shares
from alexatm_jax.text.problems import Problems, TextError
from alexatm_jax.text.spoken import LANGUAGES

# TFDS 4.9.10 reads its own metadata in a way that protobuf 6 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:label.. is deprecated:DeprecationWarning")

PUBLISHED = {
    **{"ar": 53_256_040, "de": 397_006_993, "en": 3_079_081_989, "es": 416_057_992},
    **{"fr": 332_674_575, "hi": 18_507_273, "it": 186_404_508, "ja": 87_337_884},
    **{"mr": 7_774_331, "pt": 169_239_084, "ta": 3_514_561, "te": 1_188_243},
}
"""Pages of each split of c4/multilingual 3.0.1."""


@pytest.fixture
def mc4() -> ModuleType:
    """The module with its tasks registered."""
    module = importlib.import_module("alexatm_jax.tasks.mc4")
    if "alexatm_pretrain" not in seqio.MixtureRegistry.names():  # another test emptied it
        importlib.reload(module.wikipedia)
        importlib.reload(module)
    return module


def splits(num_shards: int) -> dict[str, list[int]]:
    """The published splits, here of few shards each."""
    shards = {language: [count // num_shards] * num_shards for language, count in PUBLISHED.items()}
    shards["te"][0] += PUBLISHED["te"] - sum(shards["te"])
    return shards | {f"{language}-validation": [9] for language in PUBLISHED}


def test_the_papers_mixture_has_both_sources(mc4):
    mixture = seqio.MixtureRegistry.get("alexatm_pretrain")
    assert len(mixture.tasks) == 96
    assert {task.name for task in mixture.tasks} == set(mc4.PAPER.task_names)
    assert [(source.name, source.weight) for source in mixture.recipe.sources] == [
        ("wikipedia", 10),
        ("mc4", 1),
    ]
    only = seqio.MixtureRegistry.get("mc4_pretrain")
    assert {task.name for task in only.tasks} == set(mc4.RECIPE.task_names)


def test_tfds_knows_a_split_of_every_language(mc4):
    """The splits are those of the builder that is installed."""
    known = tfds.builder_cls("c4").builder_configs["multilingual"].languages
    assert {split for _, split in mc4.MC4.datasets.values()} <= set(known)
    assert set(mc4.MC4.datasets) == set(LANGUAGES) == set(PUBLISHED)


@pytest.mark.parametrize(
    ("version", "file_format"), [("3.0.1", "tfrecord"), ("3.1.0", "array_record")]
)
def test_every_language_is_read_in_either_version(mc4, mock_tfds, version, file_format):
    name = f"c4/multilingual:{version}"
    datasets = {language: (name, language) for language in LANGUAGES}
    source = dataclasses.replace(mc4.MC4, datasets=datasets)
    if version == "3.0.1":
        assert source == mc4.MC4
    with mock_tfds({name: (splits(3), file_format)}):
        for language, documents in source.documents.items():
            assert len(documents.units()) == 3
            assert documents.num_documents == sum(splits(3)[language])
            texts = list(documents.documents(documents.units()[-1], Problems("stop")))
            assert len(texts) == 2 and all(texts)


def test_a_language_that_is_not_published_is_named(mock_tfds):
    source = TfdsText("mc4", {"te": ("c4/multilingual:3.0.1", "te-Latn")})
    with (
        mock_tfds({"c4/multilingual:3.0.1": (splits(1), "tfrecord")}),
        pytest.raises(TextError, match="no split 'te-Latn'; the nearest of its 24 are te"),
    ):
        source.documents["te"].units()


def test_small_languages_are_sampled_up():
    """With pages in place of sentences: Telugu's 0.025 % of the pages become 0.65 %."""
    shares = language_shares(PUBLISHED)
    assert PUBLISHED["te"] / sum(PUBLISHED.values()) == pytest.approx(0.00025, abs=1e-5)
    assert shares["te"] == pytest.approx(0.0065, abs=1e-4)
    assert shares["en"] < PUBLISHED["en"] / sum(PUBLISHED.values())
