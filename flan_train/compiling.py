"""Compiling loops over arrays with numba; imported by modules of such loops alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function compiled when it is first called, without Python's lock.

    The code is kept beside the function's file, or in the user's cache folder where the
    installation is read-only.
    """
    try:
        kept: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written to: compile in every process
        return numba.njit(nogil=True)(function)
    save = kept._cache.save_overload

    def save_if_possible(*arguments: Any) -> None:
        # It is compiled by then, and must not fail because a disk is full.
        with contextlib.suppress(OSError):
            save(*arguments)

    kept._cache.save_overload = save_if_possible
    return kept
