"""Documents come back from flat files, whatever their number, and damage is noticed."""

import hashlib
import itertools
import pickle
import resource
import time
import tracemalloc
from collections import OrderedDict

import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.data.corpora import token_files
from alexatm_jax.data.corpora.token_files import CacheError, TokenFiles, shard_stem, write_shard

DOCUMENTS = st.lists(st.lists(st.integers(0, 65535), min_size=1, max_size=9), max_size=6)


def written(folder, shards, num_ids=1 << 16):
    """Writes lists of documents as shards; gives their descriptions."""
    return [
        write_shard(
            folder,
            shard_stem(number, len(shards)),
            [np.array(document, np.int32) for document in documents],
            num_ids,
        )._asdict()
        for number, documents in enumerate(shards)
    ]


@pytest.fixture
def three_shards(tmp_path):
    """Shards of 2, 0 and 3 documents, and what describes them."""
    return tmp_path, written(tmp_path, [[[1, 2], [3]], [], [[4], [5, 6, 7], [8]]])


@given(st.lists(DOCUMENTS, min_size=1, max_size=4), st.booleans(), st.data())
def test_documents_come_back_in_order_and_at_random(tmp_path_factory, shards, wide, data):
    folder = tmp_path_factory.mktemp("shards")
    dtype, num_ids = ("int32", 1 << 20) if wide else ("uint16", 1 << 16)
    files = TokenFiles(folder, dtype, written(folder, shards, num_ids))
    flat = list(itertools.chain.from_iterable(shards))
    assert [files[index].tolist() for index in range(len(files))] == flat
    assert files.num_tokens == sum(map(len, flat))
    start = data.draw(st.integers(0, len(flat)))
    stop = data.draw(st.integers(start, len(flat)))
    assert files.lengths(start, stop).tolist() == [len(document) for document in flat[start:stop]]
    if flat:
        assert files[len(flat) - 1].dtype == np.int32


def test_the_format_is_as_documented(tmp_path):
    (shard,) = written(tmp_path, [[[1, 2], [300]]])
    tokens = (tmp_path / "documents-00000-of-00001.tokens").read_bytes()
    ends = (tmp_path / "documents-00000-of-00001.ends").read_bytes()
    assert tokens == bytes([1, 0, 2, 0, 44, 1])
    assert ends == bytes([2, *[0] * 7, 3, *[0] * 7])
    hashes = [hashlib.sha256(content).hexdigest() for content in (tokens, ends)]
    assert shard == {"documents": 2, "tokens": 3, "sha256": hashes[0], "ends_sha256": hashes[1]}


def test_a_copy_in_another_process_maps_the_files_itself(three_shards):
    files = TokenFiles(three_shards[0], "uint16", three_shards[1])
    assert files[4].tolist() == [8]
    sent = pickle.dumps(files)
    assert len(sent) < 2000
    assert pickle.loads(sent)[3].tolist() == [5, 6, 7]
    shuffled = grain.MapDataset.source(files).seed(3).shuffle()
    assert sorted(len(tokens) for tokens in shuffled) == [1, 1, 1, 2, 3]


def test_only_documents_that_exist_are_given(three_shards):
    files = TokenFiles(three_shards[0], "uint16", three_shards[1])
    for index in (-1, 5):
        with pytest.raises(IndexError, match="counts from 0"):
            files[index]
    for start, stop in ((0, 6), (-1, 2), (3, 2)):
        with pytest.raises(IndexError, match="counts from 0"):
            files.lengths(start, stop)


def test_documents_given_may_be_changed(three_shards):
    files = TokenFiles(three_shards[0], "uint16", three_shards[1])
    files[0][0] = 9
    assert files[0].tolist() == [1, 2]


def test_few_shards_are_mapped_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_MOST_MAPPED_SHARDS", 3)
    monkeypatch.setattr(token_files, "_mapped", OrderedDict())
    shards = written(tmp_path, [[[n]] for n in range(20)])
    corpora = [TokenFiles(tmp_path, "uint16", shards) for _ in range(2)]
    for index in np.random.default_rng(0).integers(0, 20, 100).tolist():
        assert corpora[index % 2][index].tolist() == [index]
        assert len(token_files._mapped) <= 3
    del corpora
    assert not token_files._mapped


@pytest.mark.parametrize("kind", ["tokens", "ends"])
def test_files_missing_or_of_another_size_are_named(three_shards, kind):
    folder, shards = three_shards
    path = folder / f"documents-00002-of-00003.{kind}"
    content = path.read_bytes()
    for change in (content[:-1], content + b"\0"):
        path.write_bytes(change)
        with pytest.raises(CacheError, match=f"shard 2 .*{kind} has {len(change)} bytes, not"):
            TokenFiles(folder, "uint16", shards)
    path.unlink()
    with pytest.raises(CacheError, match=f"shard 2 .*00003.{kind} is missing; remove this cache"):
        TokenFiles(folder, "uint16", shards)


def test_foreign_shards_are_named(three_shards):
    folder, shards = three_shards
    with pytest.raises(CacheError, match="is missing"):
        TokenFiles(folder, "uint16", shards[:2])
    (folder / "documents-00003-of-00003.tokens").write_bytes(b"")
    with pytest.raises(CacheError, match="foreign files .'documents-00003-of-00003.tokens'"):
        TokenFiles(folder, "uint16", shards)


def test_a_flipped_bit_is_noticed_in_small_corpora_and_by_verify(three_shards, monkeypatch):
    folder, shards = three_shards
    path = folder / "documents-00002-of-00003.tokens"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match="sha256 of documents-00002-of-00003.tokens is"):
        TokenFiles(folder, "uint16", shards)
    monkeypatch.setattr(token_files, "_SMALL_BYTES", 0)
    files = TokenFiles(folder, "uint16", shards)
    with pytest.raises(CacheError, match="sha256 of documents-00002-of-00003.tokens is"):
        files.verify()


def test_ends_that_make_no_documents_are_noticed(three_shards, monkeypatch):
    monkeypatch.setattr(token_files, "_SMALL_BYTES", 0)
    folder, shards = three_shards
    path = folder / "documents-00002-of-00003.ends"
    for ends in ([0, 4, 5], [1, 4, 4], [1, 4, 6], [6, 4, 5]):
        path.write_bytes(np.array(ends, "<u8").tobytes())
        with pytest.raises(CacheError, match="shard 2 .*its documents end at"):
            TokenFiles(folder, "uint16", shards)
    for middle in (1, 6, 1 << 63):
        path.write_bytes(np.array([1, middle, 5], "<u8").tobytes())
        files = TokenFiles(folder, "uint16", shards)
        with pytest.raises(CacheError, match="document 3 is tokens 1 to"):
            files[3]


@pytest.mark.parametrize(
    "document, message",
    [
        (np.array([[1]]), r"int64\(1, 1\)"),
        (np.array([0.5]), r"float64\(1,\)"),
        (np.array([], np.int32), r"int32\(0,\).*N >= 1"),
        (np.array([1, 9]), r"from 1 to 9; they must be in \[0, 9\)"),
        (np.array([-1]), r"from -1 to 3"),
    ],
)
def test_what_is_no_document_leaves_no_file(tmp_path, document, message):
    with pytest.raises(CacheError, match=message):
        write_shard(tmp_path, "documents", [np.array([3]), document], 9)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_of_and_leaves_no_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(CacheError, match="documents.tokens could not be written .*make room"):
            write_shard(tmp_path, "documents", [np.zeros(1 << 20, np.int32)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def sparse(path, size, *pieces):
    """Writes a file of holes but for some (offset, bytes)."""
    with path.open("wb") as file:
        for offset, content in pieces:
            file.seek(offset)
            file.write(content)
        file.truncate(size)


def test_a_thousand_million_documents_open_at_once(tmp_path):
    documents, length, wanted = 10**9, 4, 713_000_111
    ends = np.arange(wanted, wanted + 2, dtype="<u8") * length
    stem = shard_stem(0, 1)
    sparse(
        tmp_path / f"{stem}.ends",
        8 * documents,
        (0, np.array([length], "<u8").tobytes()),
        (8 * (wanted - 1), ends.tobytes()),
        (8 * (documents - 1), np.array([documents * length], "<u8").tobytes()),
    )
    tokens = np.arange(length, dtype="<u2").tobytes()
    sparse(tmp_path / f"{stem}.tokens", 2 * documents * length, (2 * wanted * length, tokens))
    shard = {"documents": documents, "tokens": documents * length, "sha256": "", "ends_sha256": ""}
    tracemalloc.start()
    start = time.monotonic()
    files = TokenFiles(tmp_path, "uint16", [shard])
    assert files[wanted].tolist() == list(range(length))
    assert files.lengths(wanted, wanted + 1).tolist() == [length]
    assert len(files) == documents and len(pickle.dumps(files)) < 2000
    assert time.monotonic() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
