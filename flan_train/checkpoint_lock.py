"""Who writes a run's checkpoints: one process at a time holds `MODEL_DIR/checkpoints.lock`.

The lock is the kernel's (flock): a process that is killed holds it no more, though the file stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator

from flan_train.errors import UserError

log = logging.getLogger(__name__)

_ENDING = ".lock"
_SECONDS = 1.0  # a process that only looks whether it is free holds it for a moment


class Lock:
    """The lock of a folder of checkpoints; not held until `take`.

    Args:
      folder: `MODEL_DIR/checkpoints`; the file lies beside it.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._path = folder.with_name(folder.name + _ENDING)
        self._file: io.FileIO | None = None

    def take(self) -> None:
        """Takes the lock, if it is not held already; makes the file.

        Where the file system knows no locks it warns, and all is as if there were none.

        Raises:
          UserError: another process holds it.
          OSError: the file cannot be made.
        """
        if self._file is not None and self._is_named(self._file):
            return
        self.release()
        deadline = time.monotonic() + _SECONDS
        while True:
            file = io.FileIO(
                os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+"
            )
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(file)
                file.close()
                if time.monotonic() > deadline:
                    raise self._held(holder) from None
                time.sleep(_SECONDS / 20)
                continue
            except OSError as error:
                log.warning(
                    "%s cannot be locked (%s): take care that no other process writes there",
                    self._path,
                    error.strerror,
                )
            # Whoever held it before may have removed the file since it was opened.
            if self._is_named(file):
                break
            file.close()
        self._file = file
        with contextlib.suppress(OSError):  # who it is, is said where the disk has room for it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Gives the lock back and removes its file; nothing where it is not held."""
        file, self._file = self._file, None
        if file is None:
            return
        with file:
            if self._is_named(file):
                with contextlib.suppress(OSError):
                    self._path.unlink()

    def check_free(self) -> None:
        """Raises UserError while another process holds the lock; makes nothing."""
        if self._file is not None:
            return
        try:
            file = io.FileIO(self._path, "r")
        except OSError:  # there is none
            return
        with file:
            try:
                # Shared: one that looks does not turn away another that looks.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._held(_holder(file)) from None
            except OSError:  # no locks here; `take` says so
                return

    def _is_named(self, file: io.FileIO) -> bool:
        """Returns whether the lock's name still leads to an open file."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _held(self, holder: str) -> UserError:
        return UserError(
            "another process writes checkpoints of this run",
            where=f"{self._path}, held by {holder}",
            expected="one run at a time in a MODEL_DIR, and none while its checkpoints are pruned",
            fix="wait until that process has ended, or end it",
        )


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a folder of checkpoints; without it where its file cannot be made.

    Raises:
      UserError: another process holds it.
    """
    lock = Lock(folder)
    lock.check_free()
    with contextlib.suppress(OSError):  # a full disk, of which something is to be removed
        lock.take()
    try:
        yield
    finally:
        lock.release()


def _holder(file: io.FileIO) -> str:
    return os.pread(file.fileno(), 300, 0).decode(errors="replace").strip() or "another process"
