"""An evaluation set of the user's: where its files are, its three splits, what its fields hold."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import heapq
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from flan_train.errors import UserError
from flan_train.tasks import parts, source_files, sources
from flan_train.tasks.definitions import BadRow, Row
from flan_train.tasks.source_files import Item

# Counted up whenever reading changes what rows a file gives.
READER_VERSION = 1
SPLITS = ("all", "validation", "test")
# The role of files that exemplars come from: no rows of the evaluation set.
EXEMPLARS = "train"

Paths = Mapping[str, Sequence[pathlib.Path]]
FileKeys = tuple[tuple[str, int, int], ...]  # `sources.file_key` of each
Key = tuple[tuple[str, FileKeys], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class UserSet:
    """What is known of a set.

    Attributes:
      name: of its folder below the data folder.
      files: what there is to read: {role: patterns below the folder, the best first}.
      read: the rows of the evaluation set in the order of the files, from the paths by role. A row
        has "example_id" and "group".
      origin: where the files come from, for the message when they are missing.
      cut_by_group: whether each group is cut into validation and test, else the whole set.
    """

    name: str
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[Paths], Iterator[Row | BadRow]]
    origin: str
    cut_by_group: bool = False


class SetSource:
    """Rows of a set, or of some of its groups; split "all" is validation and test together.

    A row's part of the cut depends on the set, not on the task: a sentence that one task has in
    its test part is in no other task's validation part.
    """

    def __init__(
        self, user_set: UserSet, roles: tuple[str, ...], groups: frozenset[str] | None = None
    ) -> None:
        """Remembers what to read.

        Args:
          user_set: which set.
          roles: the files that are needed.
          groups: the groups whose rows are wanted; None for all rows.
        """
        self.user_set = user_set
        self.roles = roles
        self.groups = groups

    def paths(self, data_dir: str | None) -> dict[str, tuple[pathlib.Path, ...]]:
        """Returns the files by role.

        Raises:
          UserError: one that is needed is not there.
        """
        folder = sources.resolve_data_dir(data_dir) / self.user_set.name
        found = {role: _first_found(folder, self.user_set.files[role]) for role in self.roles}
        for role, paths in found.items():
            if not paths:
                names = self.user_set.files[role]
                raise UserError(
                    f"{self.user_set.name}/{names[0]} is missing",
                    where=str(folder),
                    expected="one of " + ", ".join(names) if len(names) > 1 else names[0],
                    fix=f"put there {self.user_set.origin}",
                )
        return found

    def rows(self, split: str, data_dir: str | None) -> Iterator[Row | BadRow]:
        """Streams a split's rows in the order of the files; bad ones are in all three splits."""
        rows, validation = loaded(self.user_set, self.key(data_dir))
        for row in rows:
            if isinstance(row, BadRow):
                yield row
            elif self.groups is not None and row["group"] not in self.groups:
                continue
            elif split == "all" or (split == "validation") == (row["example_id"] in validation):
                yield row

    def count(self, split: str, data_dir: str | None) -> int:
        """Number of usable rows of a split."""
        return sum(not isinstance(row, BadRow) for row in self.rows(split, data_dir))

    def available(self, data_dir: str | None) -> str | None:
        """None when the files are there, else one line: what is missing and how to get it."""
        try:
            self.paths(data_dir)
        except UserError as error:
            where = f" ({error.where})" if error.where else ""
            return f"{error.what}{where}; {error.fix}"
        return None

    def fingerprint(self, split: str, data_dir: str | None) -> str:
        """Hex sha256 over the reader's version, the files' contents, the groups and the split."""
        contents = [
            (role, [sources.content_hash(path) for path in paths])
            for role, paths in self.paths(data_dir).items()
        ]
        text = repr(
            (READER_VERSION, self.user_set.name, contents, sorted(self.groups or ()), split)
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self, data_dir: str | None) -> str:
        """The files below the data folder."""
        folder = sources.resolve_data_dir(data_dir)
        listed = [path for paths in self.paths(data_dir).values() for path in paths]
        return " and ".join(path.relative_to(folder).as_posix() for path in listed)

    def key(self, data_dir: str | None) -> Key:
        """Returns the names, times and sizes of the files with the rows, by role.

        Raises:
          UserError: as `paths`.
        """
        paths = self.paths(data_dir)
        roles = (role for role in self.roles if role != EXEMPLARS)
        return tuple((role, tuple(map(sources.file_key, paths[role]))) for role in roles)

    def exemplar_key(self, data_dir: str | None) -> FileKeys:
        """Returns the same of the files that exemplars come from."""
        return tuple(map(sources.file_key, self.paths(data_dir)[EXEMPLARS]))


def _first_found(folder: pathlib.Path, patterns: Sequence[str]) -> tuple[pathlib.Path, ...]:
    for pattern in patterns:
        zipped = [] if pattern.endswith(".parquet") else [f"{pattern}.gz"]
        for one in (pattern, *zipped):
            found = sorted(folder.glob(one))
            if found:
                return tuple(found)
    return ()


# Read once in a process for the same files: a set has several tasks, a task several forms.
@functools.lru_cache(maxsize=16)
def loaded(user_set: UserSet, key: Key) -> tuple[tuple[Row | BadRow, ...], frozenset[str]]:
    """Returns the rows of a set, of all its groups, and the ids of its validation part."""
    paths = {role: [pathlib.Path(one[0]) for one in files] for role, files in key}
    rows = tuple(user_set.read(paths))
    units: dict[str, list[str]] = collections.defaultdict(list)
    for row in rows:
        if not isinstance(row, BadRow):
            units[row["group"] if user_set.cut_by_group else ""].append(row["example_id"])
    return rows, frozenset().union(*map(parts.validation_ids, units.values()))


# --- fields ---------------------------------------------------------------------------------------


def items_of(paths: Sequence[pathlib.Path]) -> Iterator[Item]:
    """Yields the rows of files, one file after the other."""
    for path in paths:
        yield from source_files.read_items(path)


def text_field(item: Item, *names: str) -> str | BadRow:
    """Returns the text that a row has under the first of some names, or what is wrong with it."""
    assert not isinstance(item.raw, BadRow)
    for name in names:
        value = source_files.look_up(item.raw, name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    wanted = " or ".join(repr(name) for name in names)
    return BadRow(item.where, f"no text in {names[-1]}", found_in(item, names), f"text as {wanted}")


def score_field(item: Item, *names: str) -> float | BadRow:
    """Returns the number in 0..1 that a row has under the first of some names, or what is wrong."""
    assert not isinstance(item.raw, BadRow)
    for name in names:
        value = source_files.look_up(item.raw, name)
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number) and 0 <= number <= 1:
            return number
    wanted = " or ".join(repr(name) for name in names)
    return BadRow(
        item.where, "no score", found_in(item, names), f"a number from 0 to 1 as {wanted}"
    )


def found_in(item: Item, names: Sequence[str]) -> str:
    """Returns what a row has under the first of some names, in a few words, for messages."""
    assert not isinstance(item.raw, BadRow)
    for name in names:
        value = source_files.look_up(item.raw, name)
        if value is not None:
            return f"{value!r} as {name!r}"
    return "the fields " + (", ".join(map(str, item.raw)) or "of nothing")


def digest(text: str) -> str:
    """Returns 16 hex digits that name a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sample(rows: Iterator[Row | BadRow], field: str, most: int) -> Iterator[Row | BadRow]:
    """Yields `most` of the rows, those whose texts have the smallest hashes, and every bad one.

    They keep their order and are named by the hash of the text, so that every format of a release
    gives the same rows under the same ids.

    Args:
      rows: all of a set; "example_id" is put in here.
      field: holds the text.
      most: how many are wanted.
    """
    listed = list(rows)
    names = ["" if isinstance(row, BadRow) else digest(row[field]) for row in listed]
    good = [index for index, row in enumerate(listed) if not isinstance(row, BadRow)]
    chosen = set(heapq.nsmallest(most, good, key=lambda index: (names[index], index)))
    seen: collections.Counter[str] = collections.Counter()
    for index, row in enumerate(listed):
        if isinstance(row, BadRow):
            yield row
        elif index in chosen:
            name = names[index]
            seen[name] += 1
            again = f"-{seen[name]}" if seen[name] > 1 else ""
            yield {**row, "example_id": name + again}
