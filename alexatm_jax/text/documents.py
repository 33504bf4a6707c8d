"""Says what a source of documents is, whatever it reads."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

from alexatm_jax.text.problems import Problems

Item = TypeVar("Item")


class DocumentSource(Protocol):
    """Documents in a fixed order, cut into units that can be read apart.

    A source can be pickled, and each unit read alone in another process. The documents of all
    units, one unit after another, are the documents of the source: neither what a unit holds nor
    the order ever depends on the number of workers.
    """

    @property
    def description(self) -> str:
        """All that the documents depend on, in words: equal descriptions, equal documents."""
        ...

    def units(self) -> Sequence[dict[str, Any]]:
        """Lists the units, at least one, as objects that `json` can write."""
        ...

    def documents(self, unit: Mapping[str, Any], problems: Problems) -> Iterator[str]:
        """Gives the unit's documents: text without lone surrogates, never white space alone.

        Args:
          unit: one of `units()`, perhaps after a trip through JSON.
          problems: told of everything that is left out.

        Raises:
          TextError: at the first problem, where `problems` was told to stop.
        """
        ...


def _from_one() -> int:
    return 1


@dataclass
class Intake:
    """Lets documents through, and reports by file and line what cannot be one.

    Attributes:
      path: the file that is read.
      problems: where the reports go.
      max_bytes: a document may have so many bytes of UTF-8 at most.
      find_first_line: gives the number, from 1, of the line that this reader calls line 0. It is
        asked at most once, and only when a report needs it: it may be slow.
    """

    path: str
    problems: Problems
    max_bytes: int
    find_first_line: Callable[[], int] = field(default=_from_one)

    @cached_property
    def first_line(self) -> int:
        return self.find_first_line()

    def report(self, kind: str, index: int | None, detail: str = "") -> None:
        """Reports what is wrong on this reader's line `index`, from 0; None is the whole file."""
        line = None if index is None else self.first_line + index
        self.problems.add(kind, self.path, line, detail)

    def text(self, data: bytes, index: int, *, spans_lines: bool = False) -> str | None:
        """Decodes one document of line `index`; None, and a report, where it is none.

        With `spans_lines` the document begins on that line, and its line feeds count.
        """
        if len(data) > self.max_bytes:
            self.report("too_long", index, f"more than {self.max_bytes} bytes")
            return None
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            index += data.count(b"\n", 0, error.start) if spans_lines else 0
            self.report("invalid_utf8", index, f"{error.reason} at its byte {error.start + 1}")
            return None
        return self.visible(text, index)

    def visible(self, text: str, index: int) -> str | None:
        """Gives back a document of line `index`; None, and a report, if it is white space."""
        if text and not text.isspace():
            return text
        self.report("empty", index)
        return None

    def until_damage(self, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        """Numbers what is read from the file, from 0, and reports what ends it too early."""
        index = 0
        try:
            for item in items:
                yield index, item
                index += 1
        except EOFError as error:
            self.report("truncated", index, str(error))
        except (OSError, zlib.error) as error:
            self.report("unreadable", index or None, str(error))
