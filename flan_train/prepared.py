"""A prepared dataset on disk: token ids and records by position, lengths in one array.

    <prepared_dir>/tasks/<task>@<fingerprint>/            see `shards`; shared by all mixtures
    <prepared_dir>/mixtures/<name>-<split>@<fingerprint>/
        manifest.json   members, shares, counts, drops, what is missing, sizes and hashes
        lengths.bin     int32 [n, 2], of all tasks in the order of the manifest
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
import uuid
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flan_train import open_files, shards
from flan_train.errors import UserError
from flan_train.ordering import key_of
from flan_train.vocabulary import Vocabulary, vocabulary_path

MANIFEST = "manifest.json"
_INDEX = {"lengths.bin": "<i4", "starts.bin": "<i8", "checksums.bin": "<u4"}


class PreparedDataset:
    """The examples of a mixture, rendered and tokenised; index i is an example of some task.

    Attributes:
      path: the mixture's folder.
      manifest: the content of its manifest.json.
      task_names: the tasks in storage order; one without examples is among them.
      task_offsets: int64 [T + 1]; examples of task t are task_offsets[t]:task_offsets[t + 1].
      lengths: int32 [n, 2], tokens of inputs and targets, EOS included (memory-mapped).
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
        counts = [task["examples"] for task in self._tasks]
        self.task_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        count = int(self.task_offsets[-1])
        self.lengths = self._map("lengths.bin", (count, 2))
        self._starts = self._map("starts.bin", (count,))
        self._checksums = self._map("checksums.bin", (count,))
        self._dtype = np.dtype(manifest["dtype"])
        self._root = path.parent.parent / "tasks"
        self._token_files = [self._root / task["folder"] / shards.TOKENS for task in self._tasks]
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
        return np.searchsorted(self.task_offsets, indices, side="right") - 1

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
        tasks = self.task_of(indices).tolist()
        starts = (self._starts[indices] * size).tolist()
        sizes = (self.lengths[indices].sum(axis=1) * size).tolist()
        checksums = self._checksums[indices].tolist()
        blocks = []
        for position, task in enumerate(tasks):
            path = self._token_files[task]
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
        number = int(self.task_of(index))
        task = self._tasks[number]
        folder = self._root / task["folder"]
        lines = folder / shards.RECORDS
        position = index - int(self.task_offsets[number])
        bounds = self._files.read(folder / shards.RECORD_OFFSETS, 8 * position, 16)
        checksum = self._files.read(folder / shards.RECORD_CHECKSUMS, 4 * position, 4)
        start, end = np.frombuffer(bounds, "<i8").tolist()
        if not 0 <= start < end <= task["files"][shards.RECORDS]["bytes"]:
            raise shards.damaged(f"example {index} has no record", folder / shards.RECORD_OFFSETS)
        line = self._files.read(lines, start, end - start)
        if zlib.crc32(line) != int.from_bytes(checksum, "little"):
            raise shards.damaged(f"the record of example {index} changed", lines)
        record = dict(zip(shards.RECORD_FIELDS, json.loads(line), strict=True))
        record["options"] = tuple(record["options"])
        constant = ("task", "family", "form", "held_out", "extraction")
        return {**{key: task[key] for key in constant}, **record}

    def _map(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if shape[0] == 0:
            return np.zeros(shape, _INDEX[name])
        return np.memmap(self.path / name, dtype=_INDEX[name], mode="r", shape=shape)


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
    shards.check_files(path, manifest["files"], checksums=True)
    for task in manifest["tasks"]:
        folder = path.parent.parent / "tasks" / task["folder"]
        shards.check_files(folder, task["files"], checksums=verify)
    return PreparedDataset(path, manifest, data_dir)


def write_mixture(
    root: pathlib.Path,
    header: Mapping[str, Any],
    tasks: Iterable[tuple[str, Mapping[str, Any], float]],
) -> pathlib.Path:
    """Writes the folder of a mixture over finished tasks, and returns its path.

    A member without examples is listed like any other, so that its drops can be read.

    Args:
      root: the prepared_dir.
      header: "name", "split" and whatever else the manifest tells.
      tasks: (folder under tasks/, its task.json, share) of each member.
    """
    tasks = list(tasks)
    facts = ("task", "family", "form", "held_out", "extraction", "examples", "tokens")
    origin = ("source_fingerprint", "template_hash")
    counts = ("bad_rows", "drops", "inputs_cut", "fewer_shots", "shots")
    kept = (*facts, *origin, *counts)
    members = [
        {
            "folder": folder,
            "share": share,
            **{key: summary[key] for key in kept},
            "files": summary["files"],
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
    if shards.is_whole(final, MANIFEST):
        _bring_up_to_date(final / MANIFEST, manifest)
        return final
    with shards.NewFolder(final) as folder:
        for name in _INDEX:
            folder.append(name, b"")
        for name, _, _ in tasks:
            source = root / "tasks" / name
            content = (source / "lengths.bin").read_bytes()
            totals = np.frombuffer(content, "<i4").reshape(-1, 2).sum(axis=1, dtype=np.int64)
            folder.append("lengths.bin", content)
            folder.append("starts.bin", (totals.cumsum() - totals).astype("<i8").tobytes())
            folder.append("checksums.bin", (source / "checksums.bin").read_bytes())
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
    temporary = path.with_name(f"{MANIFEST}.{uuid.uuid4().hex[:16]}")
    try:
        temporary.write_bytes(shards.encoded(after))
        temporary.replace(path)
    except OSError:  # somebody else's store, or a full disk: what is there serves as well
        return
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def folder_name(name: str, fingerprint: str) -> str:
    """Returns `<name>@<fingerprint>` without characters that a path cannot hold."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in name)
    return f"{safe}@{fingerprint[:16]}"
