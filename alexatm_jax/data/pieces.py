"""Cuts a long token sequence into pieces."""

from __future__ import annotations

import numpy as np


def num_pieces(length: int, longest: int) -> int:
    """Counts the fewest pieces of at most `longest` tokens that `length` tokens make."""
    return -(-length // longest)


def first_piece(length: int, longest: int) -> int:
    """Says how long the first of these pieces is; all are equal to within one token.

    What is left, cut anew, makes the other pieces, so where a cut is depends on nothing before it.
    Even pieces leave no remainder of a token or two, which no objective could use.
    """
    return -(-length // num_pieces(length, longest))


def even_pieces(tokens: np.ndarray, longest: int) -> list[np.ndarray]:
    """Cuts tokens into those pieces, which are consecutive and join to `tokens`.

    No tokens, no pieces.
    """
    pieces, begin = [], 0
    while begin < len(tokens):
        end = begin + first_piece(len(tokens) - begin, longest)
        pieces.append(tokens[begin:end])
        begin = end
    return pieces
