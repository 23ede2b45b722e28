"""Whether arrays can be what they are said to be: nothing is allocated for shapes before that."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from flan_train.errors import UserError

# zstd, gzip and blosc make no input smaller than this; zstd, the densest, by 43,691 times.
_DENSEST = 50_000
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_stored(folder: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Raises ValueError when a folder has too few bytes to hold its arrays.

    Args:
      folder: with all its files, however deep.
      arrays: path -> what has a `shape` and a `dtype`.
    """
    files = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    for name, array in arrays.items():
        count = math.prod(int(size) for size in array.shape)
        if count > files * _DENSEST:
            raise ValueError(
                f"{name} has the shape {[int(size) for size in array.shape]}, which files of "
                f"{files:,} bytes cannot hold"
            )


def check_memory(count: int, where: str) -> None:
    """Raises UserError when so many bytes do not fit into this machine's memory."""
    there = _memory()
    if count > there:
        raise UserError(
            f"the arrays take {count / 2**30:,.1f} GiB, and this machine has "
            f"{there / 2**30:,.1f} GiB of memory",
            where=where,
            expected="arrays that can be read whole",
            fix="do it on a larger machine; if no model is that large, copy the checkpoint anew",
        )


def _memory() -> int:
    """Returns the bytes of memory this process can have."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _MEMORY_LIMITS:
        try:
            found = min(found, int(pathlib.Path(name).read_text("ascii")))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return found
