"""Sends a signal to this process as soon as something is so on disk: runs that are stopped."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Iterator

from flan_train import interruption


def lines(path: pathlib.Path) -> int:
    """Returns the whole lines of a file; 0 without it."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@contextlib.contextmanager
def signalled(
    when: Callable[[], bool], number: int = signal.SIGTERM
) -> Iterator[interruption.Notice]:
    """Handles signals while inside; sends one to this process once `when()` holds."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.0005):
            if when():
                os.kill(os.getpid(), number)
                return

    watcher = threading.Thread(target=watch)
    with interruption.handled() as notice:
        watcher.start()
        try:
            yield notice
        finally:
            ended.set()
            watcher.join()
