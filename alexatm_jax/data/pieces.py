"""Cuts a long token sequence into pieces."""

from __future__ import annotations

import numpy as np


def num_pieces(length: int, longest: int) -> int:
    """Counts the fewest pieces of at most `longest` tokens that `length` tokens make."""
    return -(-length // longest)


def piece_bounds(length: int, longest: int, index: int) -> tuple[int, int]:
    """Says where piece `index` of `num_pieces` begins and ends; all are equal to within one token.

    Even pieces leave no remainder of a token or two, which no objective could use.
    """
    size, longer = divmod(length, num_pieces(length, longest))
    begin = index * size + min(index, longer)
    return begin, begin + size + (index < longer)


def even_pieces(tokens: np.ndarray, longest: int) -> list[np.ndarray]:
    """Cuts tokens into those pieces, which are consecutive and join to `tokens`.

    No tokens, no pieces.
    """
    bounds = [
        piece_bounds(len(tokens), longest, index)
        for index in range(num_pieces(len(tokens), longest))
    ]
    return [tokens[begin:end] for begin, end in bounds]
