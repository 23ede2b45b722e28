"""Rows of a Hugging Face dataset that is on this machine; nothing is fetched.

Read through pyarrow, which is all that it takes: a folder that `save_to_disk` wrote or Parquet
files in `FLAN_DATA_DIR/hf/<id>/<config>`, else what `load_dataset` left in its own cache.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flan_train.errors import UserError
from flan_train.tasks import source_cache, sources
from flan_train.tasks.source_columns import ArrowColumns, Columns, ParquetColumns
from flan_train.tasks.source_files import Item
from flan_train.tasks.source_table import SourceSpec

_SHARD = re.compile(r"(?P<part>.+?)(?:-\d{5}-of-\d{5})?")
_Parts = dict[str, list[pathlib.Path]]


def places(spec: SourceSpec, folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of the data folder in which a dataset is looked for."""
    root = folder / "hf" / spec.id
    return [root / spec.config] if spec.config else [root, root / "default"]


def find(spec: SourceSpec, folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of a dataset, or None when it is nowhere on this machine."""
    for place in places(spec, folder):
        if sources.is_there(place) and _parts(place):
            return place
    return _cached(spec)


def _cached(spec: SourceSpec) -> pathlib.Path | None:
    """What `datasets` has in its cache: of the pinned revision, or the newest if none is."""
    named = os.environ.get("HF_DATASETS_CACHE")
    home = os.environ.get("HF_HOME") or pathlib.Path.home() / ".cache" / "huggingface"
    root = pathlib.Path(named) if named else pathlib.Path(home) / "datasets"
    # Where the table names no configuration the data set has one only, under whatever name.
    pattern = f"{spec.config or '*'}/*/{spec.revision or '*'}/dataset_info.json"
    found = [path.parent for path in (root / spec.id.replace("/", "___")).glob(pattern)]
    return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


class HfReader:
    """A dataset in a folder."""

    def __init__(self, spec: SourceSpec, folder: pathlib.Path, named: bool = True) -> None:
        """Remembers what to read.

        Args:
          spec: of the dataset.
          folder: where it is.
          named: whether class labels come by name; else by number.
        """
        self._spec = spec
        self._folder = folder
        self._named = named

    def describe(self) -> str:
        """Returns id, config and revision, and whether nobody has looked them up."""
        said = [self._spec.note] if self._spec.note else []
        if self._spec.revision:
            said.append(f"revision {self._spec.revision[:12]}")
        if not self._spec.verified:
            said.append("unverified id")
        return self._spec.name + (f" ({'; '.join(said)})" if said else "")

    def file_key(self) -> tuple[Any, ...]:
        """Returns path, time and size of every file."""
        return tuple(
            sources.file_key(path) for files in _parts(self._folder).values() for path in files
        )

    def identity(self) -> str:
        """Returns the hashes of the files' contents by split."""
        return repr(
            [
                (part, [source_cache.content_hash(path) for path in files])
                for part, files in _parts(self._folder).items()
            ]
        )

    def sizes(self) -> Mapping[str, int]:
        """Returns how many rows every split has, as its files say."""
        return {
            part: sum(columns.size for columns in tables) for part, tables in self._tables().items()
        }

    def items(self, part: str, start: int, stop: int) -> Iterator[Item]:
        """Streams the rows of a split from `start` up to `stop`.

        Raises:
          UserError: a file cannot be read.
        """
        number = 0
        for columns in self._tables()[part]:
            first, last = max(start - number, 0), min(stop - number, columns.size)
            if first < last:
                rows = columns.rows(first, last)
                for offset, raw in enumerate(rows, start=number + first):
                    where = f"{self._spec.name}, {part}[{offset}]"
                    yield Item(where, f"hf:{part}:{offset}", raw)
            number += columns.size

    def _tables(self) -> Mapping[str, list[Columns]]:
        return _tables(self._folder, self.file_key(), self._named)


@functools.lru_cache(maxsize=32)
def _tables(folder: pathlib.Path, key: tuple[Any, ...], named: bool) -> Mapping[str, list[Columns]]:
    return {
        part: [
            (ParquetColumns if path.suffix == ".parquet" else ArrowColumns)(path, named)
            for path in files
        ]
        for part, files in _parts(folder).items()
    }


def _parts(folder: pathlib.Path) -> _Parts:
    """Returns the files of every split of a folder, whichever of four layouts it has."""
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json").get("splits", [])
        return {str(name): _saved(folder / str(name)) for name in names}
    if (folder / "state.json").is_file():
        return {"train": _saved(folder)}
    parts: _Parts = {}
    # The hub keeps a dataset's files in "data" where it has one configuration.
    for place in (folder, folder / "data"):
        for path in sorted([*place.glob("*.parquet"), *place.glob("*/*.parquet")]):
            shard = _SHARD.fullmatch(path.stem)
            if path.parent != place:
                if path.parent.name != "data":
                    parts.setdefault(path.parent.name, []).append(path)
            elif shard is not None:
                parts.setdefault(shard["part"], []).append(path)
        if parts:
            return parts
    # The cache of `load_dataset`: the name of the dataset stands before the split.
    for path in sorted(folder.glob("*.arrow")):
        shard = _SHARD.fullmatch(path.stem)
        if shard is not None and not path.name.startswith("cache-"):
            parts.setdefault(shard["part"].rpartition("-")[2], []).append(path)
    return parts


def _saved(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that `save_to_disk` wrote of one split, in their order."""
    files = _json(folder / "state.json").get("_data_files", [])
    return [folder / file["filename"] for file in files]


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise sources.unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"not valid JSON: {error}", where=str(path), fix="save the dataset again"
        ) from None
    if not isinstance(content, dict):
        raise UserError("not a JSON object", where=str(path), fix="save the dataset again")
    return content
