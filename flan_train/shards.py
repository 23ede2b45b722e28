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
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from flan_train.errors import UserError

FORMAT_VERSION = 2
RECORD_FIELDS = ("template_id", "example_id", "options", "answer", "shots")
TOKENS, RECORDS = "tokens.bin", "records.jsonl"
RECORD_OFFSETS, RECORD_CHECKSUMS = "record_offsets.bin", "record_checksums.bin"
FILES = (TOKENS, "lengths.bin", "checksums.bin", RECORDS, RECORD_OFFSETS, RECORD_CHECKSUMS)
# Every example's tokens are checked when they are read: only `flan-train prepare` reads them twice.
CHECKED_WHEN_READ = (TOKENS,)
_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_ABANDONED_AFTER = 24 * 3600.0  # seconds; only where a lock says nothing
_CHUNK = 1 << 20

AGAIN = (
    "run `flan-train prepare` with the same gin files: it checks every file and makes again what "
    "is gone or damaged"
)


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Returns the smallest stored type that holds every id."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<i4")


_DISK_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG),
)


def damaged(what: str, path: pathlib.Path, expected: str = "") -> UserError:
    """Returns the error for a file of a prepared dataset that is not as it was written."""
    return UserError(
        f"a prepared dataset is damaged: {what}",
        where=str(path),
        expected=expected or "the file as it was written",
        fix=f"{AGAIN} (here the folder {path.parent})",
    )


class _HashedFile:
    """A new file that knows its size and sha256 when it is closed."""

    def __init__(self, path: pathlib.Path) -> None:
        self._stream: BinaryIO = path.open("wb", buffering=_CHUNK)
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> dict[str, Any]:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.close()


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
            self._open[name] = _HashedFile(self.path / name)
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
        try:
            self.path.rename(self.final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not is_whole(self.final, summary_name, verify=True):
                self.final.rename(self.path.with_name(self.path.name + "-old"))
                self.path.rename(self.final)
                shutil.rmtree(self.path.with_name(self.path.name + "-old"), ignore_errors=True)
        _sync_folder(self.final.parent)
        return summary


def _sync_folder(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained_disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns a full disk, or a place where no folder can be made, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UserError(
            f"cannot write the prepared dataset: {error.strerror}",
            where=str(error.filename or path),
            expected="a folder with room that can be written to",
            fix="make room, or set PREPARED_DIR elsewhere; what is finished is kept, so run the "
            "same command again",
        ) from error


def remove_leftovers(folder: pathlib.Path) -> None:
    """Deletes temporary folders whose writers are no more.

    A lock is believed where it was taken under the kernel that runs here. Of a folder written by
    another machine, or where there is no lock, nothing has changed for a day when it goes.
    """
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process may be deleting it as well
            if _is_abandoned(path):
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


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns JSON content with a checksum of itself under "seal"."""
    content = {key: value for key, value in content.items() if key != "seal"}
    # Through JSON, so that what is hashed here is what a reader will hash.
    content = json.loads(json.dumps(content))
    text = json.dumps(content, sort_keys=True)
    return {**content, "seal": hashlib.sha256(text.encode()).hexdigest()}


def encoded(summary: dict[str, Any]) -> bytes:
    """Returns the bytes of a task.json or manifest.json."""
    return json.dumps(summary, indent=1, ensure_ascii=False).encode()


def read_summary(path: pathlib.Path) -> dict[str, Any]:
    """Returns a task.json or manifest.json.

    Raises:
      UserError: it is missing, altered, or of another format version.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise damaged("a file is missing", path) from None
    except (OSError, ValueError):
        raise damaged("a file cannot be read", path) from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if version is not None and version != FORMAT_VERSION:
        raise UserError(
            f"the prepared dataset has format version {version}",
            where=str(path),
            expected=f"version {FORMAT_VERSION}",
            fix=AGAIN,
        )
    if version is None or sealed(content)["seal"] != content.get("seal"):
        raise damaged("a file was altered", path)
    return content


def check_files(
    folder: pathlib.Path,
    files: dict[str, dict[str, Any]],
    *,
    checksums: bool = False,
    sizes_only: Collection[str] = (),
) -> None:
    """Returns when each file of a folder has its size, and its sha256 where asked.

    Args:
      folder: where the files are.
      files: {name: {"bytes", "sha256"}}.
      checksums: compare contents too.
      sizes_only: names of those to compare by size all the same.

    Raises:
      UserError: names the first file that is missing, torn or altered.
    """
    for name, facts in files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError:
            raise damaged("a file is missing", path) from None
        if size != facts["bytes"]:
            raise damaged(f"a file has {size:,} bytes", path, expected=f"{facts['bytes']:,} bytes")
        if checksums and name not in sizes_only:
            try:
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise damaged(f"a file cannot be read: {error.strerror}", path) from None
            if digest != facts["sha256"]:
                raise damaged("a file's checksum differs", path, f"sha256 {facts['sha256']}")


def is_whole(folder: pathlib.Path, summary_name: str, *, verify: bool = False) -> bool:
    """Returns whether a folder is there with all its files as they were written.

    Args:
      folder: of a task or a mixture.
      summary_name: its task.json or manifest.json.
      verify: compare the contents of CHECKED_WHEN_READ too, not their sizes alone.
    """
    left_out = () if verify else CHECKED_WHEN_READ
    try:
        files = read_summary(folder / summary_name)["files"]
        check_files(folder, files, checksums=True, sizes_only=left_out)
    except UserError:
        return False
    return True


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
        if not inputs:
            return
        lengths = np.array(
            [(len(a), len(b)) for a, b in zip(inputs, targets, strict=True)], dtype="<i4"
        )
        blocks = [
            np.asarray([*a, *b], dtype=self._dtype).tobytes()
            for a, b in zip(inputs, targets, strict=True)
        ]
        lines = [
            json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            for record in records
        ]
        ends = self._record_end + np.cumsum([len(line) for line in lines])
        self._record_end = int(ends[-1])
        self._folder.append(TOKENS, b"".join(blocks))
        self._folder.append("lengths.bin", lengths.tobytes())
        self._folder.append("checksums.bin", _checksums(blocks))
        self._folder.append(RECORDS, b"".join(lines))
        self._folder.append(RECORD_OFFSETS, ends.astype("<i8").tobytes())
        self._folder.append(RECORD_CHECKSUMS, _checksums(lines))
        self.examples += len(blocks)
        self.tokens += lengths.sum(axis=0)


def _checksums(blocks: Sequence[bytes]) -> bytes:
    return np.array([zlib.crc32(block) for block in blocks], dtype="<u4").tobytes()
