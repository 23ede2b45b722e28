"""What is in a data folder: records of what was fetched, the state of every file, one lock.

`.downloads.json` in the data folder keeps, for every file fetched, the checksum it had: that of a
file whose checksum the manifest does not know is compared with it from then on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from flan_train import download_part
from flan_train.download_manifest import RemoteFile
from flan_train.errors import UserError

NAME = ".downloads.json"
LOCK = ".downloads.lock"
FORMAT = 1

# A file is one of these:
THERE = "there"  # its content is what the manifest, or the hub's listing, says
RECORDED = "recorded"  # its content is what the first download recorded; nothing else is known
FOUND = "found"  # it was there before; nothing says what it should be
PARTIAL = "partial"  # its beginning is there
MISSING = "missing"
ALTERED = "altered"  # its content is not what the manifest or the record says
STATES = (THERE, RECORDED, FOUND, PARTIAL, MISSING, ALTERED)
USABLE = (THERE, RECORDED, FOUND)


@dataclasses.dataclass(frozen=True)
class State:
    """What a file is: one of `STATES`, and a word on why."""

    name: str
    detail: str = ""


class Records:
    """The records of a data folder; one process at a time may change them (see `locked`)."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Reads the records; a folder without any has empty ones.

        Raises:
          UserError: they cannot be read.
        """
        self.folder = folder
        self._path = folder / NAME
        self._content: dict[str, Any] = {"format": FORMAT, "files": {}, "hub": {}}
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from None
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._unreadable(str(error)) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise self._unreadable("it is of another format")
        if not all(isinstance(content.get(key, {}), dict) for key in ("files", "hub")):
            raise self._unreadable("its lists are no objects")
        self._content.update(content)

    def _unreadable(self, why: str) -> UserError:
        return UserError(
            f"the records of what was downloaded cannot be read: {why}",
            where=str(self._path),
            expected="the file as `flan-train download` wrote it",
            fix="restore it, or delete it: what the manifest has no checksum for is then taken as "
            "it is",
        )

    def file(self, path: str) -> dict[str, Any] | None:
        """Returns the record of a file, as `keep_file` makes it, or None."""
        record = self._content["files"].get(path)
        return record if isinstance(record, dict) else None

    def listing(self, folder: str) -> dict[str, Any] | None:
        """Returns what the hub said of a dataset, by the folder its files go to."""
        listed = self._content["hub"].get(folder)
        return listed if isinstance(listed, dict) else None

    def keep_listing(self, folder: str, listed: dict[str, Any]) -> None:
        """Keeps what the hub said of a dataset."""
        self._content["hub"][folder] = listed

    def keep_file(self, file: RemoteFile, url: str, sha256: str | None) -> None:
        """Keeps what a file is now.

        Args:
          file: it is in place.
          url: where it came from; empty for a file that was there before.
          sha256: of the content as the source has it, if known.
        """
        path = self.folder / file.path
        status = path.stat()
        self._content["files"][file.path] = {
            "url": url,
            "revision": file.revision,
            "sha256": sha256,
            "kept_sha256": sha256 if sha256 and not file.keep else file_sha256(path),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def save(self) -> None:
        """Writes the records, whole or not at all; raises UserError when they cannot be."""
        new = self._path.with_name(NAME + ".new")
        try:
            new.write_text(json.dumps(self._content, indent=0, sort_keys=True), encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise download_part.disk_error(self._path, error) from None

    def state(self, file: RemoteFile, *, thorough: bool) -> State:
        """Returns what a file of the data folder is.

        Args:
          file: of the manifest.
          thorough: whether to read files that look, by size and time, as they did when recorded.

        Raises:
          UserError: it cannot be read.
        """
        path = self.folder / file.path
        try:
            if not path.is_file():
                return State(PARTIAL if download_part.is_begun(path) else MISSING)
            record = self.file(file.path)
            if record is None:
                return _unrecorded(path, file)
            if record["url"] and record["revision"] != file.revision:
                return State(
                    ALTERED,
                    f"of revision {record['revision'][:12]}, where the manifest now has "
                    f"{file.revision[:12]}",
                )
            status = path.stat()
            same = (status.st_size, status.st_mtime_ns) == (record["size"], record["mtime_ns"])
            if (thorough or not same) and file_sha256(path) != record["kept_sha256"]:
                return State(ALTERED, "its checksum is not the one that was recorded")
            if file.sha256 is not None:
                if record["sha256"] != file.sha256:
                    return State(ALTERED, "its checksum is not the one of the manifest")
                return State(THERE)
            return State(RECORDED if record["url"] else FOUND)
        except OSError as error:
            raise UserError(
                f"cannot read a file of the data folder: {error.strerror or error}",
                where=str(path),
                expected="a readable file",
                fix="make it readable, or name another data folder",
            ) from None


def _unrecorded(path: pathlib.Path, file: RemoteFile) -> State:
    if file.sha256 is None:
        return State(FOUND)
    content = download_part.content_sha256(path, file.keep)
    if content != file.sha256:
        return State(ALTERED, "its checksum is not the one of the manifest")
    return State(THERE)


def file_sha256(path: pathlib.Path) -> str:
    """Returns the hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds the one lock of a data folder, which ends with the process that holds it.

    Raises:
      UserError: another process holds it, or the folder cannot be written to.
    """
    path = folder / LOCK
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise download_part.disk_error(path, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
            raise UserError(
                "another download is filling this data folder",
                where=f"{folder} ({holder or 'it has not said which process it is'})",
                expected="one download at a time",
                fix="wait until it is done; --status may be asked meanwhile",
            ) from None
        except OSError as error:
            raise UserError(
                f"the data folder cannot be locked: {error.strerror or error}",
                where=str(path),
                expected="a file system with locks",
                fix="download into a folder on a local disk, and copy it",
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        # The file stays: who deletes it could take a lock that another one just got.
        os.close(lock)
