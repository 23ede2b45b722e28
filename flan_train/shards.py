"""Files of one prepared task: written once under a temporary name, read at random by position.

A folder holds, little-endian and without headers:

    tokens.bin          uint16 (int32 for a vocabulary above 65,536): inputs, then targets, of each
                        example in turn, EOS included
    lengths.bin         int32 [n, 2]: tokens of inputs and of targets
    checksums.bin       uint32 [n]: CRC-32 of each example's bytes in tokens.bin
    records.jsonl       how each example came about, one JSON array a line (RECORD_FIELDS)
    record_offsets.bin  int64 [n + 1]: where each line begins
    task.json           counts, drops, fingerprints; size and sha256 of each file above
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
import socket
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from flan_train.errors import UserError

FORMAT_VERSION = 1
RECORD_FIELDS = ("template_id", "example_id", "options", "answer", "shots")
FILES = ("tokens.bin", "lengths.bin", "checksums.bin", "records.jsonl", "record_offsets.bin")
# Open files are few against the usual limit of 1,024: a mixture may have more tasks than that.
_OPEN_FILES = 256
_TEMPORARY = ".tmp-"
_CHUNK = 1 << 20

AGAIN = "run `flan-train prepare` (or `train`) with the same gin files: it makes again what is gone"


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """Returns the smallest stored type that holds every id."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<i4")


def damaged(what: str, path: pathlib.Path, expected: str = "") -> UserError:
    """Returns the error for a file of a prepared dataset that is not as it was written."""
    return UserError(
        f"a prepared dataset is damaged: {what}",
        where=str(path),
        expected=expected or "the file as it was written",
        fix=f"delete the folder {path.parent}, then {AGAIN}",
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

    Used as a context: `finish` renames, any way out without it deletes.
    """

    def __init__(self, final: pathlib.Path) -> None:
        self.final = final
        self.files: dict[str, dict[str, Any]] = {}
        self._open: dict[str, _HashedFile] = {}
        owner = f"{socket.gethostname()}-{os.getpid()}"
        self.path = final.parent / f"{_TEMPORARY}{owner}-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> NewFolder:
        self.path.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.discard()
        shutil.rmtree(self.path, ignore_errors=True)

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
        self.append(summary_name, json.dumps(summary, indent=1, ensure_ascii=False).encode())
        self._open.pop(summary_name).close()
        _sync_folder(self.path)
        try:
            self.path.rename(self.final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not is_whole(self.final, summary_name):
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
    """Turns a full or unwritable disk under `path` into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        raise UserError(
            f"cannot write the prepared dataset: {error.strerror}",
            where=str(error.filename or path),
            expected="a folder with room that can be written to",
            fix="make room, or set PREPARED_DIR elsewhere; what is finished is kept, so run the "
            "same command again",
        ) from error


def remove_leftovers(folder: pathlib.Path) -> None:
    """Deletes temporary folders that killed processes of this machine have left."""
    prefix = f"{_TEMPORARY}{socket.gethostname()}-"
    for path in folder.glob(f"{prefix}*"):
        owner = path.name.removeprefix(prefix).split("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns JSON content with a checksum of itself under "seal"."""
    content = {key: value for key, value in content.items() if key != "seal"}
    # Through JSON, so that what is hashed here is what a reader will hash.
    content = json.loads(json.dumps(content))
    text = json.dumps(content, sort_keys=True)
    return {**content, "seal": hashlib.sha256(text.encode()).hexdigest()}


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
    folder: pathlib.Path, files: dict[str, dict[str, Any]], *, checksums: bool = False
) -> None:
    """Returns when each file of a folder has its size, and its sha256 where asked.

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
        if checksums:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != facts["sha256"]:
                raise damaged("a file's checksum differs", path, f"sha256 {facts['sha256']}")


def is_whole(folder: pathlib.Path, summary_name: str) -> bool:
    """Returns whether a folder is there with all its files, each of its size."""
    try:
        check_files(folder, read_summary(folder / summary_name)["files"])
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
        folder.append("record_offsets.bin", np.zeros(1, "<i8").tobytes())

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
        self._folder.append("tokens.bin", b"".join(blocks))
        self._folder.append("lengths.bin", lengths.tobytes())
        checksums = np.array([zlib.crc32(block) for block in blocks], dtype="<u4")
        self._folder.append("checksums.bin", checksums.tobytes())
        self._folder.append("records.jsonl", b"".join(lines))
        self._folder.append("record_offsets.bin", ends.astype("<i8").tobytes())
        self.examples += len(blocks)
        self.tokens += lengths.sum(axis=0)


class _Descriptor:
    """An open file; closed when the last reader lets go of it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Bound above: at the end of the process the module may be gone before this object is.
        if hasattr(self, "number"):
            close(self.number)


class OpenFiles:
    """Reads ranges of many files, with few of them open at once; safe to share among threads.

    A read releases the interpreter lock while it waits for the disk, which a page fault in a
    memory map does not.
    """

    def __init__(self, limit: int = _OPEN_FILES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[pathlib.Path, _Descriptor] = collections.OrderedDict()

    def read(self, path: pathlib.Path, start: int, size: int) -> bytes:
        """Returns bytes of a file.

        Raises:
          UserError: the file is gone or ends before.
        """
        with self._lock:
            descriptor = self._files.get(path)
            if descriptor is None:
                try:
                    descriptor = self._files[path] = _Descriptor(path)
                except OSError as error:
                    raise damaged(f"cannot open a file: {error.strerror}", path) from None
                if len(self._files) > self._limit:
                    self._files.popitem(last=False)
            else:
                self._files.move_to_end(path)
        data = os.pread(descriptor.number, size, start)
        while len(data) < size:  # a signal or a network file system may cut a read short
            more = os.pread(descriptor.number, size - len(data), start + len(data))
            if not more:
                raise damaged("a file ends too early", path)
            data += more
        return data
