"""The compiled loop of `checkpoint_checksums`: one pass over the words, as fast as memory is read.

Imported only when sums are formed on the host: numba takes half a second to load.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint32

from flan_train.compiling import compiled

A, B, C = 0x9E3779B1, 0x7F4A7C15, 0x85EBCA6B  # A and C are odd


@compiled
def sums(words: np.ndarray, firsts: np.ndarray) -> tuple[Any, Any]:
    """Returns the two sums of rows of words, modulo 2^32.

    Args:
      words: [rows, count], unsigned, of 8, 16 or 32 bits.
      firsts: [rows], uint32, the place of each row's first word.
    """
    linear, mixed = uint32(0), uint32(0)
    for row in range(words.shape[0]):
        first = uint32(firsts[row] * uint32(A) + uint32(B))
        for place in range(words.shape[1]):
            word = uint32(words[row, place])
            key = uint32(first + uint32(place) * uint32(A))
            linear = uint32(linear + word * (key | uint32(1)))
            x = uint32(word ^ key)
            x = uint32((x ^ (x >> uint32(16))) * uint32(C))
            mixed = uint32(mixed + (x ^ (x >> uint32(15))))
    return linear, mixed
