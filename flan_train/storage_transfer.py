"""Whole folders copied to an object store and back; temporary copies for those that need one."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from flan_train import storage
from flan_train.errors import UserError, not_written
from flan_train.storage import MARKS, RemotePath

_IN_FLIGHT_BYTES = 512 * 2**20
_IN_FLIGHT = 32


def upload(folder: pathlib.Path, destination: RemotePath) -> int:
    """Copies a local folder to a new one in an object store; returns the bytes.

    The files that make it a whole checkpoint come last, and nothing is left of a failed copy.

    Raises:
      UserError: something is there already, or it cannot be written.
    """
    check_new(destination)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names.sort(key=_mark)
    objects = storage.store(destination.scheme, destination.bucket)
    waiting: list[Any] = []
    total = in_flight = 0
    try:
        for name in names:
            if _mark(name) or in_flight > _IN_FLIGHT_BYTES or len(waiting) >= _IN_FLIGHT:
                for write in waiting:
                    write.result()
                waiting, in_flight = [], 0
            content = (folder / name).read_bytes()
            waiting.append(objects.write(f"{destination.key}/{name}", content))
            total, in_flight = total + len(content), in_flight + len(content)
        for write in waiting:
            write.result()
    except (ValueError, OSError) as error:
        for write in waiting:
            write.exception()
        failed = storage.refused(destination, error) if isinstance(error, ValueError) else None
        # What cannot be written to cannot be removed from either; the first error counts.
        with contextlib.suppress(UserError, ValueError):
            destination.remove()
        raise failed or not_written("the folder", str(destination), error) from error
    return total


def download(source: RemotePath, folder: pathlib.Path) -> int:
    """Copies a folder of an object store to a new local one; returns the bytes.

    Raises:
      UserError: nothing is there, an object's name leads out of the folder, or it cannot be read.
      OSError: the local folder cannot be written.
    """
    names = [name for name in source.files() if not name.endswith("/")]
    if not names:
        raise UserError(f"there is nothing at {source}", expected="a folder", fix="correct it")
    check_names(names, str(source))
    objects, total = storage.store(source.scheme, source.bucket), 0
    folder.mkdir(parents=True)
    try:
        for start in range(0, len(names), _IN_FLIGHT // 4):
            some = names[start : start + _IN_FLIGHT // 4]
            reads = [objects.read(f"{source.key}/{name}") for name in some]
            for name, read in zip(some, reads, strict=True):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                total += path.write_bytes(read.result().value)
    except ValueError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise storage.refused(source, error) or error from None
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return total


def _mark(name: str) -> int:
    """Returns 0 for most files, more for one that makes a folder whole: the most for the last."""
    ends = [name == mark or name.endswith(f"/{mark}") for mark in MARKS]
    return len(MARKS) - ends.index(True) if any(ends) else 0


def check_new(destination: RemotePath) -> None:
    """Raises UserError when something is there already, or the store cannot be reached."""
    if not destination.key:
        raise UserError(f"{destination} is a whole bucket", expected="a folder in it")
    if destination.exists():
        raise UserError(
            f"{destination} exists already", expected="a new folder", fix="name another"
        )


def check_names(names: Iterable[str], where: str) -> None:
    """Raises UserError for a name of a file that would lie outside of the folder it belongs in."""
    for name in names:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
            raise UserError(
                f"{where} has an object of the name {name[:120]!a}, outside of the folder",
                expected="names that can be files of a folder",
                fix="fetch it with the store's own tools, and look at what it is",
            )


@contextlib.contextmanager
def fetched(path: storage.AnyPath) -> Iterator[pathlib.Path]:
    """Gives a local folder with what a path names: itself, or a copy for as long as it is needed.

    The copy lies in TMPDIR.

    Raises:
      UserError: a folder of an object store that cannot be read, or for which there is no room.
    """
    there = storage.located(path)
    if isinstance(there, pathlib.Path):
        yield there
        return
    with tempfile.TemporaryDirectory(prefix="flan_train_") as folder:
        local = pathlib.Path(folder) / there.name
        try:
            download(there, local)
        except OSError as error:
            raise not_written("the temporary copy", local, error) from error
        yield local


@contextlib.contextmanager
def delivered(path: storage.AnyPath) -> Iterator[pathlib.Path]:
    """Gives the local path to write a folder to: itself, or one that is then copied to the store.

    Raises:
      UserError: the folder exists in the store, or cannot be written there.
    """
    there = storage.located(path)
    if isinstance(there, pathlib.Path):
        yield there
        return
    check_new(there)
    with tempfile.TemporaryDirectory(prefix="flan_train_") as folder:
        local = pathlib.Path(folder) / there.name
        yield local
        if local.exists():
            upload(local, there)
