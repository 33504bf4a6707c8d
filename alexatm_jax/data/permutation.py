"""Shuffles the numbers below any size, one at a time."""

from __future__ import annotations

import hashlib
import math

_ROUNDS = 4
_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio: spreads neighbours far apart


class Permutation:
    """A random-looking permutation of 0 to size - 1 of which nothing is kept but its keys.

    A Feistel network: a number is written as two digits, and each in turn is shifted by a hash
    of the other, which can be undone, so no two numbers meet. Digits to the bases a and b with
    a b a little above `size` take numbers of just these sizes; one that ends up outside goes
    through again until it does not (cycle walking, Black and Rogaway, CT-RSA 2002).

    Args:
      size: how many numbers there are, from 1 to 2**64.
      key: another gives another permutation.

    Raises:
      ValueError: if the size is out of range.
    """

    def __init__(self, size: int, key: str) -> None:
        if not 1 <= size <= _MASK + 1:
            raise ValueError(f"{size} numbers cannot be shuffled; give a size from 1 to 2**64.")
        self._size = size
        self._high = math.isqrt(size - 1) + 1
        self._low = -(-size // self._high)
        digest = hashlib.blake2b(key.encode(), digest_size=16 * _ROUNDS).digest()
        words = [int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8)]
        self._keys = list(zip(words[::2], words[1::2], strict=True))

    def __call__(self, index: int) -> int:
        """Gives the number at a place of the order, both in [0, size)."""
        size, base_high, base_low = self._size, self._high, self._low
        number = index
        while True:
            high, low = divmod(number, base_low)
            for key_high, key_low in self._keys:
                high = (high + _hash(low ^ key_high)) % base_high
                low = (low + _hash(high ^ key_low)) % base_low
            number = high * base_low + low
            if number < size:
                return number


def _hash(value: int) -> int:
    """Mixes 64 bits; the lower half of the result depends on all of them."""
    value = value * _ODD & _MASK
    value = (value ^ value >> 32) * _ODD & _MASK
    return value >> 32
