"""Ranges side by side share no line and lose none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.text.byte_lines import line_number_at, lines_in_range, split_lines

CONTENT = st.lists(st.sampled_from([b"\n", b"\n\n", b"a", b"bc\r", b"d" * 9])).map(b"".join)


def lines_of(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


@given(CONTENT, st.data())
def test_ranges_give_every_line_once_and_know_its_number(tmp_path_factory, content, data):
    path = tmp_path_factory.mktemp("ranges") / "a.txt"
    path.write_bytes(content)
    cuts = data.draw(st.sets(st.integers(0, len(content))))
    stops = sorted(cuts | {0, len(content)})
    found = []
    for start, stop in zip(stops, stops[1:], strict=False):
        begin, lines = lines_in_range(io.BytesIO(content), start, stop, max_bytes=100)
        own = list(lines)
        if own:
            assert start <= begin < stop
            assert line_number_at(str(path), begin) == 1 + len(found)
        found += own
    assert found == lines_of(content)


@given(CONTENT, st.integers(1, 12), st.lists(st.integers(1, 5), min_size=200, max_size=200))
def test_long_lines_come_cut_and_no_others(content, max_bytes, sizes):
    file = io.BytesIO(content)
    found = list(split_lines(iter(lambda: file.read(sizes.pop()), b""), max_bytes))
    assert len(found) == len(lines_of(content))
    for cut, line in zip(found, lines_of(content), strict=True):
        assert cut == line or (
            line.startswith(cut) and len(cut) > max_bytes + len(b"\xef\xbb\xbf\r")
        )


def test_a_file_that_has_shrunk_is_noticed():
    with pytest.raises(EOFError, match="before byte 9"):
        lines_in_range(io.BytesIO(b"short\n"), 3, 9, max_bytes=100)
