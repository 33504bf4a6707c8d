"""Reads the lines of big files, in byte ranges, with bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What does not count as text of the line: a byte order mark and a carriage return.
SLACK_BYTES = len(BYTE_ORDER_MARK) + len(b"\r")


def read_blocks(file: BinaryIO, num_bytes: int | None = None) -> Iterator[bytes]:
    """Gives the next `num_bytes` bytes of a file, or all that are left, in blocks.

    Reads at most one block ahead, so that bytes before some damage arrive before its exception.
    """
    left = num_bytes
    while left is None or left > 0:
        block = file.read1(BLOCK_BYTES if left is None else min(BLOCK_BYTES, left))  # type: ignore[attr-defined]
        if not block:
            return
        left = None if left is None else left - len(block)
        yield block


def split_lines(blocks: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """Joins blocks and splits them at line feeds, which it drops.

    A line of more than `max_bytes`, a byte order mark and a carriage return not counted, may
    come cut, to no less than one byte more than that: enough to see that it is too long. Held at
    any time are one block and one line.
    """
    keep = max_bytes + SLACK_BYTES + 1
    line = bytearray()
    for block in blocks:
        first, *others = block.split(b"\n")
        line += first[: max(0, keep - len(line))]
        if others:
            yield bytes(line)
            yield from others[:-1]
            line = bytearray(others[-1][:keep])
    if line:
        yield bytes(line)


def line_start(file: BinaryIO, position: int) -> int:
    """Finds where the first line begins that begins at `position` or later.

    Returns:
      Its offset; the file's end where no line begins so late.
    """
    if position == 0:
        return 0
    file.seek(position - 1)
    begin = position - 1
    for block in read_blocks(file):
        found = block.find(b"\n")
        if found >= 0:
            return begin + found + 1
        begin += len(block)
    return begin


def lines_in_range(
    file: BinaryIO, start: int, stop: int, max_bytes: int
) -> tuple[int, Iterator[bytes]]:
    """Reads the lines that begin in a byte range, the last one whole, as `split_lines` does.

    Ranges side by side thus share no line and lose none, wherever they are cut.

    Returns:
      The offset at which the first of them begins, and the lines.

    Raises:
      EOFError: if the file ends before the range does.
    """
    if file.seek(0, os.SEEK_END) < stop:
        raise EOFError(f"the file ends before byte {stop}, which it had when it was listed")
    begin, end = line_start(file, start), line_start(file, stop)
    file.seek(begin)
    return begin, split_lines(read_blocks(file, max(0, end - begin)), max_bytes)


def line_number_at(path: str, offset: int) -> int:
    """Counts, from 1, to the line that begins at a byte offset; reads all before it."""
    with open(path, "rb") as file:
        return 1 + sum(block.count(b"\n") for block in read_blocks(file, offset))
