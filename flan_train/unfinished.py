"""The folders beside a destination that something is made in until it is whole."""

from __future__ import annotations

import glob
import os
import pathlib
import shutil
import time

# One that nothing was written to for so long is nobody's any more, whatever its process's number.
_SECONDS = 3600


def beside(destination: pathlib.Path, doing: str) -> pathlib.Path:
    """Returns where this process is to make a folder, which is not there yet.

    What a process that was killed has left of the same destination is removed.

    Args:
      destination: the name it gets when it is whole.
      doing: a word for the folder's name, such as "writing".
    """
    own = destination.with_name(f".{destination.name}.{doing}-{os.getpid()}")
    shutil.rmtree(own, ignore_errors=True)
    for left in destination.parent.glob(f".{glob.escape(destination.name)}.{doing}-*"):
        number = left.name.rpartition("-")[2]
        if number.isdecimal() and not _is_running(int(number)) and _idle(left) > _SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    return own


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _idle(folder: pathlib.Path) -> float:
    """Returns the seconds since something in a folder changed; 0 where it is going away."""
    try:
        return time.time() - max(p.stat().st_mtime for p in (folder, *folder.rglob("*")))
    except OSError:
        return 0.0
