"""What the benchmarks' commands share: a table for people, one JSON object for programs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.timing import BenchmarkError

Result = dict[str, Any]


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Makes the parser of `python -m benchmarks.NAME`, with `--json`."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    made.add_argument("--json", action="store_true", help="end with one JSON object on one line")
    return made


def run(
    arguments: Sequence[str] | None,
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Result],
    table: Callable[[Mapping[str, Any]], str],
    more: Callable[[argparse.Namespace], str] | None = None,
) -> int:
    """Measures, prints a table and, if asked, one JSON object on the last line.

    Args:
      more: gives what is printed behind the table, once that is safe; "" for nothing.

    Returns:
      The exit code: 0, or 2 if something is wrong with the input.
    """
    options = parser.parse_args(arguments)
    try:
        result = measure(options)
    except (BenchmarkError, ValueError, OSError) as error:
        print(f"{parser.prog.removeprefix('python -m ')}: {error}", file=sys.stderr)
        return 2
    print(table(result))
    if more is not None and (text := more(options)):
        print(text)
    if options.json:
        print(json.dumps(result))
    return 0


def aligned(
    columns: Sequence[str], rows: Mapping[str, Sequence[str]], *, heading: str = "", width: int = 14
) -> list[str]:
    """Renders rows of figures under their columns: a line each, the columns' names first."""
    names = max(len(name) for name in (heading, *rows))

    def line(name: str, figures: Sequence[str]) -> str:
        return name.ljust(names) + "".join(figure.rjust(width) for figure in figures)

    return [line(heading, columns), *(line(name, figures) for name, figures in rows.items())]


def gibibytes(count: int | None) -> str:
    """Renders an amount of memory, "?" if it is not known."""
    return "?" if count is None else f"{count / 2**30:.2f}"


def rate_over(times: float | None) -> str:
    """Renders a ratio, nothing where there is none."""
    return "" if times is None else f"{times:.2f}"
