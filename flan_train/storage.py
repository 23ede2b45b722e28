"""Folders in Google Cloud Storage and Amazon S3 (`gs://bucket/...`, `s3://bucket/...`) as paths.

TensorStore's own drivers read, write and list them; nothing else has to be installed. They find
credentials as the clouds' own tools do: GOOGLE_APPLICATION_CREDENTIALS, gcloud's file or the
machine's account; AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the machine's role;
without any, public buckets alone. AWS_ENDPOINT_URL names another server that speaks S3.

Such a store has no folders: what lies "in" one are the objects whose names begin with its name.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import tensorstore as ts

from flan_train.errors import UserError

SCHEMES = {"gs": "gcs", "s3": "s3"}  # and TensorStore's drivers
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# Files that make a checkpoint's folder a whole one; they are written last and removed first.
MARKS = ("_CHECKPOINT_METADATA", "meta/metadata", "checkpoint", "config.json")
_RETRIES = {"max_retries": 4}


class RemotePath:
    """A place in an object store, with those methods of pathlib.Path that reading needs.

    It is no os.PathLike: pathlib would make the local folder `gs:` of its name.

    Args:
      url: such as "gs://bucket/folder".

    Raises:
      UserError: it is no such address.
    """

    def __init__(self, url: str) -> None:
        match = _URL.fullmatch(url)
        scheme, rest = (match.group(1), match.group(2)) if match else ("", url)
        if scheme not in SCHEMES:
            raise UserError(
                f"{url[:200]} cannot be reached: there is no driver for {scheme or 'it'}://",
                expected=" or ".join(f"{known}://bucket/folder" for known in SCHEMES)
                + ", or a folder of this machine",
                fix="copy it there; a file system that is mounted needs no scheme",
            )
        self.scheme = scheme
        parts = rest.rstrip("/").split("/")
        self.bucket: str = parts.pop(0)
        self.key = "/".join(parts)
        odd = any(part in ("", ".", "..") for part in parts) or not rest.isprintable()
        if odd or not _BUCKET.fullmatch(self.bucket):
            raise UserError(
                f"{url[:200]!a} is no address in an object store",
                expected=f"{scheme}://bucket/folder, without empty parts or ..",
                fix="correct it",
            )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: RemotePath) -> bool:
        return str(self) < str(other)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self}/{name}")

    def joinpath(self, *names: str) -> RemotePath:
        """Returns the place of that name within this one."""
        return RemotePath("/".join([str(self), *names]))

    @property
    def name(self) -> str:
        """The last part of the name."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The place that this one lies in; of a bucket itself, the bucket."""
        return RemotePath(str(self).rpartition("/")[0]) if self.key else self

    def with_name(self, name: str) -> RemotePath:
        """Returns the place of another name beside this one."""
        return self.parent / name

    def absolute(self) -> RemotePath:
        """Returns this."""
        return self

    def kvstore(self, name: str = "") -> dict[str, Any]:
        """Returns TensorStore's description of this folder, or of one within it."""
        path = "/".join(part for part in (self.key, name) if part)
        return _described(self.scheme, self.bucket) | {"path": f"{path}/" if path else ""}

    def exists(self) -> bool:
        """Returns whether there is an object of this name, or one in this folder."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Returns whether there is an object of this name."""
        return bool(self.key) and bool(self._listed(self.key, f"{self.key}\0"))

    def is_dir(self) -> bool:
        """Returns whether anything lies in this folder."""
        return bool(self.files())

    def is_symlink(self) -> bool:
        """Returns False: there are no links."""
        return False

    def files(self) -> list[str]:
        """Returns the names of all objects in this folder and in those within it, relative to it.

        Raises:
          UserError: the store cannot be reached or does not allow it.
        """
        prefix = f"{self.key}/" if self.key else ""
        end = prefix[:-1] + chr(ord("/") + 1) if prefix else ""
        return [key.removeprefix(prefix) for key in self._listed(prefix, end)]

    def iterdir(self) -> Iterator[RemotePath]:
        """Yields what lies directly in this folder."""
        # Names that are none here, such as an empty one of a folder's placeholder, are not ours.
        names = {name.partition("/")[0] for name in self.files()} - {"", ".", ".."}
        return iter([self / name for name in sorted(names) if name.isprintable()])

    def read_bytes(self, limit: int | None = None) -> bytes:
        """Returns an object's content.

        Args:
          limit: the most bytes; larger ones are not fetched.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it is larger than `limit`.
          UserError: the store cannot be reached or does not allow it.
        """
        objects = store(self.scheme, self.bucket)
        try:
            if limit is not None:
                first = _first_bytes(objects, self.key, limit + 1)
                if first is not None:
                    raise ValueError(f"it has more than {limit:,} bytes")
            found = objects.read(self.key).result()
        except ValueError as error:
            raise refused(self, error) or error from None
        if found.state != "value":
            raise FileNotFoundError(2, "No such object", str(self))
        return found.value

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns an object's content as text; raises as `read_bytes`."""
        return self.read_bytes().decode(encoding)

    def remove(self) -> None:
        """Deletes all objects in this folder, first those that say that it is whole.

        Raises:
          UserError: the store cannot be reached or does not allow it.
        """
        objects = store(self.scheme, self.bucket)
        try:
            for mark in MARKS:
                objects.write(f"{self.key}/{mark}", None).result()
            end = f"{self.key}{chr(ord('/') + 1)}"
            objects.delete_range(ts.KvStore.KeyRange(f"{self.key}/", end)).result()
        except ValueError as error:
            raise refused(self, error) or error from None

    def _listed(self, start: str, end: str) -> list[str]:
        try:
            keys = store(self.scheme, self.bucket).list(ts.KvStore.KeyRange(start, end)).result()
        except ValueError as error:
            raise refused(self, error) or error from None
        return sorted(key.decode("utf-8", "replace") for key in keys)


Path = pathlib.Path | RemotePath
AnyPath = str | os.PathLike[str] | RemotePath


def is_remote(path: object) -> bool:
    """Returns whether this is the address of something that is not a local path."""
    return isinstance(path, RemotePath) or (isinstance(path, str) and bool(_URL.fullmatch(path)))


def located(path: AnyPath) -> Path:
    """Returns an absolute local path, or the place in an object store that a URL names.

    Raises:
      UserError: a URL of a kind that is not known.
    """
    if isinstance(path, RemotePath):
        return path
    if isinstance(path, str) and is_remote(path):
        return RemotePath(path)
    return pathlib.Path(path).absolute()


def read_limited(path: Path, limit: int) -> bytes:
    """Returns the content of a file of at most `limit` bytes.

    Raises:
      OSError: it cannot be read.
      ValueError: it is larger; nothing of it is kept.
    """
    if isinstance(path, RemotePath):
        return path.read_bytes(limit)
    if not path.is_file():  # a pipe of that name would never end
        raise FileNotFoundError(2, "No such file", str(path))
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return content


def kvstore(folder: Path) -> dict[str, Any]:
    """Returns TensorStore's description of a folder."""
    if isinstance(folder, RemotePath):
        return folder.kvstore()
    return {"driver": "file", "path": f"{folder}/"}


@functools.cache
def context() -> ts.Context:
    """Returns the TensorStore context of all that is read from object stores."""
    return ts.Context({"gcs_request_retries": _RETRIES, "s3_request_retries": _RETRIES})


def _described(scheme: str, bucket: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"driver": SCHEMES[scheme], "bucket": bucket}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    return spec


def store(scheme: str, bucket: str) -> ts.KvStore:
    """Returns a whole bucket; raises UserError when it cannot be opened."""
    try:
        return ts.KvStore.open(_described(scheme, bucket), context=context()).result()
    except ValueError as error:
        raise refused(RemotePath(f"{scheme}://{bucket}"), error) or error from None


def _first_bytes(objects: ts.KvStore, key: str, count: int) -> bytes | None:
    """Returns the first bytes of an object; None where it has fewer, or is not there."""
    try:
        found = objects.read(key, byte_range=slice(0, count)).result()
    except ValueError as error:
        if is_out_of_range(error):
            return None
        raise
    return found.value if found.state == "value" else None


def is_out_of_range(error: ValueError) -> bool:
    """Returns whether TensorStore says that an object has fewer bytes than were asked for."""
    return "OUT_OF_RANGE" in str(error) or "INVALID_RANGE" in str(error).upper()


def without_details(text: str) -> str:
    """Returns what TensorStore says without the parts that are for its own programmers."""
    return re.sub(r"\s*\[[^\[\]]*='.*", "", text, flags=re.DOTALL)


def refused(path: RemotePath, error: Exception) -> UserError | None:
    """Returns the readable error for what a store answered; None where it is not about the store.

    Args:
      path: what was asked for.
      error: what TensorStore raised.
    """
    text = str(error)
    reason = without_details(text.strip().split("\n")[0])[:300]
    login = (
        "gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS"
        if path.scheme == "gs"
        else "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )
    if any(code in text for code in ("PERMISSION_DENIED", "UNAUTHENTICATED")):
        return UserError(
            f"{path} may not be read or written: {reason}",
            expected="a bucket that these credentials, or none, give access to",
            fix=login,
        )
    if any(code in text for code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL")):
        return UserError(
            f"{path} cannot be reached: {reason}",
            expected="a store that answers",
            fix="check the network, the bucket's name"
            + (" and AWS_ENDPOINT_URL" if path.scheme == "s3" else ""),
        )
    if "NOT_FOUND" in text:
        return UserError(
            f"there is no {path}: {reason}", expected="a bucket that exists", fix="correct its name"
        )
    return None
