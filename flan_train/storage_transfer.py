"""Whole folders copied to an object store and back; temporary copies for those that need one."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from flan_train import storage
from flan_train.errors import UserError, not_written
from flan_train.storage import MARKS, RemotePath

_IN_FLIGHT_BYTES = 256 * 2**20
_IN_FLIGHT = 32
# What is asked for first of an object, and then at a time of one that has more.
_FIRST_BYTES, _PART_BYTES, _PARTS = 2**20, 32 * 2**20, 4


def upload(folder: pathlib.Path, destination: RemotePath) -> int:
    """Copies a local folder to a new one in an object store; returns the bytes.

    The files that make it a whole checkpoint come last, and nothing is left of a failed copy. A
    file is sent as one object, for which its bytes are in memory three times.

    Raises:
      UserError: something is there already, or it cannot be written.
    """
    check_new(destination)
    check_links(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names.sort(key=_mark)
    objects = storage.store(destination.scheme, destination.bucket)
    waiting: list[Any] = []
    total = in_flight = 0
    try:
        for name in names:
            size = (folder / name).stat().st_size
            full = in_flight + size > _IN_FLIGHT_BYTES or len(waiting) >= _IN_FLIGHT
            if waiting and (_mark(name) or full):
                for write in waiting:
                    write.result()
                waiting, in_flight = [], 0
            # Not kept in a variable: TensorStore has a copy of its own.
            waiting.append(objects.write(f"{destination.key}/{name}", (folder / name).read_bytes()))
            total, in_flight = total + size, in_flight + size
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


def upload_file(file: pathlib.Path, destination: RemotePath) -> None:
    """Copies one file to an object, which it replaces.

    Raises:
      OSError: the file cannot be read.
      UserError: the store cannot be reached or does not allow it.
    """
    objects = storage.store(destination.scheme, destination.bucket)
    try:
        objects.write(destination.key, file.read_bytes()).result()
    except ValueError as error:
        raise storage.refused(destination, error) or error from None


def download(source: RemotePath, folder: pathlib.Path) -> int:
    """Copies a folder of an object store to a new local one; returns the bytes.

    However large an object, it takes about 200 MiB of memory.

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
        for start in range(0, len(names), _IN_FLIGHT):
            some = names[start : start + _IN_FLIGHT]
            # One that is smaller than the range is refused, and then asked for as a whole.
            firsts = [_part(objects, source, name, 0, _FIRST_BYTES) for name in some]
            whole = {
                name: objects.read(f"{source.key}/{name}")
                for name, first in zip(some, firsts, strict=True)
                if _received(first, source) is None
            }
            for name, first in zip(some, firsts, strict=True):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if name in whole:
                    total += path.write_bytes(_content(whole[name].result(), source))
                    continue
                with path.open("wb") as file:
                    file.write(_content(first.result(), source))
                    _rest(objects, source, name, first.result().stamp.generation, file)
                    total += file.tell()
    except ValueError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise storage.refused(source, error) or error from None
    except (OSError, UserError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return total


def _part(objects: Any, source: RemotePath, name: str, start: int, stop: int | None) -> Any:
    """Starts reading a part of an object; to its end where `stop` is None."""
    return objects.read(f"{source.key}/{name}", byte_range=slice(start, stop))


def _rest(objects: Any, source: RemotePath, name: str, generation: bytes, file: BinaryIO) -> None:
    """Writes what comes after the first bytes of an object, some parts at a time."""
    start = file.tell()
    while True:
        places = range(start, start + _PARTS * _PART_BYTES, _PART_BYTES)
        parts = [_part(objects, source, name, place, place + _PART_BYTES) for place in places]
        for number, place in enumerate(places):
            found = _received(parts[number], source, generation)
            if found is None:
                last = _received(_part(objects, source, name, place, None), source, generation)
                file.write(last or b"")  # None: the part before was the last, and a full one
                for part in parts[number + 1 :]:
                    part.exception()
                return
            file.write(found)
            parts[number] = found = None
        start = places.stop


def _received(part: Any, source: RemotePath, generation: bytes | None = None) -> bytes | None:
    """Returns the bytes of a part; None where the object ends within or before it."""
    try:
        return _content(part.result(), source, generation)
    except ValueError as error:
        if storage.is_out_of_range(error):
            return None
        raise


def _content(found: Any, source: RemotePath, generation: bytes | None = None) -> bytes:
    if found.state != "value" or generation not in (None, found.stamp.generation):
        raise UserError(
            f"an object of {source} was removed or replaced while it was read",
            expected="a folder that nothing else writes to",
            fix="try again",
        )
    return bytes(found.value)


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


def check_links(folder: pathlib.Path) -> None:
    """Raises UserError for a link in a folder that leads out of it, or to nothing."""
    root = folder.resolve()
    for path in folder.rglob("*"):
        if not path.is_symlink():
            continue
        if not path.exists() or not path.resolve().is_relative_to(root):
            raise UserError(
                f"{path} is a link that leads out of the folder, or to nothing",
                where=str(folder),
                expected="files of the folder itself: what a link names could be any file",
                fix="copy the folder with its links resolved first: cp -rL",
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
def delivered(path: storage.AnyPath, *, within: bool = False) -> Iterator[pathlib.Path]:
    """Gives the local path to write a folder to: itself, or one that is then copied to the store.

    Args:
      path: the folder to make.
      within: what is made are new folders in it, and it may be there already.

    Raises:
      UserError: the folder exists in the store, or cannot be written there.
    """
    there = storage.located(path)
    if isinstance(there, pathlib.Path):
        yield there
        return
    if not within:
        check_new(there)
    with tempfile.TemporaryDirectory(prefix="flan_train_") as folder:
        local = pathlib.Path(folder) / there.name
        yield local
        if local.exists():
            made = sorted(local.iterdir()) if within else [local]
            for each in made:
                upload(each, there / each.name if within else there)
