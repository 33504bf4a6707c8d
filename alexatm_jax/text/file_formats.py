"""Gets documents out of a file, or of a part of one, by the ending of its name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from alexatm_jax.text.byte_lines import (
    BYTE_ORDER_MARK,
    line_number_at,
    lines_in_range,
    read_blocks,
    split_lines,
)
from alexatm_jax.text.compressed import COMPRESSIONS, open_bytes
from alexatm_jax.text.documents import Intake
from alexatm_jax.text.file_patterns import file_bytes
from alexatm_jax.text.parquet import ColumnError, ParquetText
from alexatm_jax.text.tfrecords import bytes_feature, read_records

Part = Mapping[str, Any]
"""A file (`path`), or what lies in [`start`, `stop`) of it: bytes, or Parquet's row groups."""

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
ENDINGS = {
    "text": r"\.txt(\.gz|\.zst)?",
    "json": r"\.(jsonl|json-lines|ndjson|json)(\.gz|\.zst)?",
    "parquet": r"\.parquet",
    "tfrecord": r"\.tfrecords?(-\d+-of-\d+)?(\.gz)?",
}


def format_of(path: str) -> str:
    """Says which of `ENDINGS` a file's name has.

    Raises:
      ValueError: if it has none of them.
    """
    for name, ending in ENDINGS.items():
        if re.search(f"{ending}$", path, re.IGNORECASE):
            return name
    raise ValueError(
        f"The name of {path!r} does not say what it holds; known endings are .txt, .jsonl, "
        ".json-lines, .ndjson and .json (all also .gz or .zst), .parquet, and .tfrecord (also .gz, "
        "or with -00000-of-00001 after it). Rename it, or leave it out of the patterns."
    )


def parts_of(path: str, part_bytes: int, *, divisible: bool = True) -> list[tuple[Part, int]]:
    """Cuts a file into parts of about `part_bytes` bytes, as far as its format can be cut.

    Args:
      path: a file with one of `ENDINGS`; one that cannot be read stays in one piece.
      part_bytes: size of a part.
      divisible: False keeps plain text in one piece.

    Returns:
      Each part, with its size in bytes.
    """
    size = file_bytes(path)
    kind = format_of(path)
    if kind == "parquet":
        return _row_group_parts(path, part_bytes) or [({"path": path}, size)]
    if kind == "tfrecord" or path.lower().endswith(COMPRESSIONS) or not divisible or not size:
        return [({"path": path}, size)]
    stops = [min(start + part_bytes, size) for start in range(0, size, part_bytes)]
    starts = [0, *stops[:-1]]
    return [
        ({"path": path, "start": start, "stop": stop}, stop - start)
        for start, stop in zip(starts, stops, strict=True)
    ]


def _row_group_parts(path: str, part_bytes: int) -> list[tuple[Part, int]]:
    try:
        with ParquetText(path) as file:
            sizes = file.group_bytes
    except (OSError, EOFError):
        return []
    parts: list[tuple[Part, int]] = []
    start = 0
    for stop in range(1, len(sizes) + 1):
        size = sum(sizes[start:stop])
        if stop == len(sizes) or size + sizes[stop] > part_bytes:
            parts.append(({"path": path, "start": start, "stop": stop}, size))
            start = stop
    return parts


def documents_of(part: Part, intake: Intake, text_field: str, document: str) -> Iterator[str]:
    """Reads the documents of one of `parts_of`; see `LocalFiles` for the last two arguments."""
    kind = format_of(part["path"])
    if kind == "parquet":
        return _parquet_documents(part, intake, text_field)
    if kind == "tfrecord":
        return _tfrecord_documents(part, intake, text_field)
    if kind == "json":
        return _json_documents(part, intake, text_field)
    return (_line_documents if document == "line" else _file_document)(part, intake)


def _lines(part: Part, intake: Intake) -> Iterator[bytes]:
    path = part["path"]
    with open_bytes(path) as file:
        if file.peek(2)[:2] in UTF16_MARKS:  # type: ignore[attr-defined]
            # Half of its lines would pass for UTF-8 with NUL characters.
            if part.get("start", 0) == 0:
                intake.report("invalid_utf8", None, "it begins as UTF-16 does")
            return
        begin, lines = 0, split_lines(read_blocks(file), intake.max_bytes)
        if "start" in part:
            begin, lines = lines_in_range(file, part["start"], part["stop"], intake.max_bytes)
            intake.find_first_line = partial(line_number_at, path, begin)
        for line in lines:
            mark = BYTE_ORDER_MARK if begin == 0 else b""
            begin = -1
            yield line.removeprefix(mark).removesuffix(b"\r")


def _line_documents(part: Part, intake: Intake) -> Iterator[str]:
    for index, line in intake.until_damage(_lines(part, intake)):
        if (text := intake.text(line, index)) is not None:
            yield text


def _file_document(part: Part, intake: Intake) -> Iterator[str]:
    for _, data in intake.until_damage(_beginning(part["path"], intake.max_bytes)):
        if (text := intake.text(data, 0, spans_lines=True)) is not None:
            yield text.replace("\r\n", "\n").removesuffix("\n")


def _beginning(path: str, max_bytes: int) -> Iterator[bytes]:
    """Gives all of a file; of one that is longer than `max_bytes`, more than those."""
    with open_bytes(path) as file:
        blocks = read_blocks(file, len(BYTE_ORDER_MARK) + max_bytes + 1)
        yield b"".join(blocks).removeprefix(BYTE_ORDER_MARK)


def _json_documents(part: Part, intake: Intake, text_field: str) -> Iterator[str]:
    for index, line in intake.until_damage(_lines(part, intake)):
        if (text := intake.text(line, index)) is None:
            continue
        if (text := _json_text(text, index, intake, text_field)) is not None:
            yield text


def _json_text(line: str, index: int, intake: Intake, text_field: str) -> str | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        intake.report("bad_json", index, str(error))
        return None
    if not isinstance(record, dict):
        intake.report("bad_json", index, f"a {type(record).__name__}, not an object")
        return None
    text = record.get(text_field)
    if not isinstance(text, str):
        found = f"is a {type(text).__name__}" if text_field in record else f"not in {[*record]}"
        intake.report("no_text", index, f"field {text_field!r} {found}")
        return None
    if ("\\ud" in line or "\\uD" in line) and not _is_unicode(text):
        intake.report("invalid_utf8", index, "half of a surrogate pair")
        return None
    return intake.visible(text, index)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet_documents(part: Part, intake: Intake, text_field: str) -> Iterator[str]:
    def rows() -> Iterator[bytes | None]:
        with ParquetText(part["path"]) as file:
            start = part.get("start", 0)
            intake.find_first_line = partial(int, 1 + file.rows_before(start))
            yield from file.rows(text_field, start, part.get("stop"))

    try:
        for index, value in intake.until_damage(rows()):
            if value is None:
                intake.report("no_text", index, f"column {text_field!r} is null")
            elif (text := intake.text(value, index)) is not None:
                yield text
    except ColumnError as error:
        # Once a file, not once a part.
        if part.get("start", 0) == 0:
            intake.report("no_text", None, str(error))


def _tfrecord_documents(part: Part, intake: Intake, text_field: str) -> Iterator[str]:
    def records() -> Iterator[bytes | None]:
        with open_bytes(part["path"]) as file:
            yield from read_records(file, intake.max_bytes)

    for index, record in intake.until_damage(records()):
        if record is None:
            intake.report("unreadable", index, "a wrong checksum")
        elif len(record) > intake.max_bytes:
            intake.report("too_long", index, f"more than {intake.max_bytes} bytes")
        elif (value := _example_text(record, index, intake, text_field)) is not None:
            if (text := intake.text(value, index)) is not None:
                yield text


def _example_text(record: bytes, index: int, intake: Intake, text_field: str) -> bytes | None:
    try:
        values = bytes_feature(record, text_field)
    except ValueError as error:
        intake.report("no_text", index, f"no tf.train.Example: {error}")
        return None
    if len(values) != 1:
        intake.report("no_text", index, f"feature {text_field!r} has {len(values)} bytes values")
        return None
    return values[0]
