"""Counts and reports what is wrong in somebody's text, by file and line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

KINDS = {
    "invalid_utf8": ("not UTF-8", "save it as UTF-8"),
    "empty": ("no text but white space", "remove it"),
    "too_long": ("longer than one document may be", "cut it, or raise max_document_bytes"),
    "no_text": ("no text where it should be", "name the field with text_field, or remove it"),
    "bad_json": ("not one JSON object", "mend or remove the line"),
    "truncated": ("ends too early", "fetch the file again"),
    "duplicate_file": ("a copy of another file", "remove one of the two"),
    "unreadable": ("cannot be read", "fetch the file again, or leave it out"),
}
"""Each kind of problem: what is wrong, and what its owner can do."""
# A detail may quote the text, and that may be megabytes.
MAX_DETAIL = 200


class TextError(ValueError):
    """Some text cannot be used, and the run was told to stop at that."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
      kind: one of `KINDS`.
      path: the file.
      line: from 1; rows and records count as lines. None where the whole file is meant.
      detail: what was found, or "".
    """

    kind: str
    path: str
    line: int | None
    detail: str = ""

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path}, line {self.line}"
        return f"{place}: {KINDS[self.kind][0]}" + (f" ({self.detail})" if self.detail else "")


def shortened(detail: str) -> str:
    """Cuts what is longer than `MAX_DETAIL` characters."""
    return detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 3]}..."


class Problems:
    """Counts every problem, and either keeps a few of each kind or stops at the first.

    Attributes:
      counts: kind -> number of problems, all of them.
      examples: the first `keep` problems of each kind, in the order found.
    """

    def __init__(self, on_problem: str = "skip", keep: int = 20) -> None:
        """Starts with none.

        Args:
          on_problem: "skip" leaves out what is wrong and goes on; "stop" raises TextError.
          keep: how many examples of each kind to keep, at least 0.
        """
        if on_problem not in ("skip", "stop"):
            raise ValueError(
                f"on_problem is {on_problem!r}; it must be 'skip' (leave out, count and go on) or "
                "'stop' (raise at the first problem)."
            )
        if keep < 0:
            raise ValueError(f"keep is {keep}; give the number of examples to keep, 0 or more.")
        self.on_problem = on_problem
        self.keep = keep
        self.counts: dict[str, int] = {}
        self.examples: list[Problem] = []

    def add(self, kind: str, path: str, line: int | None, detail: str = "") -> None:
        """Counts one problem; see `Problem` for the arguments.

        Raises:
          TextError: where on_problem is "stop"; it names file, line and remedy.
          ValueError: if the kind is not one of `KINDS`.
        """
        if kind not in KINDS:
            raise ValueError(f"There is no kind of problem {kind!r}; use one of {sorted(KINDS)}.")
        problem = Problem(kind, str(path), line, shortened(detail))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= self.keep:
            self.examples.append(problem)
        if self.on_problem == "stop":
            raise TextError(
                f"{problem}; {KINDS[kind][1]}, or set on_problem='skip' to leave out, count and "
                "report whatever is like this."
            )

    def as_json(self) -> dict[str, Any]:
        """Gives counts, sorted by kind, and examples as an object for `json`."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "examples": [asdict(problem) for problem in self.examples],
        }

    @staticmethod
    def merged(reports: Sequence[Mapping[str, Any]], keep: int = 20) -> dict[str, Any]:
        """Adds up what `as_json` gave for the parts of a whole, in their order.

        The result is the same however the parts were spread over workers: what `as_json` would
        give had one `Problems` with this `keep`, which is the parts' own or less, seen them all.
        """
        whole = Problems(keep=keep)
        kept: Counter[str] = Counter()
        for report in reports:
            for kind, count in report["counts"].items():
                whole.counts[kind] = whole.counts.get(kind, 0) + count
            for example in report["examples"]:
                kept[example["kind"]] += 1
                if kept[example["kind"]] <= keep:
                    whole.examples.append(Problem(**example))
        return whole.as_json()
