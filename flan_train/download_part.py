"""The half of a file that has arrived: hidden beside its target, resumed, checked, put in place."""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import errno
import gzip
import hashlib
import json
import os
import pathlib
import zlib
from typing import Any

from flan_train.download_manifest import RemoteFile
from flan_train.errors import UserError

_BLOCK = 1 << 20
# What parsing raises for something nested thousands of levels deep.
_TOO_DEEP = (RecursionError, MemoryError)


class NotWhole(Exception):
    """What has arrived cannot be the file; says why."""


def disk_error(path: pathlib.Path, error: OSError) -> UserError:
    """Returns the error for a file of the data folder that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return UserError(
        f"the download cannot be written: {error.strerror or error}",
        where=str(error.filename or path),
        expected="a data folder that can be written to, with enough space",
        fix="make room and run the same command again: it goes on where it stopped"
        if full
        else "make the folder writable, or name another one with --data_dir",
    )


@dataclasses.dataclass
class _Told:
    """What the server said of the file whose beginning has arrived."""

    url: str = ""
    etag: str = ""
    modified: str = ""

    @property
    def validator(self) -> str:
        """What If-Range may name: a strong entity tag, else the date of the last change."""
        weak = not self.etag or self.etag.startswith("W/")
        return self.modified if weak else self.etag


class Part:
    """The beginning of a file, in `.<name>.part` beside it, and what the server said of it.

    Attributes:
      size: bytes that have arrived, those of an earlier attempt or process included.
      told: what the server said of the file.
    """

    def __init__(self, target: pathlib.Path) -> None:
        """Opens what an earlier attempt has left, or begins.

        Raises:
          UserError: the folder cannot be written to.
        """
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self._told_path = target.with_name(f".{target.name}.part.json")
        self.told = _Told()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, RecursionError):
                told = _Told(**json.loads(self._told_path.read_text(encoding="utf-8")))
                if all(isinstance(each, str) for each in dataclasses.astuple(told)):
                    self.told = told
            self._stream = self.path.open("ab")
            self._hash = hashlib.sha256()
            with self.path.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    self._hash.update(block)
            self.size = self._stream.tell()
        except OSError as error:
            raise disk_error(target, error) from None

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        # Flushing may find the disk full as well; what is missing is then fetched again.
        with contextlib.suppress(OSError):
            self._stream.close()
        if not self.size:
            self.discard()

    @property
    def sha256(self) -> str:
        """Hex digest of what has arrived."""
        return self._hash.hexdigest()

    def begin(self, told: dict[str, str]) -> None:
        """Forgets what has arrived, and notes what the server says of what comes now."""
        try:
            self._stream.truncate(0)
            self._hash, self.size, self.told = hashlib.sha256(), 0, _Told(**told)
            self._told_path.write_text(json.dumps(told), encoding="utf-8")
        except OSError as error:
            raise disk_error(self.path, error) from None

    def write(self, data: bytes) -> None:
        """Appends what has arrived; raises UserError when the disk takes no more."""
        try:
            self._stream.write(data)
        except OSError as error:
            raise disk_error(self.path, error) from None
        self._hash.update(data)
        self.size += len(data)

    def discard(self) -> None:
        """Deletes what has arrived."""
        self.size = 0
        with contextlib.suppress(OSError):
            self._stream.close()
            for path in (self.path, self._told_path):
                path.unlink(missing_ok=True)

    def end_can_be_told(self, file: RemoteFile) -> bool:
        """Returns whether `put_in_place` would see for certain that the end of the file is cut."""
        known = file.sha256 is not None or file.bytes is not None
        return known or _suffix(file) in _CERTAIN

    def put_in_place(self, file: RemoteFile) -> pathlib.Path:
        """Checks what has arrived, and renames it to its final name in the form it is kept in.

        Returns:
          The target.

        Raises:
          NotWhole: it is not the file; it stays where it is.
          UserError: it cannot be written.
        """
        made = self.target.with_name(f".{self.target.name}.new")
        try:
            self._stream.flush()
            check(self.path, file, self.size, self.sha256)
            if file.keep:
                _keep(self.path, made, file.keep)
                source = made
            else:
                source = self.path
            with source.open("rb") as stream:
                os.fsync(stream.fileno())
            source.replace(self.target)
            self._stream.close()
            self.path.unlink(missing_ok=True)
            self._told_path.unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
            raise disk_error(self.target, error) from None
        return self.target


def is_begun(target: pathlib.Path) -> bool:
    """Returns whether the beginning of a file has arrived."""
    return target.with_name(f".{target.name}.part").is_file()


# --- whether it is the file ---------------------------------------------------------------------


def check(path: pathlib.Path, file: RemoteFile, size: int, sha256: str) -> None:
    """Raises NotWhole unless the content can be the file.

    A checksum settles it. Without one the size, the rows and the end of the content are looked at,
    by the kind of the file: a server that tells a length too short would otherwise go unnoticed.
    """
    if file.sha256 is not None:
        if sha256 != file.sha256:
            raise NotWhole(
                f"sha256 {sha256[:16]}... and {size:,} bytes came, {file.sha256[:16]}..."
                + (f" and {file.bytes:,} bytes" if file.bytes is not None else "")
                + " were expected"
            )
        return
    if file.bytes is not None and size != file.bytes:
        raise NotWhole(f"{size:,} bytes came, {file.bytes:,} were expected")
    if not size:
        raise NotWhole("an empty file came")
    suffix = _suffix(file)
    try:
        _check_kind(path, suffix, file.rows)
    except (ValueError, SyntaxError, EOFError, zlib.error, csv.Error, *_TOO_DEEP) as error:
        raise NotWhole(f"it is no whole {suffix} file: {error}") from None


# Content that without its end cannot be read.
_CERTAIN = (".parquet", ".json", ".gz")


def _suffix(file: RemoteFile) -> str:
    """The kind of a file as the source has it: uncompressed with "gzip", Python with "literals"."""
    if file.keep == "literals":
        return ".py"
    return pathlib.PurePath(file.path.removesuffix(".gz") if file.keep else file.path).suffix


def _check_kind(path: pathlib.Path, suffix: str, rows: int | None) -> None:
    if suffix == ".parquet":
        with path.open("rb") as stream:
            head = stream.read(4)
            stream.seek(-min(4, path.stat().st_size), os.SEEK_END)
            if (head, stream.read(4)) != (b"PAR1", b"PAR1"):
                raise ValueError("it does not begin and end as Parquet does")
    elif suffix == ".json":
        json.loads(path.read_bytes())
    elif suffix == ".py":
        ast.parse(path.read_bytes())
    elif suffix == ".gz":
        with gzip.open(path) as stream:
            while stream.read(_BLOCK):
                pass
    elif suffix in (".jsonl", ".tsv", ".csv"):
        found = _rows(path, suffix)
        if rows is not None and found != rows:
            raise ValueError(f"{found:,} rows came, {rows:,} were expected")


def _rows(path: pathlib.Path, suffix: str) -> int:
    """Counts rows; raises ValueError for a last line that breaks off, where that can be seen."""
    if suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as text:
            return sum(1 for _ in csv.reader(text, strict=True))
    count, first, last = 0, b"", b""
    with path.open("rb") as stream:
        for line in stream:
            count, first, last = count + 1, first or line, line
    if suffix == ".jsonl" and last.strip():
        json.loads(last)
    if suffix == ".tsv" and last.count(b"\t") != first.count(b"\t"):
        raise ValueError("its last row has another number of columns than its first")
    return count


# --- the form it is kept in ---------------------------------------------------------------------


def _keep(source: pathlib.Path, made: pathlib.Path, keep: str) -> None:
    if keep == "gzip":
        # Neither name nor time in it: the same content gives the same file.
        with (
            source.open("rb") as stream,
            made.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        ):
            while block := stream.read(_BLOCK):
                packed.write(block)
        return
    content = literals(source.read_text(encoding="utf-8"))
    made.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def literals(code: str) -> dict[str, Any]:
    """Returns {name: value} of the constants that a Python file sets; runs nothing of it.

    >>> literals("A = {'b': [1, 2]}\\nprint(A)")
    {'A': {'b': [1, 2]}}

    Raises:
      NotWhole: it sets none.
    """
    found: dict[str, Any] = {}
    for statement in ast.parse(code).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                with contextlib.suppress(ValueError):
                    found[name] = ast.literal_eval(value)
    if not found:
        raise NotWhole("it is a Python file without constants")
    return found


def content_sha256(path: pathlib.Path, keep: str) -> str | None:
    """Returns the hex digest of the content a source has, from the file as it is kept.

    None when the form it is kept in does not tell, or the file is damaged.
    """
    if keep == "literals":
        return None
    digest = hashlib.sha256()
    try:
        with gzip.open(path) if keep == "gzip" else path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None
    return digest.hexdigest()
