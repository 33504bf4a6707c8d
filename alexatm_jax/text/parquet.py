"""Reads one column of text from Parquet files, row group by row group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

BATCH_BYTES = 1 << 20
MAGIC = b"PAR1"
TEXT_TYPES = [size + kind for kind in ("string", "binary") for size in ("", "large_")]
TEXT_TYPES += ["string_view", "binary_view"]


class ColumnError(ValueError):
    """A Parquet file has no text under the name asked for."""


class ParquetText:
    """One open Parquet file. Close it, or use it in a `with`.

    Memory: a batch of about a mebibyte, and what Arrow holds of one page of the column. A page
    holds whole rows: one of 200 MB takes 600 MB.
    """

    def __init__(self, path: str) -> None:
        """Opens a file and reads its footer.

        Raises:
          EOFError: where the file has a beginning but no end.
          OSError: where it cannot be read, or is no Parquet file.
        """
        # Not everybody has it, and not everybody has Parquet files.
        try:
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"Reading {path} needs the package pyarrow; install alexatm_jax[data]."
            ) from error

        self._path = path
        with self._errors():
            # Without pre_buffer, the whole column of a row group is not held at once.
            self._file = pyarrow.parquet.ParquetFile(
                path, pre_buffer=False, buffer_size=BATCH_BYTES, page_checksum_verification=True
            )
            self._groups = [
                self._file.metadata.row_group(group) for group in range(self._file.num_row_groups)
            ]
            self._columns = {field.name: field.type for field in self._file.schema_arrow}

    def __enter__(self) -> ParquetText:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def group_bytes(self) -> list[int]:
        """The size in bytes of each row group, all columns, before compression."""
        return [group.total_byte_size for group in self._groups]

    def rows_before(self, group: int) -> int:
        """Counts the rows of all row groups before one."""
        return sum(earlier.num_rows for earlier in self._groups[:group])

    def rows(self, column: str, start: int = 0, stop: int | None = None) -> Iterator[bytes | None]:
        """Gives a column's values in row groups [start, stop), as UTF-8; None for a null.

        Raises:
          ColumnError: if the file has no such column, or it holds no text.
          OSError: where the file is damaged.
        """
        self._check_column(column)
        # One group at a time: a batch would lose the rows before damage in the next group.
        for group in range(len(self._groups))[start:stop]:
            yield from self._group_rows(column, group)

    def _group_rows(self, column: str, group: int) -> Iterator[bytes | None]:
        import pyarrow

        expected, read = self._groups[group].num_rows, 0
        with self._errors():
            batches = self._file.iter_batches(self._batch_rows(column, group), [group], [column])
        while True:
            with self._errors():
                batch = next(batches, None)
                if batch is None:
                    break
                # Bytes, because Arrow lets through strings that are not UTF-8.
                values = batch.column(0).cast(pyarrow.large_binary()).to_pylist()
            read += len(values)
            yield from values
        # Arrow takes some damaged pages for the end.
        if read != expected:
            raise OSError(f"row group {group} has {read} rows, and the footer says {expected}")

    def _check_column(self, column: str) -> None:
        from pyarrow import types

        if column not in self._columns:
            raise ColumnError(f"there is no column {column!r}, only {', '.join(self._columns)}")
        kind = self._columns[column]
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if str(kind) not in TEXT_TYPES:
            raise ColumnError(f"column {column!r} holds {kind}")

    def _batch_rows(self, column: str, group: int) -> int:
        """Says how many rows of a row group make a batch, going by their mean size."""
        chunks = map(self._groups[group].column, range(self._file.metadata.num_columns))
        chunk = next((chunk for chunk in chunks if chunk.path_in_schema == column), None)
        if chunk is None:
            raise OSError(f"row group {group} has no column {column!r}, and the schema does")
        return max(1, BATCH_BYTES * chunk.num_values // max(1, chunk.total_uncompressed_size))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises Arrow's errors as those of reading any file."""
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, UnicodeDecodeError) as error:
            if _is_cut(self._path):
                raise EOFError("the end of the Parquet file is missing") from error
            raise OSError(str(error)) from error


def _is_cut(path: str) -> bool:
    """Says whether a file begins as Parquet does, and does not end so."""
    with open(path, "rb") as file:
        head = file.read(len(MAGIC))
        file.seek(max(len(MAGIC), os.path.getsize(path) - len(MAGIC)))
        return MAGIC.startswith(head) and file.read() != MAGIC
