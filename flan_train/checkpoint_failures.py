"""What Orbax and TensorStore raise and print when a checkpoint cannot be written."""

from __future__ import annotations

import glob
import logging
import pathlib
import shutil
import sys
import time
import traceback
from typing import Any

from flan_train.checkpoint_names import UNFINISHED

# What saving raises when the disk is full, read-only or gone: TensorStore knows ValueError alone.
WRITING = (OSError, ValueError, RuntimeError)

# How often what is left of a failed save is looked for, and how often it must not be there.
_LOOKS, _AWAY, _SECONDS_BETWEEN_LOOKS = 100, 5, 0.02

_orbax_log, _asyncio_log = logging.getLogger("absl"), logging.getLogger("asyncio")


def _without_tracebacks(record: logging.LogRecord) -> bool:
    # What its threads fail at is raised to us as well, and told in a readable way.
    return not (record.exc_info and "orbax" in record.pathname)


def _without_other_writes(record: logging.LogRecord) -> bool:
    # Of many writes that fail Orbax raises the first, and leaves the others to asyncio's log.
    message = record.getMessage()
    if "exception was never retrieved" not in message and "Task was destroyed" not in message:
        return True
    trace = record.exc_info[2] if record.exc_info else None
    places = [frame.filename for frame in traceback.extract_tb(trace)]
    return not any("orbax" in text for text in (message, *places))


class _WithoutClosedLoops:
    """What Python calls with errors that nobody can catch, but for one of TensorStore's threads.

    Where one write fails, Orbax closes the event loop that the others would be told to; each of
    them would print a traceback.
    """

    def __init__(self) -> None:
        self._before = sys.unraisablehook

    def __call__(self, unraisable: Any) -> None:
        if unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed":
            return
        self._before(unraisable)


def told_once() -> None:
    """Keeps off the terminal what they print of errors that they raise as well."""
    _orbax_log.addFilter(_without_tracebacks)
    _asyncio_log.addFilter(_without_other_writes)
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops()


def remove_unfinished(path: pathlib.Path) -> None:
    """Removes what a save that failed has left of the folder `path`, under Orbax's names for it."""
    remove_left(path.parent, f"{path.name}{UNFINISHED}")


def remove_left(parent: pathlib.Path, name: str) -> None:
    """Removes the folders whose names begin so, until they stay away for a tenth of a second.

    TensorStore ends what it has begun when a save fails, and for that makes folders again which are
    there no more. After some seconds the removal is given up.
    """
    away = 0
    for _ in range(_LOOKS):
        there = list(parent.glob(f"{glob.escape(name)}*"))
        for path in there:
            shutil.rmtree(path, ignore_errors=True)
        away = 0 if there else away + 1
        if away == _AWAY:
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)
