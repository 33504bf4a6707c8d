"""Of a damaged file, what stands before the damage is read, and the damage always reported."""

from __future__ import annotations

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.local_files import LocalFiles

DOCUMENTS = [f"document {number} {'x' * number}" for number in range(6)]


def text() -> bytes:
    return "".join(f"{document}\n" for document in DOCUMENTS).encode()


def zstandard_frames() -> bytes:
    zstandard = pytest.importorskip("zstandard")
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return compressor.compress(text()[:50]) + compressor.compress(text()[50:])


def parquet_file() -> bytes:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    table = pa.table({"text": DOCUMENTS})
    parquet.write_table(table, file, row_group_size=2, write_page_checksum=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def contents(tfrecord):
    records = b"".join(tfrecord.record(tfrecord.example(line.encode())) for line in DOCUMENTS)
    return {
        ".txt.gz": gzip.compress(text()[:50]) + gzip.compress(text()[50:]),
        ".txt.zst": zstandard_frames(),
        ".parquet": parquet_file(),
        ".tfrecord": records,
        ".tfrecord.gz": gzip.compress(records),
    }


def whole_prefixes(ending: str, tfrecord, content: bytes) -> dict[int, int]:
    """Where a file may be cut and still be whole: bytes -> documents. Nobody could notice."""
    if ending == ".tfrecord":
        sizes = [len(tfrecord.record(tfrecord.example(line.encode()))) for line in DOCUMENTS]
        return {sum(sizes[:count]): count for count in range(len(sizes) + 1)}
    if ending == ".txt.gz":
        return {len(gzip.compress(text()[:50])): text()[:50].count(b"\n") + 1}
    if ending == ".txt.zst":
        return {content.rindex(b"\x28\xb5\x2f\xfd"): text()[:50].count(b"\n") + 1}
    return {}


@pytest.mark.parametrize("ending", [".txt.gz", ".txt.zst", ".parquet", ".tfrecord", ".tfrecord.gz"])
def test_a_file_that_is_cut_anywhere(tmp_path, read_all, contents, tfrecord, ending):
    content = contents[ending]
    path = tmp_path / f"a{ending}"
    undamaged = whole_prefixes(ending, tfrecord, content)
    most = 0
    # A Parquet file has the same fate wherever it is cut.
    for size in range(0, len(content), 7 if ending == ".parquet" else 1):
        path.write_bytes(content[:size])
        documents, problems = read_all(LocalFiles(str(path)))
        if size in undamaged:
            assert problems == [] and len(documents) == undamaged[size]
            continue
        assert documents == DOCUMENTS[: len(documents)], size
        assert len(documents) >= most
        most = len(documents)
        ((kind, name, line),) = problems
        assert (name, line or 1) == (str(path), len(documents) + 1), size
        # Of the two bytes that tell gzip from other files, one is not enough.
        assert kind == "truncated" or (ending.endswith("gz") and content[size - 1] == 0x1F), size
    # Without its end, where the places of all columns are, nothing of a Parquet file is found.
    assert most == (0 if ending == ".parquet" else 5 if ending == ".tfrecord" else 6)


@pytest.mark.parametrize("ending", [".txt.gz", ".txt.zst", ".parquet", ".tfrecord", ".tfrecord.gz"])
@given(st.data())
def test_a_file_with_a_wrong_byte(tmp_path_factory, read_all, contents, ending, data):
    content = bytearray(contents[ending])
    # Parquet's footer has no checksum, so damage there may go unseen.
    footer = 8 + int.from_bytes(content[-8:-4], "little") if ending == ".parquet" else 0
    place = data.draw(st.integers(0, len(content) - 1 - footer))
    content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("files") / f"a{ending}"
    path.write_bytes(content)
    documents, problems = read_all(LocalFiles(str(path)))
    if ending == ".tfrecord":
        assert len(problems) == 1
    if ending.startswith(".tfrecord"):
        assert set(documents) <= set(DOCUMENTS)
    # Formats have bytes that mean nothing, such as the time in gzip's header.
    assert problems or documents == DOCUMENTS


def test_no_wrong_bit_of_a_parquet_page_hides_rows(tmp_path, read_all, contents):
    content = contents[".parquet"]
    path = tmp_path / "a.parquet"
    for place in range(4, len(content) - 8 - int.from_bytes(content[-8:-4], "little")):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        documents, problems = read_all(LocalFiles(str(path)))
        assert problems or documents == DOCUMENTS, place
