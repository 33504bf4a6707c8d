"""Says where a task stands in its stream of documents."""

from __future__ import annotations

from typing import Any, NamedTuple


class Span(NamedTuple):
    """Tokens `begin` to `end` of a document, whose number counts on through the epochs."""

    document: int
    begin: int
    end: int


class Place(NamedTuple):
    """Where a task's next example begins.

    Args:
      document: number of the document, counted on through the epochs.
      within: which token of it.
      returned: what is to be read before: spans of earlier documents that were laid into rows
        which a phase of training then ended without.
    """

    document: int = 0
    within: int = 0
    returned: tuple[Span, ...] = ()

    @property
    def documents_read(self) -> int:
        """How many documents lie behind, all of their tokens read."""
        wanted = {span.document for span in self.returned if span.document < self.document}
        return self.document - len(wanted)

    def as_json(self) -> list[Any]:
        """Gives what `place_from_json` reads back."""
        return [self.document, self.within, [list(span) for span in self.returned]]


def place_from_json(content: list[Any]) -> Place:
    """Reads back what `Place.as_json` gave."""
    document, within, returned = content
    return Place(document, within, tuple(Span(*span) for span in returned))
