"""A prepared dataset on disk: token ids and records by position, lengths in one array.

    <prepared_dir>/tasks/<task>@<fingerprint>/            see `shards`; shared by all mixtures
    <prepared_dir>/mixtures/<name>-<split>@<fingerprint>/
        manifest.json   members, shares, counts, drops, what is missing, sizes and hashes
        lengths.bin     int32 [n, 2], of all tasks in the order of the manifest, then of their
                        further renderings
        starts.bin      int64 [n], where each example begins in its task's tokens.bin, in tokens
        checksums.bin   uint32 [n], CRC-32 of each example's bytes

Opening reads the mixture's own files alone; a task's file is opened when an example of it is read.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flan_train import integrity, open_files, shards
from flan_train.errors import UserError
from flan_train.ordering import key_of
from flan_train.vocabulary import Vocabulary, vocabulary_path

MANIFEST = "manifest.json"
_INDEX = {"lengths.bin": "<i4", "starts.bin": "<i8", "checksums.bin": "<u4"}


class PreparedDataset:
    """The examples of a mixture, rendered and tokenised; index i is an example of some task.

    A task that comes round more than once may have further renderings: the same rows with other
    templates and exemplars drawn. Their examples follow those of all tasks' first rendering.

    Attributes:
      path: the mixture's folder.
      manifest: the content of its manifest.json; "examples" counts first renderings alone.
      task_names: the tasks in storage order; one without examples is among them.
      task_offsets: int64 [T + 1]; the first rendering of task t is
        task_offsets[t]:task_offsets[t + 1].
      passes: (start, count) of the examples of each rendering of a task, by its name.
      lengths: int32 [n, 2], tokens of inputs and targets, EOS included (read-only); n examples
        of all renderings.
      shares: planned share of each task in what is trained on.
    """

    def __init__(
        self, path: pathlib.Path, manifest: dict[str, Any], data_dir: str | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._data_dir = data_dir
        self._tasks: list[dict[str, Any]] = manifest["tasks"]
        self.task_names: list[str] = [task["task"] for task in self._tasks]
        self.shares: dict[str, float] = {task["task"]: task["share"] for task in self._tasks}
        # One part for each rendering of a task; all first ones come first.
        self._parts, self._part_tasks = _parts(self._tasks)
        counts = [part["examples"] for part in self._parts]
        self._offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.task_offsets = self._offsets[: len(self._tasks) + 1]
        self.passes: dict[str, list[tuple[int, int]]] = {name: [] for name in self.task_names}
        for task, start, size in zip(
            self._part_tasks.tolist(), self._offsets.tolist(), counts, strict=False
        ):
            self.passes[self.task_names[task]].append((start, size))
        count = int(self._offsets[-1])
        self.lengths = self._index("lengths.bin", (count, 2))
        self._starts = self._index("starts.bin", (count,))
        self._checksums = self._index("checksums.bin", (count,))
        self._dtype = np.dtype(manifest["dtype"])
        self._root = path.parent.parent / "tasks"
        self._checked: set[int] = set()
        self._token_files = [self._root / part["folder"] / shards.TOKENS for part in self._parts]
        self._files = open_files.OpenFiles()

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"PreparedDataset({str(self.path)!r}, {len(self):,} examples)"

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the ids: found by name, or else where it was.

        Raises:
          UserError: its file is gone, or is another one than was used.
        """
        facts = self.manifest["vocabulary"]
        problems: list[UserError] = []
        looked_at: list[str] = []
        by_name = functools.partial(vocabulary_path, facts["name"], self._data_dir)
        for locate in (by_name, lambda: pathlib.Path(facts["path"])):
            try:
                found = Vocabulary(locate(), facts["extra_ids"], facts["name"])
            except UserError as error:
                problems.append(error)
                continue
            if found.sha256 == facts["sha256"]:
                return found
            looked_at.append(str(found.path))
        if not looked_at:
            raise problems[0]
        raise UserError(
            "the vocabulary file has changed since the dataset was prepared",
            where=f"{', '.join(dict.fromkeys(looked_at))}; {self.path / MANIFEST}",
            expected=f"sha256 {facts['sha256']}",
            fix="put the old file back, or run `flan-train prepare` with the same gin files: it "
            "renders with the new one",
        )

    def task_of(self, indices: np.ndarray | int) -> np.ndarray:
        """Returns the position in `task_names` of each example, int64."""
        return self._part_tasks[self._part_of(indices)]

    def _part_of(self, indices: np.ndarray | int) -> np.ndarray:
        return np.searchsorted(self._offsets, indices, side="right") - 1

    def tokens(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of inputs and targets of one example, int32, EOS included.

        Raises:
          UserError: the stored bytes are not those that were written.
        """
        flat = self.read(np.array([index]))
        split = int(self.lengths[index, 0])
        return flat[:split].astype(np.int32), flat[split:].astype(np.int32)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the ids of several examples on end, inputs then targets of each, as stored.

        Args:
          indices: int [k].

        Raises:
          UserError: the stored bytes are not those that were written; names the file.
        """
        size = self._dtype.itemsize
        parts = self._part_of(indices).tolist()
        starts = (self._starts[indices] * size).tolist()
        sizes = (self.lengths[indices].sum(axis=1) * size).tolist()
        checksums = self._checksums[indices].tolist()
        blocks = []
        for position, part in enumerate(parts):
            path = self._token_files[part]
            block = self._files.read(path, starts[position], sizes[position])
            if zlib.crc32(block) != checksums[position]:
                raise shards.damaged(f"bytes changed in example {int(indices[position])}", path)
            blocks.append(block)
        return np.frombuffer(b"".join(blocks), dtype=self._dtype)

    def record(self, index: int) -> dict[str, Any]:
        """Returns how an example came about.

        Keys: task, family, form, held_out, extraction, template_id, example_id, options (tuple),
        answer, shots.

        Raises:
          UserError: the stored line is not the one that was written.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        number = int(self._part_of(index))
        task, part = self._tasks[self._part_tasks[number]], self._parts[number]
        folder = self._root / part["folder"]
        self._check_record_index(number)
        lines = folder / shards.RECORDS
        position = index - int(self._offsets[number])
        bounds = self._files.read(folder / shards.RECORD_OFFSETS, 8 * position, 16)
        checksum = self._files.read(folder / shards.RECORD_CHECKSUMS, 4 * position, 4)
        start, end = np.frombuffer(bounds, "<i8").tolist()
        if not 0 <= start < end <= part["files"][shards.RECORDS]["bytes"]:
            raise shards.damaged(f"example {index} has no record", folder / shards.RECORD_OFFSETS)
        line = self._files.read(lines, start, end - start)
        if zlib.crc32(line) != int.from_bytes(checksum, "little"):
            raise shards.damaged(f"the record of example {index} changed", lines)
        record = dict(zip(shards.RECORD_FIELDS, json.loads(line), strict=True))
        record["options"] = tuple(record["options"])
        record["references"] = tuple(record["references"])
        constant = ("task", "family", "form", "held_out", "extraction")
        return {**{key: task[key] for key in constant}, **record}

    def _check_record_index(self, number: int) -> None:
        """Compares the files that find and check a part's records with the manifest, once.

        Like the checksums of the tokens they must be those of this task: a folder of another one
        in its place would agree with itself.
        """
        if number in self._checked:
            return
        part = self._parts[number]
        for name in (shards.RECORD_OFFSETS, shards.RECORD_CHECKSUMS):
            shards.read_checked(self._root / part["folder"] / name, part["files"][name])
        self._checked.add(number)

    def _index(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a file of the mixture, checked and read whole.

        Under a memory map a file that somebody cuts short would end the process without a word.
        """
        if shape[0] == 0:
            return np.zeros(shape, _INDEX[name])
        content = shards.read_checked(self.path / name, self.manifest["files"][name])
        return np.frombuffer(content, _INDEX[name]).reshape(shape)


def open_prepared(
    path: str | os.PathLike[str], verify: bool = False, data_dir: str | None = None
) -> PreparedDataset:
    """Returns a prepared dataset, after checking that it is whole.

    The mixture's own files are checked by content, those of the tasks by size; every example and
    every record is checked against its checksum when it is read.

    Args:
      path: the mixture's folder.
      verify: check the tasks' files by content too.
      data_dir: where the vocabulary may be, else FLAN_DATA_DIR.

    Raises:
      UserError: no dataset there, or it is damaged: names the file and what repairs it.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(
            "no prepared dataset there",
            where=str(path),
            expected="a folder <prepared_dir>/mixtures/<name>-<split>@<fingerprint>",
            fix="run `flan-train prepare` with the gin files of the run",
        )
    manifest = shards.read_summary(path / MANIFEST)
    # Its seal tells damage, but anybody can seal what they have made up.
    try:
        for part in _parts(manifest["tasks"])[0]:
            if pathlib.PurePath(part["folder"]).name != part["folder"]:
                raise ValueError(f"the folder {part['folder'][:80]!a}")
            folder = path.parent.parent / "tasks" / part["folder"]
            shards.check_files(folder, part["files"], checksums=verify)
        return PreparedDataset(path, manifest, data_dir)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise integrity.damaged(
            f"its manifest says what no manifest says: {str(error)[:200]}", path / MANIFEST
        ) from error


def _parts(tasks: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """Returns what holds examples, in the order of their indices, and the task of each, int64."""
    parts = [*enumerate(tasks)]
    most = max((len(task.get("renderings", ())) for task in tasks), default=0)
    for further in range(most):
        parts += [
            (number, task["renderings"][further])
            for number, task in enumerate(tasks)
            if len(task.get("renderings", ())) > further
        ]
    return [part for _, part in parts], np.array([number for number, _ in parts], np.int64)


def write_mixture(
    root: pathlib.Path,
    header: Mapping[str, Any],
    tasks: Iterable[tuple[str, Mapping[str, Any], float]],
    renderings: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]] | None = None,
) -> pathlib.Path:
    """Writes the folder of a mixture over finished tasks, and returns its path.

    A member without examples is listed like any other, so that its drops can be read.

    Args:
      root: the prepared_dir.
      header: "name", "split" and whatever else the manifest tells.
      tasks: (folder under tasks/, its task.json, share) of each member.
      renderings: (folder, its task.json) of the further renderings of a task, by its name.
    """
    tasks, further = list(tasks), renderings or {}
    facts = ("task", "family", "form", "held_out", "extraction", "examples", "tokens")
    origin = ("source_fingerprint", "template_hash")
    counts = ("bad_rows", "drops", "inputs_cut", "fewer_shots", "shots")
    kept = (*facts, *origin, *counts)
    of_a_rendering = ("draw", "examples", "tokens", *counts, "files")
    members = [
        {
            "folder": folder,
            "share": share,
            **{key: summary[key] for key in kept},
            "files": summary["files"],
            "renderings": [
                {"folder": name, **{key: again[key] for key in of_a_rendering}}
                for name, again in further.get(summary["task"], ())
            ],
        }
        for folder, summary, share in tasks
    ]
    manifest = {
        "format_version": shards.FORMAT_VERSION,
        **header,
        "dtype": tasks[0][1]["dtype"],
        "examples": sum(member["examples"] for member in members),
        "tasks": members,
    }
    fingerprint = f"{key_of(json.dumps(_deciding(manifest), sort_keys=True)):016x}"
    final = root / "mixtures" / folder_name(f"{header['name']}-{header['split']}", fingerprint)
    decided = {key: manifest[key] for key in manifest.keys() - {"vocabulary", "missing"}}
    if shards.is_whole(final, MANIFEST, facts=decided):
        _bring_up_to_date(final / MANIFEST, manifest)
        return final
    with shards.NewFolder(final) as folder:
        for name in _INDEX:
            folder.append(name, b"")
        for part in _parts(members)[0]:
            source, files = root / "tasks" / part["folder"], part["files"]
            content = shards.read_checked(source / "lengths.bin", files["lengths.bin"])
            totals = np.frombuffer(content, "<i4").reshape(-1, 2).sum(axis=1, dtype=np.int64)
            folder.append("lengths.bin", content)
            folder.append("starts.bin", (totals.cumsum() - totals).astype("<i8").tobytes())
            checksums = shards.read_checked(source / "checksums.bin", files["checksums.bin"])
            folder.append("checksums.bin", checksums)
        folder.finish(MANIFEST, manifest)
    return final


def _deciding(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a manifest without what differs from place to place: paths, and texts with them."""
    vocabulary = {key: manifest["vocabulary"][key] for key in ("extra_ids", "size", "sha256")}
    return {**manifest, "vocabulary": vocabulary, "missing": sorted(manifest["missing"])}


def _bring_up_to_date(path: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Puts this place's paths into a manifest that is there already, if they are others."""
    before = shards.read_summary(path)
    after = shards.sealed({**manifest, "files": before["files"]})
    if after["seal"] == before["seal"]:
        return
    # Somebody else's store, or a full disk: what is there serves as well.
    with contextlib.suppress(OSError), shards.NewFolder(path.parent) as folder:
        temporary = folder.path / MANIFEST
        temporary.write_bytes(shards.encoded(after))
        temporary.replace(path)


def folder_name(name: str, fingerprint: str) -> str:
    """Returns `<name>@<fingerprint>` without characters that a path cannot hold."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
    return f"{safe}@{fingerprint[:16]}"
