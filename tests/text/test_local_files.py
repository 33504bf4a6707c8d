"""Every document of local files comes once, in order; everything else is named by file and line."""

from __future__ import annotations

import gzip
import json
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.problems import Problems, TextError

MAX_BYTES = 12
# No letters that are white space or end a line: these are drawn on purpose.
WORDS = st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=1, max_size=3)
GOOD = st.lists(WORDS, min_size=1, max_size=3).map("\x0b\x00\u2028".join)
LINES = st.one_of(
    GOOD.map(str.encode),
    st.sampled_from(
        [b"", b" \t", "\u3000\u2028".encode(), b"a\rb", b"a" * 12, b"a" * 13, b"a" * 99]
    ),
    st.sampled_from([b"\xff", b"ab\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf x"]),
)
ENDS = st.sampled_from([b"\n", b"\r\n"])
FILES = st.lists(
    st.tuples(st.lists(st.tuples(LINES, ENDS)), st.booleans(), st.booleans()), min_size=1
)
UNIT_BYTES = st.sampled_from([1, 2, 3, 5, 8, 13, 40, 1000])


def verdict(line: bytes) -> str | None:
    """Says what is wrong with a document."""
    if len(line) > MAX_BYTES:
        return "too_long"
    try:
        return None if line.decode().strip() else "empty"
    except UnicodeDecodeError:
        return "invalid_utf8"


def expected(files: dict[str, list[bytes]]):
    """The documents and problems of files of these lines."""
    documents, problems = [], []
    for path, lines in files.items():
        for number, line in enumerate(lines, 1):
            if verdict(line) is None:
                documents.append(line.decode())
            else:
                problems.append((verdict(line), path, number))
    return documents, sorted(problems)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(FILES, UNIT_BYTES, st.sampled_from(["txt", "txt.gz"]))
def test_lines_of_text_come_once_and_in_order(
    tmp_path_factory, read_all, files, unit_bytes, ending
):
    folder = tmp_path_factory.mktemp("files")
    lines_of = {}
    for number, (lines, with_mark, cut_last_end) in enumerate(files):
        path = folder / f"{number:03}.{ending}"
        content = b"".join(line + end for line, end in [*lines, (str(number).encode(), b"\n")])
        content = (b"\xef\xbb\xbf" if with_mark else b"") + content
        content = content[:-1] if cut_last_end else content
        path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
        lines_of[str(path)] = [line for line, _ in lines] + [str(number).encode()]
        first = lines_of[str(path)][0]
        lines_of[str(path)][0] = first if with_mark else first.removeprefix(b"\xef\xbb\xbf")
    source = LocalFiles(f"{folder}/*", unit_bytes=unit_bytes, max_document_bytes=MAX_BYTES)
    documents, problems = read_all(source)
    assert (documents, sorted(problems)) == expected(lines_of)
