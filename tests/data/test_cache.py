"""What is written to a cache is read back, and nothing else passes for it."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexatm_jax.data import cache
from alexatm_jax.data.cache import CacheError, MixtureSpec, TaskSpec
from alexatm_jax.data.corpora.writing import write_tokens
from alexatm_jax.data.vocabulary import train

DENOISING = {"kind": "denoising", "drop_rate": 0.15, "mean_span_length": 3.0}
TEXTS = [f"Sentence: {n} kilometers; Translation: {n} km;" for n in range(40)]
PAYLOAD = {
    "name": "units",
    "prompt": {"shot": "{src} = {tgt};", "query": "{src} ="},
    "items": [{"id": "é", "language": "fr", "target": "3 km", "shot_group": "en-fr"}],
    "shots": [],
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return train(TEXTS, tmp_path_factory.mktemp("vocabulary") / "v.model", size=290)


def write(folder, documents, corpus="demo", **options):
    options = {"split": "train", "source": "a list", "vocabulary_sha256": "ab"} | options
    return write_tokens(folder, corpus, documents, **options)


@pytest.fixture
def filled(tmp_path, vocabulary):
    """A whole cache of 40 documents, one mixture and one evaluation task."""
    cache.install_vocabulary(tmp_path, vocabulary)
    sha256 = vocabulary.sha256
    options = {"vocabulary_sha256": sha256, "vocabulary_size": vocabulary.size}
    write(tmp_path, map(vocabulary.encode, TEXTS), **options)
    tasks = (
        TaskSpec("demo_denoising", "demo", 0.8, DENOISING),
        TaskSpec("demo_clm", "demo", 0.2, {"kind": "clm"}),
    )
    cache.write_mixture(tmp_path, MixtureSpec("demo_mixture", sha256, tasks))
    cache.write_evaluation_task(tmp_path, PAYLOAD)
    return tmp_path


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**31 - 2), max_size=9), min_size=1, max_size=8))
def test_documents_come_back(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("cache")
    arrays = [np.array(document, np.int32) for document in documents]
    kept = [document for document in documents if document]
    if not kept:
        with pytest.raises(CacheError, match="needs a document"):
            write(folder, arrays)
        assert not list((folder / "corpora").iterdir())
        return
    provenance = write(folder, iter(arrays))
    corpus = cache.read_corpus(folder, "demo")
    assert corpus.provenance == provenance and corpus.num_documents == len(kept)
    assert provenance.num_tokens == sum(map(len, kept))
    assert provenance.num_empty == len(documents) - len(kept)
    assert [tokens.tolist() for tokens in corpus.source] == kept
    assert {tokens.dtype for tokens in corpus.source} == {np.dtype(np.int32)}


SIZES = [(65536, "uint16"), (65537, "int32"), (2**31 - 1, "int32")]


@pytest.mark.parametrize("size, dtype", SIZES)
def test_small_vocabularies_take_two_bytes_per_token(tmp_path, size, dtype):
    highest = np.array([0, size - 1])
    assert write(tmp_path, [highest], vocabulary_size=size).dtype == dtype
    np.testing.assert_array_equal(cache.read_corpus(tmp_path, "demo").source[0], highest)


def test_a_failed_write_leaves_nothing(tmp_path):
    def failing():
        yield np.arange(3)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write(tmp_path, failing())
    assert not list(tmp_path.rglob("*demo*"))


def test_a_corpus_is_never_overwritten(filled, vocabulary):
    with pytest.raises(CacheError, match="already there"):
        write(filled, [np.arange(3)], vocabulary_sha256=vocabulary.sha256)
    assert cache.read_corpus(filled, "demo").num_documents == 40


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b"])
def test_names_stay_inside_the_cache(tmp_path, name):
    with pytest.raises(CacheError, match="cannot name a file"):
        write(tmp_path, [np.arange(3)], corpus=name)


def test_what_is_no_cache_is_called_so(tmp_path):
    readers = (cache.read_corpus, cache.read_mixture, cache.read_evaluation_task)
    for reader in readers:
        with pytest.raises(CacheError, match="is no cache.*--run_mode=cache"):
            reader(tmp_path / "absent", "demo")
    with pytest.raises(CacheError, match="is no cache"):
        cache.read_vocabulary(tmp_path)


def test_unknown_names_get_the_nearest(filled):
    with pytest.raises(CacheError, match="no mixture 'demo_mix'.*demo_mixture"):
        cache.read_mixture(filled, "demo_mix")
    with pytest.raises(CacheError, match="no evaluation task 'unit'.*units"):
        cache.read_evaluation_task(filled, "unit")
    with pytest.raises(CacheError, match="no corpus 'dem'.*demo"):
        cache.read_corpus(filled, "dem")


@pytest.mark.parametrize("kind", ["tokens", "ends"])
def test_damaged_corpora_are_refused(filled, kind):
    (path,) = (filled / "corpora" / "demo").glob(f"*.{kind}")
    whole = path.read_bytes()
    flipped = whole[:9] + bytes([whole[9] ^ 1]) + whole[10:]
    for damaged in (b"", whole * 2, whole[: len(whole) // 2], b"\x55" * len(whole), flipped):
        path.write_bytes(damaged)
        with pytest.raises(CacheError, match="shard 0 of .*remove this cache"):
            cache.read_corpus(filled, "demo")
    path.unlink()
    with pytest.raises(CacheError, match=f"{kind} is missing"):
        cache.read_corpus(filled, "demo")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_documents": 7}, "holds 40 documents .* says 7"),
        ({"shards": []}, "has the foreign files"),
        ({"shards": [{"documents": 3}]}, "'ends_sha256'"),
        ({"shards": None}, "'ends_sha256'"),
        ({"num_documents": 0}, "needs a document"),
        ({"num_tokens": "many"}, "needed"),
        ({"dtype": "int8"}, "'int8'"),
        ({"extra": 1}, "'extra'"),
        ({"vocabulary_sha256": "cd"}, "corpus 'demo' has the vocabulary cd, but .* is "),
    ],
)
def test_provenance_must_agree(filled, change, message):
    path = filled / "corpora" / "demo" / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CacheError, match=message):
        cache.read_corpus(filled, "demo")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "units"}'])
def test_damaged_json_is_refused(filled, content):
    for name in ("mixtures/demo_mixture", "evaluation/units", "corpora/demo/provenance"):
        (filled / f"{name}.json").write_text(content)
    for reader, name in (
        (cache.read_mixture, "demo_mixture"),
        (cache.read_evaluation_task, "units"),
        (cache.read_corpus, "demo"),
    ):
        with pytest.raises(CacheError, match="json|provenance"):
            reader(filled, name)


def test_vocabulary_is_installed_once(filled, vocabulary, tmp_path_factory):
    cache.install_vocabulary(filled, vocabulary)
    assert cache.read_vocabulary(filled).sha256 == vocabulary.sha256
    other = train(TEXTS, tmp_path_factory.mktemp("other") / "v.model", size=291)
    with pytest.raises(CacheError, match=f"{other.sha256}.*{vocabulary.sha256}"):
        cache.install_vocabulary(filled, other)
    foreign = MixtureSpec("m", other.sha256, (TaskSpec("t", "demo", 1.0, DENOISING),))
    with pytest.raises(CacheError, match=other.sha256):
        cache.write_mixture(filled, foreign)
    with pytest.raises(CacheError, match=other.sha256):
        write(filled, [np.arange(3)], corpus="new", vocabulary_sha256=other.sha256)
    assert cache.read_vocabulary(filled).sha256 == vocabulary.sha256


def test_mixtures_and_evaluation_tasks_come_back(filled, vocabulary):
    spec = cache.read_mixture(filled, "demo_mixture")
    assert [task.name for task in spec.tasks] == ["demo_denoising", "demo_clm"]
    assert spec.tasks[0] == TaskSpec("demo_denoising", "demo", 0.8, DENOISING)
    assert spec.vocabulary_sha256 == vocabulary.sha256
    assert cache.read_evaluation_task(filled, "units") == PAYLOAD
    assert not [path for path in filled.rglob("*") if path.name.endswith(".tmp")]


def test_specs_check_themselves():
    task = TaskSpec("t", "c", 1.0, DENOISING)
    for rate in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CacheError, match="rate"):
            dataclasses.replace(task, rate=rate)
    with pytest.raises(ValueError, match="'noise'"):
        TaskSpec("t", "c", 1.0, {"kind": "noise"})
    for tasks in ((), (task, task)):
        with pytest.raises(CacheError, match="one or more"):
            MixtureSpec("m", "ab", tasks)


def test_examples_are_rendered_from_the_cache(filled):
    denoising, clm = cache.read_mixture(filled, "demo_mixture").tasks
    text = cache.rendered_example(filled, denoising, index=7)
    assert text.startswith("demo_denoising (denoising, rate 0.8)\n  encoder: ")
    assert text.endswith(f"\n  decoder: {TEXTS[7]} </s>")
    assert "encoder: [CLM] " in cache.rendered_example(filled, clm, index=7)
