"""What took long to find out about a file, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from flan_train.tasks import sources

# Smaller files are read again: that takes less than a tenth of a second.
LARGE_FILE = 32 << 20


def folder() -> pathlib.Path:
    """Returns where it is kept: `flan_train` in XDG_CACHE_HOME, else in ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(named) if named else pathlib.Path.home() / ".cache") / "flan_train"


def remembered(kind: str, key: object, compute: Callable[[], Any]) -> Any:
    """Returns what `compute` returns, computed once for a key on this machine.

    A cache that cannot be read or written is done without.

    Args:
      kind: what is remembered, such as "rows".
      key: all that it depends on; its repr is what counts.
      compute: gives something that JSON holds.
    """
    name = hashlib.sha256(f"{kind}\x00{key!r}".encode()).hexdigest()
    path = folder() / kind / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return json.loads(path.read_text(encoding="utf-8"))["value"]
    value = compute()
    text = json.dumps({"key": repr(key), "value": value})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole: two processes may find out the same at once.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)
    return value


def content_hash(path: pathlib.Path) -> str:
    """Returns the hex sha256 of a file's bytes; of a large one it is remembered.

    Raises:
      UserError: the file cannot be read.
    """
    key = sources.file_key(path)
    if key[2] < LARGE_FILE:
        return sources.content_hash(path)
    found = remembered("sha256", key, lambda: sources.content_hash(path))
    return str(found)
