"""One task from its rows to a finished folder of ids: what a worker process of `prepare` does."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import heapq
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from flan_train import shards, tasks
from flan_train.errors import UserError
from flan_train.tasks import BadRow, Rendered, Row, TaskDefinition
from flan_train.vocabulary import Vocabulary, load_vocabulary

SUMMARY = "task.json"
_CHUNK = 1024
TOO_LONG = "targets too long"
EMPTY = "empty target"

Report = Callable[[int], None]
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class TaskJob:
    """All that decides the bytes of a task's folder, and where it goes.

    Attributes:
      task: the registered name.
      split: "train", "validation" or "test".
      root: the prepared_dir.
      data_dir: the data folder, else FLAN_DATA_DIR.
      vocabulary: name or path; `vocabulary_sha256` and `vocabulary_size` of what it is now.
      lengths: limits of inputs and targets in tokens, EOS included.
      seed: of the rendering.
      examples: only so many rows, those with the smallest hash; None for all.
      max_bad_rows: how many bad rows may be left out (decides no bytes, only errors).
      source_fingerprint, template_hash: what the task says of itself.
      modules: what a worker process imports first, so that the user's tasks are registered.
    """

    task: str
    split: str
    root: pathlib.Path
    data_dir: str | None
    vocabulary: str
    vocabulary_sha256: str
    vocabulary_size: int
    lengths: tuple[int, int]
    seed: int
    examples: int | None
    max_bad_rows: int
    source_fingerprint: str
    template_hash: str
    modules: tuple[str, ...] = ()

    @property
    def folder(self) -> pathlib.Path:
        """Where the task's files go: named by the task and everything that decides them."""
        decides = (
            shards.FORMAT_VERSION,
            self.task,
            self.split,
            self.vocabulary_sha256,
            self.vocabulary_size,
            self.lengths,
            self.seed,
            self.examples,
            self.source_fingerprint,
            self.template_hash,
        )
        fingerprint = hashlib.sha256(repr(decides).encode()).hexdigest()[:16]
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in self.task)
        return self.root / "tasks" / f"{safe}@{fingerprint}"

    def summary(self) -> dict[str, Any]:
        """Returns the part of task.json that is known before anything is rendered."""
        return {
            "format_version": shards.FORMAT_VERSION,
            "task": self.task,
            "split": self.split,
            "feature_lengths": {"inputs": self.lengths[0], "targets": self.lengths[1]},
            "seed": self.seed,
            "examples_per_task": self.examples,
            "vocabulary_sha256": self.vocabulary_sha256,
            "source_fingerprint": self.source_fingerprint,
            "template_hash": self.template_hash,
            "dtype": shards.token_dtype(self.vocabulary_size).str,
        }


def empty_target(where: str) -> BadRow:
    """Returns the bad row of an example that has nothing to predict."""
    return BadRow(where, EMPTY, found="no text", expected="targets with text in them")


class Tally:
    """Counts of what was kept, shortened and left out, for task.json."""

    def __init__(self, task: str, max_bad_rows: int) -> None:
        self._task = task
        self._max_bad_rows = max_bad_rows
        self.drops: collections.Counter[str] = collections.Counter()
        self.shots: collections.Counter[int] = collections.Counter()
        self.inputs_cut = 0
        self.fewer_shots = 0
        self.bad_rows: list[dict[str, str]] = []

    def bad(self, row: BadRow) -> None:
        """Counts a bad row.

        Raises:
          UserError: it is one more than may be left out.
        """
        self.bad_rows.append(dataclasses.asdict(row))
        check_bad_rows(self._task, self.bad_rows, self._max_bad_rows)

    def summary(self) -> dict[str, Any]:
        """Returns the counts as they stand in task.json."""
        return {
            "drops": dict(sorted(self.drops.items())),
            "inputs_cut": self.inputs_cut,
            "fewer_shots": self.fewer_shots,
            "shots": {str(shots): count for shots, count in sorted(self.shots.items())},
            "bad_rows": self.bad_rows,
        }


def check_bad_rows(task: str, bad_rows: Sequence[dict[str, str]], limit: int) -> None:
    """Returns when there are no more bad rows than may be left out.

    Raises:
      UserError: names the file and line of the first one too many.
    """
    if len(bad_rows) <= limit:
        return
    row = bad_rows[limit]
    so_far = f" (after {limit} others that were left out)" if limit else ""
    raise UserError(
        f"a row of {task} cannot be used: {row['reason']} ({row['found']}){so_far}",
        where=row["where"],
        expected=row["expected"],
        fix=f"mend or delete the row; or leave out bad rows: --gin.MAX_BAD_ROWS={limit * 2 or 10}",
    )


def render_task(job: TaskJob, report: Report = lambda rows: None) -> dict[str, Any]:
    """Writes the folder of a task and returns its task.json.

    Memory does not grow with the task. Nothing is left behind on an error.

    Args:
      job: what to render.
      report: called with numbers of rows done.

    Raises:
      UserError: a source is missing, a row is bad, the disk is full.
    """
    task = tasks.get(job.task)
    vocabulary = load_vocabulary(job.vocabulary, job.data_dir)
    tally = Tally(job.task, job.max_bad_rows)
    with shards.explained_disk_errors(job.root), shards.NewFolder(job.folder) as folder:
        writer = shards.TaskWriter(folder, shards.token_dtype(vocabulary.size))
        rows = _good_rows(task, job, tally)
        if job.examples is not None:
            rows = sample(rows, job.task, job.examples, lambda row: row["example_id"])
        while chunk := list(itertools.islice(rows, _CHUNK)):
            writer.append(*_tokenised(task, chunk, job, vocabulary, tally))
            report(len(chunk))
        counts = {
            "family": task.family,
            "form": task.form,
            "held_out": task.held_out,
            "extraction": task.extraction,
            "examples": writer.examples,
            "tokens": {"inputs": int(writer.tokens[0]), "targets": int(writer.tokens[1])},
        }
        return folder.finish(SUMMARY, {**job.summary(), **counts, **tally.summary()})


def _good_rows(task: TaskDefinition, job: TaskJob, tally: Tally) -> Iterator[Row]:
    for row in task.rows(job.split, job.data_dir):
        if isinstance(row, BadRow):
            tally.bad(row)
        else:
            yield row


def sample(
    items: Iterable[Item], task: str, count: int, identity: Callable[[Item], str]
) -> Iterator[Item]:
    """Returns the `count` items whose identities have the smallest hashes, in their own order."""

    def key(item: tuple[int, Item]) -> tuple[bytes, int]:
        text = f"{task}\x1f{identity(item[1])}"
        return hashlib.blake2b(text.encode(), digest_size=8).digest(), item[0]

    chosen = heapq.nsmallest(count, enumerate(items), key=key)
    return (item for _, item in sorted(chosen, key=lambda item: item[0]))


def _tokenised(
    task: TaskDefinition, rows: list[Row], job: TaskJob, vocabulary: Vocabulary, tally: Tally
) -> tuple[list[list[int]], list[list[int]], list[list[Any]]]:
    """Returns ids of inputs and targets with EOS, and records, of the rows that are kept.

    Of a prompt's candidates the one with the most exemplars that fits is taken; inputs that do not
    fit without any are cut and end in EOS; targets that do not fit are left out, never cut. The
    SeqIO task follows the same rule (`tasks/preprocessors.py`).
    """
    limit_inputs, limit_targets = job.lengths
    eos = vocabulary.eos_id
    more = [task.candidates(row, job.seed, job.data_dir) for row in rows]
    chosen: list[Rendered | None] = [next(candidates) for candidates in more]
    targets = vocabulary.encode_batch([first.targets for first in chosen if first])
    for index, rendered in enumerate(chosen):
        assert rendered is not None
        if not rendered.targets.strip():
            where = f"{rendered.task}, example {rendered.example_id}"
            tally.bad(empty_target(where))
            chosen[index] = None
        elif len(targets[index]) + 1 > limit_targets:
            tally.drops[TOO_LONG] += 1
            chosen[index] = None
    inputs: list[list[int]] = [[] for _ in rows]
    wanted_shots = [rendered.shots if rendered else 0 for rendered in chosen]
    open_ones = [index for index, rendered in enumerate(chosen) if rendered]
    while open_ones:
        texts = [rendered.inputs for index in open_ones if (rendered := chosen[index])]
        too_long = []
        for index, ids in zip(open_ones, vocabulary.encode_batch(texts), strict=True):
            if len(ids) + 1 <= limit_inputs:
                inputs[index] = ids
            elif fewer := next(more[index], None):
                chosen[index] = fewer
                too_long.append(index)
            else:
                inputs[index] = ids[: limit_inputs - 1]
                tally.inputs_cut += 1
        open_ones = too_long
    kept: tuple[list[list[int]], list[list[int]], list[list[Any]]] = ([], [], [])
    for index, rendered in enumerate(chosen):
        if rendered is None:
            continue
        tally.shots[rendered.shots] += 1
        tally.fewer_shots += rendered.shots < wanted_shots[index]
        kept[0].append([*inputs[index], eos])
        kept[1].append([*targets[index], eos])
        kept[2].append([getattr(rendered, name) for name in shards.RECORD_FIELDS])
    return kept


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a mixture is made of.

    Attributes:
      jobs: one for each task, in storage order.
      missing: {task: why} of the members whose source is missing.
      shares: gives the shares of tasks from their numbers of examples.
      vocabulary: the vocabulary of all of them.
      render: does a job (`render_task` but for tasks that only SeqIO knows).
    """

    jobs: tuple[TaskJob, ...]
    missing: Mapping[str, str]
    shares: Callable[[Mapping[str, int]], Mapping[str, float]]
    vocabulary: Vocabulary
    render: Callable[..., dict[str, Any]] = render_task
    parallel: bool = True
