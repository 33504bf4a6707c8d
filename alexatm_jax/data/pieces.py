"""Cuts a long token sequence into pieces."""

from __future__ import annotations

import numpy as np


def even_pieces(tokens: np.ndarray, longest: int) -> list[np.ndarray]:
    """Cuts tokens into the fewest pieces of at most `longest`, equal to within one token.

    Even pieces leave no remainder of a token or two, which no objective could use. Nothing
    is lost: the pieces are consecutive and join to `tokens`. No tokens, no pieces.
    """
    if len(tokens) <= longest:
        return [tokens] if len(tokens) else []
    return np.array_split(tokens, -(-len(tokens) // longest))
