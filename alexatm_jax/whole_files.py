"""Writes files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes beside the path, then renames, so that no reader sees half a file.

    Args:
      path: file to write or replace; its folder is made if need be.
      content: the bytes, or what writes them to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Machines that share a folder have processes of like numbers; in containers most are alike.
    writer = f"{socket.gethostname()}.{os.getpid()}"
    draft = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        if isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            content(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes one JSON object for people and programs; NaN and infinities are refused."""
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    write_whole(path, f"{text}\n".encode())


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line; NaN and infinities are refused."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_whole(path, "".join(lines).encode())


def sync(path: Path) -> None:
    """Waits until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
