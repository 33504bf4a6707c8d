"""Reads documents from anybody's local files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alexatm_jax.text.documents import Intake
from alexatm_jax.text.file_formats import Part, documents_of, format_of, parts_of
from alexatm_jax.text.file_patterns import copies_among, file_bytes, matching_files
from alexatm_jax.text.problems import Problems


@dataclass(frozen=True)
class LocalFiles:
    """Documents of local files; the endings of their names say what they are.

    * `*.txt`: a document a line, or a file.
    * `*.jsonl`, `*.json-lines`, `*.ndjson`, `*.json`: JSON objects, one a line, with a string.
      All of these, and `.txt`, also as `.gz` or `.zst`.
    * `*.parquet`: a column of strings or UTF-8 bytes.
    * `*.tfrecord`, `*.tfrecord.gz`: `tf.train.Example` with one value in a bytes feature.

    Text is UTF-8. A byte order mark at the beginning of a file is no text; lines end in LF or
    CRLF, and nothing else ends one. Everything else stays as it is, NUL characters too. What cannot
    be used is left out and reported by file and line, row or record: see `text.problems`. Of files
    with the same bytes only the first is read. Files stand in the order of the patterns, and by
    path within one.

    Attributes:
      patterns: paths or globs, `**` for any folders; relative ones to the working directory.
      document: what is a document in `*.txt`, "line" or "file".
      text_field: the JSON field, Parquet column or feature that holds the text.
      max_document_bytes: longer documents are left out. Limits the whole line of a JSON object
        and the whole record of a TFRecord file, so that of any line, file or record little more
        than this is ever held; a longer row of a Parquet file is held before it is left out.
      unit_bytes: about as many bytes of a file go into a unit; plain text and JSON lines are cut
        anywhere, Parquet between row groups, other files never.
    """

    patterns: str | Sequence[str]
    document: str = "line"
    text_field: str = "text"
    max_document_bytes: int = 10 << 20
    unit_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        patterns = (self.patterns,) if isinstance(self.patterns, str) else tuple(self.patterns)
        object.__setattr__(self, "patterns", patterns)
        if not patterns or not all(patterns):
            raise ValueError(
                f"patterns are {patterns}; give at least one path or glob, none empty."
            )
        if self.document not in ("line", "file"):
            raise ValueError(f"document is {self.document!r}; it must be 'line' or 'file'.")
        if not self.text_field:
            raise ValueError("text_field is empty; name the field that holds the text.")
        for name in ("max_document_bytes", "unit_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def description(self) -> str:
        """Names, without their folders, and sizes of the files, and how they are read.

        So it stays the same when the files move. It does not see a change of content that leaves
        every size as it is.
        """
        paths = self._paths()
        files = [(os.path.basename(path), file_bytes(path)) for path in paths]
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
        total = sum(size for _, size in files)
        return (
            f"{len(files)} local file(s) from {files[0][0]} on, {total} bytes, names and sizes "
            f"{digest}; .txt by {self.document}, else field {self.text_field!r}; documents up to "
            f"{self.max_document_bytes} bytes"
        )

    def units(self) -> list[dict[str, Any]]:
        """Cuts and groups the files; each unit lists parts of files.

        Raises:
          ValueError: if a pattern matches nothing, or a file whose ending is not known.
        """
        paths = self._paths()
        copies = copies_among(paths)
        units: list[dict[str, Any]] = []
        filled = 0
        for path in paths:
            for part, size in [] if path in copies else self._parts(path):
                if not units or filled + size > self.unit_bytes:
                    units.append({"parts": []})
                    filled = 0
                units[-1]["parts"].append(part)
                filled += size
        return [units[0] | {"copies": copies}, *units[1:]]

    def documents(self, unit: Mapping[str, Any], problems: Problems) -> Iterator[str]:
        """Reads one of `units()`, as `DocumentSource` says."""
        for path, first in unit.get("copies", {}).items():
            problems.add("duplicate_file", path, None, f"the same bytes as {first}")
        for part in unit["parts"]:
            intake = Intake(part["path"], problems, self.max_document_bytes)
            yield from documents_of(part, intake, self.text_field, self.document)

    def _paths(self) -> list[str]:
        paths = matching_files(self.patterns)
        for path in paths:
            if format_of(path) != "text" and self.document == "file":
                raise ValueError(
                    f"{path!r} holds many documents, and document is 'file'; set it to 'line', or "
                    "leave this file out of the patterns."
                )
        return paths

    def _parts(self, path: str) -> list[tuple[Part, int]]:
        return parts_of(path, self.unit_bytes, divisible=self.document == "line")
