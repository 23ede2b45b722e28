"""The cut of a held-out set in two: the part to choose by, and the part to report."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection


def validation_ids(ids: Collection[str]) -> frozenset[str]:
    """Returns the ids of the validation part: a quarter, rounded up, with the smallest hashes.

    The others are the test part. It depends on the ids alone: not on their order, not on a seed.

    >>> sorted(validation_ids(["a", "b", "c", "d", "e"]))
    ['c', 'e']

    Args:
      ids: the examples of one file or set, each once.
    """
    return frozenset(heapq.nsmallest(-(-len(ids) // 4), ids, key=_hash))


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
