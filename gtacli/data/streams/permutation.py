"""Random orders of very many numbers, computed number by number and without a table.

A Feistel network is a bijection of the numbers below a power of four; where it leaves the range, it
is applied again ("cycle walking": Black and Rogaway, 2002). Few numbers have a table, whose order
is drawn from all orders equally.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

_TABLE = 1 << 17
"""Numbers that have a table."""
_ROUNDS = 6
_WORD = (1 << 64) - 1


class Permutation:
    """A random order of the numbers from 0 to `count` - 1.

    Args:
        count: at least 1.
        seed: integers of which the order is a function.
    """

    def __init__(self, count: int, *seed: int) -> None:
        self._count = count
        words = [word & _WORD for word in seed]
        self._table = None
        if count <= _TABLE:
            order = np.random.default_rng(words).permutation(count)
            self._table = order.astype(np.uint32)
            return
        text = " ".join(map(str, words)).encode()
        self._keys = [
            hashlib.blake2b(text, digest_size=32, salt=bytes([number])).digest()
            for number in range(_ROUNDS)
        ]
        self._half = ((count - 1).bit_length() + 1) // 2  # bits

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> int:
        """Return the number at a place, from 0."""
        if not 0 <= place < self._count:
            raise IndexError(place)
        if self._table is not None:
            return int(self._table[place])
        number = self._mix(place)
        while number >= self._count:
            number = self._mix(number)
        return number

    def _mix(self, number: int) -> int:
        half = self._half
        left, right = number >> half, number & ((1 << half) - 1)
        for key in self._keys:
            found = hashlib.blake2b(right.to_bytes(8, "little"), digest_size=8, key=key).digest()
            mixed = int.from_bytes(found, "little") & ((1 << half) - 1)
            left, right = right, left ^ mixed
        return left << half | right


@lru_cache(maxsize=8)
def permutation(count: int, *seed: int) -> Permutation:
    """Return the permutation of these arguments; the last ones are kept in memory."""
    return Permutation(count, *seed)
