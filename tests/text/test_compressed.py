"""Compressed files give all that they hold, in bounded memory, and say when some is missing."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.byte_lines import read_blocks
from alexatm_jax.text.compressed import open_bytes

PARTS = st.lists(st.binary(max_size=20), min_size=1, max_size=5)


def read(path) -> bytes:
    with open_bytes(str(path)) as file:
        return b"".join(read_blocks(file))


@given(PARTS, st.integers(0, 3))
def test_members_of_gzip_are_joined(tmp_path_factory, parts, zeros):
    path = tmp_path_factory.mktemp("gzip") / "a.gz"
    # Tapes are padded with zeros.
    path.write_bytes(b"".join(gzip.compress(part) + bytes(zeros) for part in parts))
    assert read(path) == b"".join(parts)


@given(PARTS, st.booleans())
def test_frames_of_zstandard_are_joined(tmp_path_factory, parts, skippable):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path_factory.mktemp("zstandard") / "a.ZST"
    note = b"\x50\x2a\x4d\x18\x04\x00\x00\x00note" if skippable else b""
    path.write_bytes(b"".join(note + zstandard.compress(part) for part in parts) + note)
    assert read(path) == b"".join(parts)


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_what_grows_a_thousandfold_is_not_held(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    content = bytes(50_000_000)
    if ending == "zst":
        path.write_bytes(pytest.importorskip("zstandard").compress(content))
    else:
        path.write_bytes(gzip.compress(content))
    assert path.stat().st_size < 60_000
    tracemalloc.start()
    with open_bytes(str(path)) as file:
        assert sum(len(block) for block in read_blocks(file)) == len(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
def test_an_empty_file_is_no_compressed_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(EOFError, match="empty"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
def test_what_follows_the_compressed_data_is_noticed(tmp_path, name):
    compress = gzip.compress if name == "a.gz" else pytest.importorskip("zstandard").compress
    (tmp_path / name).write_bytes(compress(b"text") + b"not compressed")
    with open_bytes(str(tmp_path / name)) as file:
        blocks = read_blocks(file)
        assert next(blocks) == b"text"
        with pytest.raises(OSError, match="(?i)not a gzip|unknown frame"):
            list(blocks)
