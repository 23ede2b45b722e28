"""Random draws that are the same on every machine and with every library version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_WORDS_PER_DIGEST = 8


class Draw:
    """A stream of draws that depends on nothing but the key.

    Words of 64 bits come from BLAKE2b over (key, block number). NumPy's and Python's generators
    promise their bits but not what `choice` or `shuffle` make of them in a later version; rows
    that evaluation scores refer to must never change in silence.
    """

    def __init__(self, *key: str | int) -> None:
        self._key = "\x00".join(str(part) for part in key).encode()
        self._block = 0
        self._words: list[int] = []

    def _word(self) -> int:
        if not self._words:
            digest = hashlib.blake2b(self._key + b"\x00%d" % self._block).digest()
            self._block += 1
            self._words = [
                int.from_bytes(digest[8 * i : 8 * i + 8], "little")
                for i in range(_WORDS_PER_DIGEST)
            ]
        return self._words.pop()

    def below(self, bound: int) -> int:
        """Returns an integer in [0, bound), every one equally likely to within bound / 2**64."""
        return self._word() * bound >> 64

    def between(self, low: int, high: int) -> int:
        """Returns an integer in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def coin(self) -> bool:
        """Returns True or False, equally likely."""
        return self.below(2) == 1

    def pick(self, values: Sequence[T]) -> T:
        """Returns one of the values."""
        return values[self.below(len(values))]

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """Returns `count` different positions' values in a random order."""
        pool = list(values)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """Returns all the values in a random order."""
        return self.sample(values, len(values))
