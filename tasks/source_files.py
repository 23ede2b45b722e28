"""Rows of local files: JSON Lines, JSON, TSV, CSV and Parquet, the text ones also gzipped."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, Protocol

from flan_train.errors import UserError
from flan_train.tasks import source_cache, source_columns, source_splits, sources
from flan_train.tasks.definitions import BadRow
from flan_train.tasks.source_table import SourceSpec

FORMATS = ("jsonl", "json", "tsv", "csv", "parquet")
# A field of a CSV file may be a whole article.
_LONGEST_FIELD = 1 << 26
_MOST_LINE = 1 << 28


class Item(NamedTuple):
    """A row as its source has it.

    Attributes:
      where: "file:line", or the dataset, part and number, for messages.
      id: what tells the row from others of the same source.
      raw: its fields, or what is wrong with it.
    """

    where: str
    id: str
    raw: Mapping[str, Any] | BadRow


class Reader(Protocol):
    """A source that is there."""

    def sizes(self) -> Mapping[str, int]:
        """Returns how many rows every part has."""
        ...

    def items(self, part: str, start: int, stop: int) -> Iterator[Item]:
        """Streams the rows of a part from `start` up to `stop`."""
        ...

    def file_key(self) -> tuple[Any, ...]:
        """Returns what is another when the files are, from names, times and sizes."""
        ...

    def identity(self) -> str:
        """Returns what changes whenever the rows could."""
        ...

    def describe(self) -> str:
        """Returns what is read, in a few words."""
        ...


_Numbered = Iterator[tuple[int, Mapping[str, Any] | BadRow]]


def format_of(path: pathlib.Path) -> str:
    """Returns the format that a file's name ends in, ".gz" aside.

    Raises:
      UserError: it is none that can be read.
    """
    name = path.name.removesuffix(".gz")
    ending = name.rpartition(".")[2]
    if ending not in FORMATS or (ending == "parquet" and path.name.endswith(".gz")):
        raise UserError(
            f"the format of {path.name} is not known",
            where=str(path),
            expected="a name ending in "
            + ", ".join(f".{ending}" for ending in FORMATS)
            + "; all but .parquet may be gzipped (.gz)",
        )
    return ending


def read_items(path: pathlib.Path, columns: Sequence[str] = ()) -> Iterator[Item]:
    """Streams the rows of a file in its order.

    A TSV file has no quoting; a JSON file holds one list.

    Args:
      path: the file.
      columns: names of the columns of a TSV or CSV file without a header.

    Raises:
      UserError: the file cannot be read, or its format is not known.
    """
    readers: dict[str, Callable[[pathlib.Path], _Numbered]] = {
        "jsonl": _json_lines,
        "json": _json_list,
        "tsv": functools.partial(_tabs, columns),
        "csv": functools.partial(_commas, columns),
        "parquet": _parquet,
    }
    reader = readers[format_of(path)]
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    try:
        for number, raw in reader(path):
            yield Item(f"{path}:{number}", f"{stem}:{number}", raw)
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, error) from None


def _opened(path: pathlib.Path) -> IO[bytes]:
    return gzip.GzipFile(path) if path.name.endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _lines(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    with _opened(path) as stream:
        number = 0
        # A few compressed bytes can be a line that no memory holds.
        while line := stream.readline(_MOST_LINE + 1):
            number += 1
            if len(line) > _MOST_LINE:
                raise UserError(
                    f"a line of more than {_MOST_LINE:,} bytes",
                    where=f"{path}, line {number}",
                    expected="one row a line",
                )
            yield number, line


def _json_lines(path: pathlib.Path) -> _Numbered:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, _bad(path, number, "not JSON", str(error), "a JSON object")
            continue
        if isinstance(raw, dict):
            yield number, raw
        else:
            found = f"a JSON {type(raw).__name__}"
            yield number, _bad(path, number, "not an object", found, "a JSON object")


def _json_list(path: pathlib.Path) -> _Numbered:
    content = b"".join(line for _, line in _lines(path))
    try:
        listed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}", where=str(path)) from None
    if not isinstance(listed, list):
        raise UserError(
            f"a JSON {type(listed).__name__}", where=str(path), expected="a list of objects"
        )
    for number, raw in enumerate(listed, start=1):
        if isinstance(raw, dict):
            yield number, raw
        else:
            found = f"a JSON {type(raw).__name__}"
            yield number, _bad(path, number, "not an object", found, "a JSON object")


def _tabs(columns: Sequence[str], path: pathlib.Path) -> _Numbered:
    header = list(columns)
    for number, line in _lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield number, _bad(path, number, "not UTF-8", str(error), "UTF-8 text")
            continue
        fields = text.split("\t")
        if not header:
            header = fields
        elif len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        else:
            found = f"{len(fields)} columns"
            expected = f"{len(header)} columns"
            yield number, _bad(path, number, "other number of columns", found, expected)


def _commas(columns: Sequence[str], path: pathlib.Path) -> _Numbered:
    csv.field_size_limit(_LONGEST_FIELD)
    with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream)
        try:
            header = list(columns) or next(rows, [])
            for fields in rows:
                if len(fields) == len(header):
                    yield rows.line_num, dict(zip(header, fields, strict=True))
                elif fields:
                    found = f"{len(fields)} fields"
                    expected = f"{len(header)} fields"
                    yield (
                        rows.line_num,
                        _bad(path, rows.line_num, "other number of columns", found, expected),
                    )
        except UnicodeDecodeError as error:
            raise UserError(
                f"not UTF-8: {error}", where=f"{path}:{rows.line_num + 1}", expected="UTF-8 text"
            ) from None
        except csv.Error as error:
            raise UserError(f"not CSV: {error}", where=f"{path}:{rows.line_num}") from None


def _parquet(path: pathlib.Path) -> _Numbered:
    table = source_columns.ParquetColumns(path)
    return enumerate(table.rows(0, table.size), start=1)


def _bad(path: pathlib.Path, number: int, reason: str, found: str, expected: str) -> BadRow:
    return BadRow(f"{path}:{number}", reason, found, expected)


def _broken(path: pathlib.Path, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.strerror:
        return sources.unreadable(path, error)
    return UserError(
        f"cannot read the file: {error}",
        where=str(path),
        expected="a whole file",
        fix="fetch it again",
    )


# Sizes of files already read in this process, some hundred at most.
_SIZES: dict[tuple[str, Any], Mapping[str, int]] = {}


class FileReader:
    """The files of a source of kind "file", all of which are there."""

    def __init__(self, spec: SourceSpec, files: Mapping[str, pathlib.Path]) -> None:
        self._spec = spec
        self._files = dict(files)

    def describe(self) -> str:
        """Returns the paths below the data folder, with the note of the table."""
        note = f" ({self._spec.note})" if self._spec.note else ""
        return " and ".join(self._spec.files[part] for part in self._files) + note

    def file_key(self) -> tuple[Any, ...]:
        """Returns path, time and size of every file."""
        return tuple(sources.file_key(path) for path in self._files.values())

    def identity(self) -> str:
        """Returns the hashes of the files' contents by part."""
        return repr([(part, source_cache.content_hash(path)) for part, path in self._files.items()])

    def sizes(self) -> Mapping[str, int]:
        """Returns how many rows every part has, bad ones included; read once."""
        key = self.file_key()
        known = _SIZES.get((self._spec.said, key))
        if known is None:
            if sum(size for _, _, size in key) < source_cache.LARGE_FILE:
                known = self._counted()
            else:
                known = source_cache.remembered("sizes", (self._spec.said, key), self._counted)
            _SIZES[self._spec.said, key] = known
        return known

    def _counted(self) -> dict[str, int]:
        if not self._spec.part_field and not self._spec.deal_by:
            return {part: sum(1 for _ in self._read(path)) for part, path in self._files.items()}
        found = dict.fromkeys(source_splits.SPLITS, 0) if self._spec.deal_by else {}
        for item in self._all():
            part = self._part(item.raw)
            found[part] = found.get(part, 0) + 1
        return found

    def items(self, part: str, start: int, stop: int) -> Iterator[Item]:
        """Streams the rows of a part from `start` up to `stop`."""
        if not self._spec.part_field and not self._spec.deal_by:
            rows = self._read(self._files[part])
        else:
            rows = (item for item in self._all() if self._part(item.raw) == part)
        for number, item in enumerate(rows):
            if number >= stop:
                return
            if number >= start:
                yield item

    def _all(self) -> Iterator[Item]:
        for path in self._files.values():
            yield from self._read(path)

    def _read(self, path: pathlib.Path) -> Iterator[Item]:
        return read_items(path, self._spec.columns)

    def _part(self, raw: Mapping[str, Any] | BadRow) -> str:
        """The part of a row; of one that cannot be read the first, so that it is reported once."""
        spec = self._spec
        if spec.deal_by:
            if isinstance(raw, BadRow):
                return "train"
            asked = (str(look_up(raw, key)) for key in spec.deal_by)
            # By the file, not the task: tasks that share a file share its splits.
            return source_splits.dealt(spec.name, asked)
        if isinstance(raw, BadRow) or not isinstance(raw.get(spec.part_field), str):
            expression = spec.splits.get("train")
            return source_splits.parse(expression)[0].part if expression else ""
        return str(raw[spec.part_field])


def look_up(raw: Mapping[str, Any], path: str) -> Any:
    """Returns what a row has at a path such as "question.stem"; None when it has nothing there."""
    if path in raw:
        return raw[path]
    found: Any = raw
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def find_files(
    spec: SourceSpec, folder: pathlib.Path
) -> tuple[dict[str, pathlib.Path], list[pathlib.Path]]:
    """Returns the files of a source that are there by part, and those that are missing.

    A file may also be there gzipped, under its name with ".gz" at the end.
    """
    there: dict[str, pathlib.Path] = {}
    missing = []
    for part, name in spec.files.items():
        path = folder / name
        zipped = path.with_name(path.name + ".gz")
        if sources.is_there(path):
            there[part] = path
        elif format_of(path) != "parquet" and sources.is_there(zipped):
            there[part] = zipped
        else:
            missing.append(path)
    return there, missing
