"""Finds the files that patterns mean, and the copies among them."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from alexatm_jax.text.byte_lines import BLOCK_BYTES, read_blocks


def matching_files(patterns: Iterable[str]) -> list[str]:
    """Lists the files that paths or globs (`**` for any folders) match, each once.

    They come pattern by pattern, and sorted by path within each.

    Raises:
      ValueError: if a pattern matches no file, naming what is there, or is a folder, or if a name
        is not UTF-8.
    """
    paths: dict[str, None] = {}
    for pattern in patterns:
        found = [pattern] if os.path.isfile(pattern) else _matches(pattern)
        if not found:
            raise ValueError(_nothing_found(pattern))
        paths.update(dict.fromkeys(found))
    for path in paths:
        _check_name(path)
    return list(paths)


def _check_name(path: str) -> None:
    """Units and reports are JSON, which is UTF-8; a name on a disk need not be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"The name {path!r} is not UTF-8; rename the file.") from None


def _matches(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        raise ValueError(
            f"{pattern!r} is a folder; say which of its files, as in "
            f"{os.path.join(pattern, '**', '*.jsonl.gz')!r}. It has {_names_in(pattern)}."
        )
    # A link to nowhere is kept: whoever reads it reports it.
    return sorted(path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path))


def _nothing_found(pattern: str) -> str:
    folder = Path(pattern).parent
    while not os.path.isdir(folder):
        folder = folder.parent
    return (
        f"No file matches {pattern!r}. The nearest folder there is, {str(folder)!r}, has "
        f"{_names_in(folder, like=Path(pattern).name)}; mend the pattern, or make the files."
    )


def _names_in(folder: str | Path, like: str = "", most: int = 5) -> str:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"names that cannot be listed ({error.strerror})"
    shown = get_close_matches(like, names, n=most, cutoff=0.5) or names[:most]
    more = ", ..." if len(names) > len(shown) else ""
    return ", ".join(map(repr, shown)) + more if names else "nothing in it"


def file_bytes(path: str) -> int:
    """Gives a file's size; 0 for one that cannot be read, which its reader will report."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def copies_among(paths: Sequence[str]) -> dict[str, str]:
    """Maps each file with the same bytes as an earlier one to the first such file.

    Only files with the same size and first block are read whole: shards of equal size may make a
    corpus of terabytes. Empty files are no copies.
    """
    groups = [[path for path in paths if file_bytes(path) > 0]]
    for key in (file_bytes, partial(_sha256, num_bytes=BLOCK_BYTES), _sha256):
        groups = [alike for group in groups for alike in _alike(group, key)]
    first_of = {path: alike[0] for alike in groups for path in alike[1:]}
    return {path: first_of[path] for path in paths if path in first_of}


def _alike(paths: Sequence[str], key: Callable[[str], object]) -> list[list[str]]:
    """Groups the files that share their key with others."""
    by_key = defaultdict(list)
    for path in paths:
        by_key[key(path)].append(path)
    return [group for group in by_key.values() if len(group) > 1]


def _sha256(path: str, num_bytes: int | None = None) -> bytes:
    """Hashes the content, or its beginning; the path where that cannot be read: it has no copy."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for block in read_blocks(file, num_bytes):
                digest.update(block)
    except OSError:
        return path.encode()
    return digest.digest()
