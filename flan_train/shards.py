"""Files of one prepared task: written once under a temporary name, read at random by position.

A folder holds, little-endian and without headers:

    tokens.bin          uint16 (int32 for a vocabulary above 65,536): inputs, then targets, of each
                        example in turn, EOS included
    lengths.bin         int32 [n, 2]: tokens of inputs and of targets
    checksums.bin       uint32 [n]: CRC-32 of each example's bytes in tokens.bin
    records.jsonl       how each example came about, one JSON array a line (RECORD_FIELDS)
    record_offsets.bin  int64 [n + 1]: where each line begins
    record_checksums.bin  uint32 [n]: CRC-32 of each line
    task.json           counts, drops, fingerprints; size and sha256 of each file above
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil
import socket
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from json.encoder import encode_basestring as _quoted
from typing import Any, BinaryIO

import numpy as np

from flan_train.errors import UserError
from flan_train.integrity import (
    AGAIN,
    CHECKED_WHEN_READ,
    FORMAT_VERSION,
    TOKENS,
    check_files,
    damaged,
    encoded,
    is_whole,
    read_checked,
    read_summary,
    sealed,
)

__all__ = [
    "AGAIN",
    "CHECKED_WHEN_READ",
    "FILES",
    "FORMAT_VERSION",
    "PARTS",
    "RECORDS",
    "RECORD_CHECKSUMS",
    "RECORD_FIELDS",
    "RECORD_OFFSETS",
    "TOKENS",
    "NewFolder",
    "TaskWriter",
    "check_files",
    "damaged",
    "encoded",
    "explained_disk_errors",
    "is_whole",
    "read_checked",
    "read_summary",
    "remove_leftovers",
    "sealed",
    "token_dtype",
]

RECORD_FIELDS = (
    *("template_id", "example_id", "options", "answer", "shots"),
    *("references", "target_text"),
)
RECORDS = "records.jsonl"
RECORD_OFFSETS, RECORD_CHECKSUMS = "record_offsets.bin", "record_checksums.bin"
FILES = (TOKENS, "lengths.bin", "checksums.bin", RECORDS, RECORD_OFFSETS, RECORD_CHECKSUMS)
PARTS = ".parts-"
_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_ABANDONED_AFTER = 24 * 3600.0  # seconds; only where a lock says nothing
_CHUNK = 1 << 20
_PARTS_KEPT = 7 * 24 * 3600.0


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Returns the smallest stored type that holds every id."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<i4")


_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE),
)


class _HashedFile:
    """A new file that knows its size and sha256 when it is closed.

    Args:
      path: where it is written.
      name: where it will be in the end: what errors of the disk name.
    """

    def __init__(self, path: pathlib.Path, name: pathlib.Path) -> None:
        self._name = name
        with self._named_errors():
            self._stream: BinaryIO = path.open("wb", buffering=_CHUNK)
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        with self._named_errors():
            self._stream.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> dict[str, Any]:
        with self._named_errors():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._name)  # a write that fails names no file
            raise

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()


# Times that the folder above a new one may vanish before it is an error.
_MKDIR_TRIES = 100


class NewFolder:
    """A folder under a temporary name beside its final one; nothing is seen until it is whole.

    Used as a context: `finish` renames, any way out without it deletes. A lock on a file in it
    tells others that its writer lives; the kernel lets go of it however the writer ends.
    """

    def __init__(self, final: pathlib.Path) -> None:
        self.final = final
        self.files: dict[str, dict[str, Any]] = {}
        self._open: dict[str, _HashedFile] = {}
        self.path = final.parent / f"{_TEMPORARY}{_kernel()}-{uuid.uuid4().hex[:16]}"
        self._lock: int | None = None

    def __enter__(self) -> NewFolder:
        for _ in range(_MKDIR_TRIES):
            try:
                self.path.mkdir(parents=True)
                break
            except FileNotFoundError:
                # Another process removed the empty folder above it in between.
                continue
        else:
            self.path.mkdir(parents=True)
        # Locked first and named then: nobody finds the file without its lock.
        unnamed = self.path / f"{_LOCK}-new"
        try:
            self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self.path / _LOCK)
        except OSError:  # a file system without locks: age alone tells
            with contextlib.suppress(OSError):
                unnamed.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.discard()
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def append(self, name: str, data: bytes) -> None:
        """Appends bytes to a file of the folder."""
        if name not in self._open:
            self._open[name] = _HashedFile(self.path / name, self.final / name)
        self._open[name].write(data)

    def finish(self, summary_name: str, summary: dict[str, Any]) -> dict[str, Any]:
        """Closes the files, writes the summary with their sizes and hashes, renames the folder.

        Returns the summary as written. A whole folder that another process has put there in the
        meantime stays: it holds the same bytes.
        """
        for name, file in list(self._open.items()):
            self.files[name] = file.close()
            del self._open[name]
        summary = sealed({**summary, "files": self.files})
        self.append(summary_name, encoded(summary))
        self._open.pop(summary_name).close()
        (self.path / _LOCK).unlink(missing_ok=True)
        _sync_folder(self.path)
        self._take_place(summary_name, summary)
        _sync_folder(self.final.parent)
        return summary

    def _take_place(self, summary_name: str, summary: dict[str, Any]) -> None:
        """Renames the folder to its final name, where what is there may be damaged or no folder."""
        aside = self.path.with_name(self.path.name + "-old")
        while True:
            try:
                self.path.rename(self.final)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            if is_whole(self.final, summary_name, verify=True, facts=summary):
                return
            with contextlib.suppress(FileNotFoundError):  # another process took it away first
                self.final.rename(aside)
            _delete(aside)


def _delete(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained_disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns a full disk, or a place where no folder can be made, into a UserError.

    Whatever happens to a file under `path` is explained, if only that it was deleted by somebody;
    of other files what a disk says of itself.
    """
    try:
        yield
    except OSError as error:
        inside = isinstance(error.filename, str) and pathlib.Path(error.filename).is_relative_to(
            path
        )
        if not inside and error.errno not in _DISK_ERRORS:
            raise
        raise UserError(
            f"cannot write the prepared dataset: {error.strerror}",
            where=str(error.filename or path),
            expected="a folder with room, that can be written to and that nobody deletes meanwhile",
            fix="make room, or set PREPARED_DIR elsewhere; what is finished is kept, so run the "
            "same command again",
        ) from error


def remove_leftovers(folder: pathlib.Path) -> None:
    """Deletes temporary folders whose writers are no more.

    A lock is believed where it was taken under the kernel that runs here. Of a folder written by
    another machine, or where there is no lock, nothing has changed for a day when it goes. Finished
    parts of a task go when the whole task is there, or after a week: until then they are of use.
    """
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process may be deleting it as well
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f"{PARTS}*"):
        with contextlib.suppress(OSError):
            old = time.time() - max(each.stat().st_mtime for each in (path, *path.iterdir()))
            done = (folder / path.name.removeprefix(PARTS)).exists() or old > _PARTS_KEPT
            if done and all(map(_is_abandoned, path.glob(f"{_TEMPORARY}*"))):
                shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: pathlib.Path) -> bool:
    if path.name.startswith(f"{_TEMPORARY}{_kernel()}-"):
        with contextlib.suppress(FileNotFoundError), (path / _LOCK).open("rb+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
    changed = max(entry.stat().st_mtime for entry in (path, *path.iterdir()))
    return time.time() - changed > _ABANDONED_AFTER


@functools.cache
def _kernel() -> str:
    """Names the running kernel: containers with one host name may have several, or share one."""
    try:
        name = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        name = socket.gethostname()
    return hashlib.sha256(name.encode()).hexdigest()[:12]


class TaskWriter:
    """Appends examples to the files of a new task folder."""

    def __init__(self, folder: NewFolder, dtype: np.dtype[Any]) -> None:
        self.examples = 0
        self.tokens = np.zeros(2, np.int64)
        self._folder = folder
        self._dtype = dtype
        self._record_end = 0
        for name in FILES:
            folder.append(name, b"")
        folder.append(RECORD_OFFSETS, np.zeros(1, "<i8").tobytes())

    def append(
        self,
        inputs: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        records: Sequence[Sequence[Any]],
    ) -> None:
        """Appends examples: ids with EOS, and records in the order of RECORD_FIELDS."""
        self.append_stored(self._stored(inputs), self._stored(targets), records)

    def _stored(self, features: Sequence[Sequence[int]]) -> list[bytes]:
        return [np.asarray(ids, self._dtype).tobytes() for ids in features]

    def append_stored(
        self, inputs: Sequence[bytes], targets: Sequence[bytes], records: Sequence[Sequence[Any]]
    ) -> None:
        """Appends examples whose ids, with EOS, are bytes of the stored type already."""
        if not inputs:
            return
        blocks = [a + b for a, b in zip(inputs, targets, strict=True)]
        lines = list(map(_line, records))
        sizes = [list(map(len, feature)) for feature in (inputs, targets)]
        lengths = np.array(sizes, dtype="<i4").T // self._dtype.itemsize
        ends = self._record_end + np.cumsum(list(map(len, lines)))
        self._record_end = int(ends[-1])
        self._folder.append(TOKENS, b"".join(blocks))
        self._folder.append("lengths.bin", lengths.astype("<i4").tobytes())
        self._folder.append("checksums.bin", _checksums(blocks))
        self._folder.append(RECORDS, b"".join(lines))
        self._folder.append(RECORD_OFFSETS, ends.astype("<i8").tobytes())
        self._folder.append(RECORD_CHECKSUMS, _checksums(lines))
        self.examples += len(blocks)
        self.tokens += lengths.sum(axis=0, dtype=np.int64)


def _line(record: Sequence[Any]) -> bytes:
    """Returns the line that `json.dumps` writes without spaces or escapes, much sooner."""
    return f"[{','.join(map(_json, record))}]\n".encode()


def _json(value: Any) -> str:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_json, value))}]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _checksums(blocks: Sequence[bytes]) -> bytes:
    return np.array(list(map(zlib.crc32, blocks)), dtype="<u4").tobytes()
