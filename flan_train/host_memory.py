"""How a process on a CPU keeps the memory that it has freed.

A training step on the CPU frees and takes again gigabytes of temporary arrays. By default the C
library hands large pieces back to the system and gets them anew, which zeroes every page; large
products wait for that longer than they compute.
"""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h: nothing may be mapped piece by piece, the heap is not trimmed, and it grows
# by so many bytes.
_SETTINGS = ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20))


def keep_freed() -> bool:
    """Makes this process keep the memory it frees, and returns whether the C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return all(mallopt(name, value) == 1 for name, value in _SETTINGS)
