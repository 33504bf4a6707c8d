"""Columns of text come whole, or with a word on what is there instead."""

from __future__ import annotations

import pytest

from alexatm_jax.text.local_files import LocalFiles
from alexatm_jax.text.parquet import ParquetText
from alexatm_jax.text.problems import Problems

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

KINDS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.dictionary(pa.int32(), pa.string()),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_kinds_of_strings(tmp_path, kind):
    column = pa.array(["é", None, "é", "c"], pa.string()).cast(kind)
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet", row_group_size=3)
    with ParquetText(str(tmp_path / "a.parquet")) as file:
        assert list(file.rows("text")) == ["é".encode(), None, "é".encode(), b"c"]
        assert list(file.rows("text", 1, 2)) == [b"c"]
        assert [file.rows_before(group) for group in (0, 1)] == [0, 3]


@pytest.mark.parametrize(
    ("column", "detail"),
    [("body", "no column 'body', only number, text, list"), ("number", "holds int64")]
    + [("list", "holds list<")],
)
def test_a_column_without_text_is_reported_once(tmp_path, column, detail):
    table = pa.table({"number": [1, 2, 3], "text": ["a", "b", "c"], "list": [["a"], [], []]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    source = LocalFiles(str(tmp_path / "a.parquet"), text_field=column, unit_bytes=1)
    problems = Problems()
    assert [text for unit in source.units() for text in source.documents(unit, problems)] == []
    assert len(source.units()) == 3
    (problem,) = problems.examples
    assert (problem.kind, problem.line) == ("no_text", None) and detail in problem.detail


def test_row_groups_before_a_damaged_one_are_read(tmp_path, read_all):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["first", "second", "third"]})
    parquet.write_table(table, path, row_group_size=1, write_page_checksum=True, compression="none")
    path.write_bytes(path.read_bytes().replace(b"second", b"sicond", 1))
    assert read_all(LocalFiles(str(path))) == (["first"], [("unreadable", str(path), 2)])


def test_a_file_without_rows_is_no_problem(tmp_path, read_all):
    parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert read_all(LocalFiles(str(tmp_path / "a.parquet"))) == ([], [])


def test_batches_are_small_whatever_the_row_group(tmp_path):
    texts = [f"{number:07}" * 500 for number in range(4000)]
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", use_dictionary=False)
    with ParquetText(str(tmp_path / "a.parquet")) as file:
        before = pa.total_allocated_bytes()
        rows = file.rows("text")
        assert next(rows) == texts[0].encode()
        assert len(texts) * 3500 == 14_000_000
        assert pa.total_allocated_bytes() - before < 6_000_000
