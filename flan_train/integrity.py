"""Whether files of a prepared dataset are as they were written, and what is said when not.

Each folder has a summary (task.json or manifest.json) with the size and sha256 of its other files,
and sealed by a checksum of itself.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import stat
from collections.abc import Collection, Mapping
from typing import Any

from flan_train.errors import UserError

FORMAT_VERSION = 3
TOKENS = "tokens.bin"
# Every example's tokens are checked when they are read: only `flan-train prepare` reads them twice.
CHECKED_WHEN_READ = (TOKENS,)

AGAIN = (
    "run `flan-train prepare` with the same gin files: it checks every file and makes again what "
    "is gone or damaged"
)


def damaged(what: str, path: pathlib.Path, expected: str = "") -> UserError:
    """Returns the error for a file of a prepared dataset that is not as it was written."""
    return UserError(
        f"a prepared dataset is damaged: {what}",
        where=str(path),
        expected=expected or "the file as it was written",
        fix=f"{AGAIN}; or delete the folder {path.parent}: the next prepare, train or eval makes "
        "it anew",
    )


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Returns JSON content with a checksum of itself under "seal"."""
    content = {key: value for key, value in content.items() if key != "seal"}
    # Through JSON, so that what is hashed here is what a reader will hash.
    content = json.loads(json.dumps(content))
    text = json.dumps(content, sort_keys=True)
    return {**content, "seal": hashlib.sha256(text.encode()).hexdigest()}


def encoded(summary: dict[str, Any]) -> bytes:
    """Returns the bytes of a task.json or manifest.json."""
    # A file name that is no UTF-8 may stand in it; json.loads reads it back.
    return json.dumps(summary, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def read_summary(path: pathlib.Path) -> dict[str, Any]:
    """Returns a task.json or manifest.json.

    Raises:
      UserError: it is missing, altered, or of another format version.
    """
    return _understood(path, _content(path))


def _understood(path: pathlib.Path, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged("a file cannot be understood", path, expected="JSON") from None
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
        _check_size(path, _size(path), facts)
        if checksums and name not in sizes_only:
            try:
                with path.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise damaged(f"a file cannot be read: {error.strerror}", path) from None
            _check_digest(path, digest, facts)


def read_checked(path: pathlib.Path, facts: Mapping[str, Any]) -> bytes:
    """Returns the content of a file, the same bytes that were compared with its size and sha256.

    Args:
      path: the file.
      facts: its {"bytes", "sha256"}.

    Raises:
      UserError: it is missing, torn or altered.
    """
    content = _content(path)
    _check_size(path, len(content), facts)
    _check_digest(path, hashlib.sha256(content).hexdigest(), facts)
    return content


def _size(path: pathlib.Path) -> int:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise damaged("a file is missing", path) from None
    except OSError as error:
        raise damaged(f"a file cannot be read: {error.strerror}", path) from None
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise damaged("something else is where a file was", path, expected="a file")
    return status.st_size


def _content(path: pathlib.Path) -> bytes:
    _size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise damaged(f"a file cannot be read: {error.strerror}", path) from None


def _check_size(path: pathlib.Path, size: int, facts: Mapping[str, Any]) -> None:
    if size != facts["bytes"]:
        raise damaged(f"a file has {size:,} bytes", path, expected=f"{facts['bytes']:,} bytes")


def _check_digest(path: pathlib.Path, digest: str, facts: Mapping[str, Any]) -> None:
    if digest != facts["sha256"]:
        raise damaged("a file's checksum differs", path, f"sha256 {facts['sha256']}")


def is_whole(
    folder: pathlib.Path,
    summary_name: str,
    *,
    verify: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> bool:
    """Returns whether a folder is there with all its files as they were written.

    Args:
      folder: of a task or a mixture.
      summary_name: its task.json or manifest.json.
      verify: compare the contents of CHECKED_WHEN_READ too, not their sizes alone.
      facts: what its summary must say; another folder, whole in itself, may have come to lie here.
    """
    left_out = () if verify else CHECKED_WHEN_READ
    path = folder / summary_name
    try:
        text = _content(path)
        summary = _understood(path, text)
        check_files(folder, summary["files"], checksums=True, sizes_only=left_out)
    except UserError:
        return False
    expected = json.loads(json.dumps(facts or {}))
    if any(key not in summary or summary[key] != value for key, value in expected.items()):
        return False
    return text == encoded(summary)  # some altered bytes say the same, such as the E of 1E-05
