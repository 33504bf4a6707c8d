"""Cuts a long token sequence into pieces."""

from __future__ import annotations

import numpy as np


def first_piece(length: int, longest: int) -> int:
    """Says how long the first is of the fewest pieces of at most `longest` tokens.

    All are equal to within one token, so there is no remainder of a token or two, which no
    objective could use. What is left, cut anew, makes the other pieces: where a cut is depends on
    nothing before it.
    """
    fewest = -(-length // longest)
    return -(-length // fewest)


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
