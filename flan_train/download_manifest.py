"""data_manifest.json: what `flan-train download` can fetch, from where, under which licence.

A source is one licence at one revision:

  name, group   what `--only` goes by; a group is a folder or a collection
  licence       as its owners state it
  commercial    "yes", "no" (fetched only when accepted), "mixed" or "unknown"
  revision      the commit; stands in `urls` as {revision}
  urls          places that have the same files, in order of preference; {from} is a file's name
  files         path below the data folder, `from`, and what is known: sha256, bytes, rows, split
  each          "niv2_tasks" in place of `files`: one file for each task of tables/niv2.csv
  hub           in place of `urls`: a dataset of the Hugging Face hub, {"id", "config"}; its files
                are asked for there, and their checksums recorded, by the first download
  verified      false where nobody has looked the id up; such a source is fetched when named
  tasks         base tasks that read it

`sha256` is that of the content as the source has it. `keep` tells in which form it is kept: "gzip"
compresses it, "literals" keeps the constants of a Python file as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flan_train.errors import UserError, unknown_name
from flan_train.tasks import catalogue, niv2

PATH = pathlib.Path(__file__).resolve().parent / "data_manifest.json"
FORMAT = 1
COMMERCIAL = ("yes", "no", "mixed", "unknown")
KEEP = ("", "gzip", "literals")
EVERYTHING = "all"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE_KEYS = {
    *("name", "group", "title", "licence", "commercial", "revision", "urls", "files", "each"),
    *("hub", "verified", "tasks", "note"),
}
_FILE_KEYS = {"path", "from", "sha256", "bytes", "rows", "split", "keep"}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file to be had.

    Attributes:
      path: where it goes, below the data folder.
      urls: the places that have it, the preferred one first.
      revision: of the source; part of what a record is compared with.
      sha256: hex digest of the content as the source has it; None when it is not known.
      bytes: the size of that content; None when it is not known.
      rows: lines of a TSV or JSON Lines file, rows of a CSV; None when it is not known.
      split: which split of the dataset it is; may be empty.
      keep: "", "gzip" or "literals": the form in which it is kept.
    """

    path: str
    urls: tuple[str, ...]
    revision: str = ""
    sha256: str | None = None
    bytes: int | None = None
    rows: int | None = None
    split: str = ""
    keep: str = ""


@dataclasses.dataclass(frozen=True)
class Hub:
    """A dataset of the Hugging Face hub; `config` is None where it has but one."""

    id: str
    config: str | None = None

    @property
    def folder(self) -> str:
        """Where its files go, below the data folder: what `tasks.source_hf` reads."""
        return f"hf/{self.id}/{self.config or 'default'}"


@dataclasses.dataclass(frozen=True)
class Source:
    """One licence at one revision; see the module."""

    name: str
    group: str
    title: str
    licence: str
    commercial: str
    revision: str = ""
    files: tuple[RemoteFile, ...] = ()
    hub: Hub | None = None
    verified: bool = True
    tasks: tuple[str, ...] = ()
    note: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What `--only` may call it."""
        return (self.name, self.group, *self.tasks)


def load(path: str | os.PathLike[str] | None = None) -> tuple[Source, ...]:
    """Returns the sources of a manifest, the shipped one unless another is named.

    Raises:
      UserError: it cannot be read, or a source or file in it is not as the module says.
    """
    return _load(pathlib.Path(path)) if path else _shipped()


@functools.cache
def _shipped() -> tuple[Source, ...]:
    return _load(PATH)


def _load(path: pathlib.Path) -> tuple[Source, ...]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _wrong(f"the manifest cannot be read: {error.strerror}", str(path)) from None
    except (ValueError, RecursionError) as error:
        raise _wrong(f"the manifest is not JSON: {error}", str(path)) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _wrong("the manifest is of another format", str(path), f'"format": {FORMAT}')
    entries = content.get("sources")
    if not isinstance(entries, list):
        raise _wrong("the manifest has no list of sources", str(path))
    sources = tuple(_source(entry, f"{path}, source {n}") for n, entry in enumerate(entries, 1))
    seen: dict[str, str] = {}
    for source in sources:
        for taken in (source.name, *(file.path for file in source.files)):
            if taken in seen:
                raise _wrong(f"'{taken}' stands twice", f"{path}, {seen[taken]} and {source.name}")
            seen[taken] = source.name
    return sources


def _wrong(what: str, where: str, expected: str = "") -> UserError:
    return UserError(
        what,
        where=where,
        expected=expected or "a manifest as flan_train/download_manifest.py describes it",
        fix="mend the file, or leave --manifest out",
    )


def _known_keys(entry: Any, known: Iterable[str], where: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise _wrong("an entry of the manifest is no object", where)
    for key in entry:
        if key not in known:
            raise unknown_name("key of the manifest", key, known, where)
    return entry


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong(f'"{key}" is {value!r}', where, "text")
    return value


def _source(entry: Any, where: str) -> Source:
    entry = _known_keys(entry, _SOURCE_KEYS, where)
    name = _text(entry, "name", where)
    where = f"{where} ({name})"
    texts = {key: _text(entry, key, where) for key in ("group", "title", "licence", "commercial")}
    if texts["commercial"] not in COMMERCIAL:
        raise unknown_name("kind of commercial use", texts["commercial"], COMMERCIAL, where)
    given = [key for key in ("files", "each", "hub") if key in entry]
    if len(given) != 1:
        raise _wrong("a source that says not once what its files are", where, "files, each or hub")
    hub = None
    if given == ["hub"]:
        inner = _known_keys(entry["hub"], ("id", "config"), where)
        hub = Hub(_text(inner, "id", where), inner.get("config"))
        _check_path(hub.folder, where)
    return Source(
        name=name,
        **texts,
        revision=entry.get("revision", ""),
        files=() if hub else tuple(_files(entry, where)),
        hub=hub,
        verified=entry.get("verified", True),
        tasks=tuple(entry.get("tasks", ())),
        note=entry.get("note", ""),
    )


def _files(entry: Mapping[str, Any], where: str) -> Iterable[RemoteFile]:
    urls = entry.get("urls")
    if not isinstance(urls, list) or not urls:
        raise _wrong('"urls" names no place', where, "a list of places")
    for url in urls:
        if not str(url).startswith(("https://", "http://")):
            raise _wrong(f"{url!r} is no place to fetch from", where, "https://...")
    if "each" in entry:
        if entry["each"] != "niv2_tasks":
            raise unknown_name("list of files", str(entry["each"]), ("niv2_tasks",), where)
        files = [
            {"path": f"niv2/tasks/{name}.json", "from": f"{name}.json"} for name in niv2.entries()
        ]
    else:
        files = entry["files"]
    for number, file in enumerate(files, 1):
        yield _file(file, urls, entry.get("revision", ""), f"{where}, file {number}")


def _file(entry: Any, urls: Sequence[str], revision: str, where: str) -> RemoteFile:
    entry = _known_keys(entry, _FILE_KEYS, where)
    path = _text(entry, "path", where)
    _check_path(path, where)
    sha256, keep = entry.get("sha256"), entry.get("keep", "")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        raise _wrong(f'"sha256" is {sha256!r}', where, "64 hexadecimal digits, or nothing")
    if keep not in KEEP:
        raise unknown_name("form to keep a file in", str(keep), KEEP, where)
    for key in ("bytes", "rows"):
        value = entry.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise _wrong(f'"{key}" is {value!r}', where, "a whole number, or nothing")
    name = urllib.parse.quote(entry.get("from", ""))
    return RemoteFile(
        path=path,
        urls=tuple(url.replace("{revision}", revision).replace("{from}", name) for url in urls),
        revision=revision,
        sha256=sha256,
        bytes=entry.get("bytes"),
        rows=entry.get("rows"),
        split=entry.get("split", ""),
        keep=keep,
    )


def _check_path(path: str, where: str) -> None:
    """Raises UserError for a path that could lead out of the data folder."""
    parts = path.split("/")
    if any(not part or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        raise _wrong(f"'{path}' is no path below the data folder", where, "folder/file")


def choose(sources: Sequence[Source], only: Sequence[str]) -> tuple[Source, ...]:
    """Returns the sources that `--only` names, in the order of the manifest.

    Args:
      sources: of the manifest.
      only: groups, sources or base tasks; "all" for everything; nothing for every source whose
        files are pinned.

    Raises:
      UserError: a name that none of them has.
    """
    if not only:
        return tuple(source for source in sources if source.verified)
    known = {name for source in sources for name in source.names} | {EVERYTHING}
    for name in only:
        if name not in known:
            by_hand = [base for base in needed_by_hand() if base.name == name]
            if by_hand:
                raise UserError(
                    f"{name} cannot be downloaded: {by_hand[0].note}",
                    where="--only",
                    expected="a group, a source or a base task of the manifest",
                    fix=f"put its rows at muffin/{name.removeprefix('muffin_')}/train.jsonl of the "
                    "data folder yourself",
                )
            raise unknown_name("source", name, known, "--only")
    if EVERYTHING in only:
        return tuple(sources)
    return tuple(source for source in sources if set(only) & set(source.names))


def needed_by_hand() -> tuple[catalogue.BaseTask, ...]:
    """Returns the base tasks whose data nobody may or can fetch for the user."""
    return tuple(base for base in catalogue.base_tasks() if base.obtainable != "public")
