"""What the processes of a run settle among themselves: done by all of them or by none.

A process that raises while the others go on leaves them waiting in their next collective. Each
function here is one exchange between all processes, and all of them must call it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from flan_train.errors import UserError

T = TypeVar("T")

_BLOCK = 1024  # sizes are rounded up to it, or each length would be a program of its own
_LONGEST = 4000  # characters of a part of a message that others are told


def exchange(value: Any) -> list[Any]:
    """Returns what each process gave, by their numbers.

    Args:
      value: anything JSON holds.
    """
    if jax.process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    raw = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(raw.size))).reshape(-1)
    padded = np.zeros(-(-int(sizes.max()) // _BLOCK) * _BLOCK, np.uint8)
    padded[: raw.size] = raw
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [
        json.loads(row[:size].astype(np.uint8).tobytes())
        for row, size in zip(rows, sizes, strict=True)
    ]


def together(act: Callable[[], T], mild: type[UserError] | None = None) -> T:
    """Returns what `act` gives here, once it has succeeded in every process.

    Args:
      act: calls nothing that waits for the other processes.
      mild: an error made from (what, where), which is raised in all only where no process has
        another one.

    Raises:
      UserError: it failed in another process alone; the message names it.
    """
    return _settled(act, mild, lambda found: None)[0]


def of_first(act: Callable[[], Any]) -> Any:
    """Returns what `act` gives in process 0, once it has succeeded in every process.

    Args:
      act: as in `together`; what it returns in process 0 is something that JSON holds.

    Raises:
      UserError: as `together`.
    """
    if jax.process_count() == 1:
        return act()
    first = jax.process_index() == 0
    return _settled(act, None, lambda found: found if first else None)[1][0]


def _settled(
    act: Callable[[], T], mild: type[UserError] | None, shown: Callable[[T], Any]
) -> tuple[T, list[Any]]:
    """Returns what `act` gives here, and what each process shows of it."""
    if jax.process_count() == 1:
        return act(), []
    failed: Exception | None = None
    outcome: dict[str, Any] = {}
    try:
        found = act()
        outcome["shown"] = shown(found)
    except Exception as error:  # raised below, when the others know
        failed = error
        outcome = {"mild": mild is not None and isinstance(error, mild), "told": _told(error)}
    outcomes = exchange(outcome)
    failures = [(index, one) for index, one in enumerate(outcomes) if "told" in one]
    if not failures:
        return found, [one["shown"] for one in outcomes]
    index, worst = next(((i, one) for i, one in failures if not one["mild"]), failures[0])
    if failed is not None and outcome["mild"] == worst["mild"]:
        raise failed
    what, where, expected, fix = worst["told"]
    if worst["mild"] and mild is not None:
        raise mild(f"process {index}: {what}", where)  # type: ignore[call-arg]
    raise UserError(f"process {index}: {what}", where=where, expected=expected, fix=fix) from failed


def _told(error: Exception) -> list[str]:
    if isinstance(error, UserError):
        parts = [error.what, error.where, error.expected, error.fix]
    else:
        look = "look at the output of that process"
        parts = [f"{type(error).__name__}: {error}", "", "no such error", look]
    return [part[:_LONGEST] for part in parts]
