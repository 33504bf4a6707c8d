"""Run mode `cache` writes what its gin file asks for, and says what is in it."""

import logging

import pytest

from alexatm_jax import preflight
from alexatm_jax.data import cache
from alexatm_jax.runs import caching


@pytest.fixture
def data(tmp_path, tiny_tasks):
    remove = tiny_tasks()
    yield caching.DataConfig("tiny_mixture", str(tmp_path / "cache"), ["tiny_units"], ())
    remove()


def test_the_mixture_is_cached_and_printed(data, caplog):
    caplog.set_level(logging.INFO)
    spec = caching.build_cache(data, max_documents=9)
    assert spec == cache.read_mixture(data.cache_dir, "tiny_mixture")
    assert cache.read_corpus(data.cache_dir, "tiny").num_documents == 9
    assert "mixture tiny_mixture: 2 tasks over 1 corpora" in caplog.text
    assert caching.is_cached(data) and caching.open_cache(data) == spec


@pytest.mark.parametrize(
    "options, message",
    [
        ({"on_problem": "ignore"}, "on_problem is 'ignore'"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"max_documents": 0}, "max_documents is 0"),
        ({"beam_options": "--runner=FlinkRunner"}, "give a list"),
    ],
)
def test_wrong_options_are_refused(data, options, message):
    with pytest.raises(preflight.Refusal, match=message):
        caching.build_cache(data, **options)
    assert not caching.is_cached(data)
