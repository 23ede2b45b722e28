"""From a pack plan and a prepared dataset to batches, read ahead by Grain's threads.

The stream of sequences is endless: epoch 0 in its order, then epoch 1, and so on; a batch takes
the next B of them, so one batch may hold the end of an epoch and the start of the next. What a
batch holds depends on the position in the stream alone, and a host reads its rows alone.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np

from flan_train.errors import UserError
from flan_train.features import (
    FEATURES,
    Batch,
    Lengths,
    assemble,
    assemble_rows,
    capacity_of,
    unpacked,
)
from flan_train.packing import PackPlan, fill, plan_epoch
from flan_train.prepared import PreparedDataset

__all__ = ["FEATURES", "Batch", "TrainBatches", "assemble", "unpacked"]

# Planning this many examples takes longer than the batches read ahead last.
_LONG = 20_000


@dataclasses.dataclass(frozen=True)
class _Part:
    """Sequences `first` to `last` of one epoch, which a batch holds."""

    epoch: int
    first: int
    last: int


class _Stream:
    """The endless stream of sequences; plans an epoch when it is first reached.

    Safe to share among threads. Two plans are kept: a batch can touch the end of one epoch and
    the start of the next.
    """

    def __init__(self, prepared: PreparedDataset, capacity: tuple[int, int], seed: int) -> None:
        self._prepared = prepared
        self._capacity = capacity
        self._seed = seed
        self._lock = threading.Lock()
        self._plans: dict[int, concurrent.futures.Future[PackPlan]] = {}
        self._sizes: dict[int, int] = {}
        self._fills: dict[int, tuple[float, float]] = {}

    def plan(self, epoch: int) -> PackPlan:
        with self._lock:
            future = self._plans.get(epoch)
            mine = future is None
            if future is None:
                while len(self._plans) > 1:
                    del self._plans[min(self._plans)]
                future = self._plans[epoch] = concurrent.futures.Future()
        if mine:
            # Outside the lock: whoever reads the other epoch goes on.
            try:
                future.set_result(self._make(epoch))
            except BaseException as error:
                with self._lock:
                    self._plans.pop(epoch, None)
                future.set_exception(error)
        return future.result()

    def _make(self, epoch: int) -> PackPlan:
        plan = plan_epoch(self._prepared, self._capacity, seed=self._seed, epoch=epoch)
        if not len(plan):
            raise ValueError(f"epoch {epoch} of {self._prepared.path} holds nothing")
        self._fills[epoch] = fill(plan, self._prepared.lengths, self._capacity)
        self._sizes[epoch] = len(plan)
        return plan

    def size(self, epoch: int) -> int:
        known = self._sizes.get(epoch)
        return known if known is not None else len(self.plan(epoch))

    def fill(self, epoch: int) -> tuple[float, float]:
        self.size(epoch)
        return self._fills[epoch]

    def look_ahead(self, epoch: int, sequence: int) -> None:
        """Plans the next epoch in a thread of its own once half of a long one is over."""
        if len(self._prepared) < _LONG or 2 * sequence < self.size(epoch):
            return
        with self._lock:
            if epoch + 1 in self._plans:
                return
        threading.Thread(target=self.plan, args=(epoch + 1,), daemon=True).start()

    def parts(self, epoch: int, sequence: int, count: int) -> list[_Part]:
        """Returns where the `count` sequences from a position on lie."""
        found = []
        while count:
            # A position at the very end of an epoch is the start of the next one.
            taken = min(self.size(epoch) - sequence, count)
            if taken:
                found.append(_Part(epoch, sequence, sequence + taken))
            count -= taken
            epoch, sequence = epoch + 1, 0
        return found


class _Steps:
    """A Grain source: element j is the batch of the j-th step after a position."""

    def __init__(self, batches: TrainBatches, epoch: int, sequence: int) -> None:
        self._batches = batches
        self._lock = threading.Lock()
        # The epoch that a step begins in is found from here on; it only moves forward.
        self._anchor = (0, epoch, sequence)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: int) -> tuple[Batch, dict[str, int]]:
        return self._batches.load(*self._position(int(step)))

    def _position(self, step: int) -> tuple[int, int]:
        stream, size = self._batches.stream, self._batches.batch_size
        with self._lock:
            known, epoch, sequence = self._anchor
            if step < known:
                # Threads run a few steps apart: an older step starts in an earlier epoch at most
                # when the anchor has just moved, and is found backwards.
                sequence -= (known - step) * size
                while sequence < 0:
                    epoch -= 1
                    sequence += stream.size(epoch)
                return epoch, sequence
            sequence += (step - known) * size
            while sequence >= stream.size(epoch):
                sequence -= stream.size(epoch)
                epoch += 1
            self._anchor = (step, epoch, sequence)
            return epoch, sequence


class TrainBatches(Iterator[Batch]):
    """The batches of one host, read ahead by Grain's threads.

    Attributes:
      batch_size: sequences of a global batch.
      fill: parts of the encoder and decoder slots that hold tokens, in the epoch of the position.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        *,
        batch_size: int,
        lengths: Lengths,
        seed: int,
        rows: Sequence[int] | np.ndarray | None = None,
        threads: int = 2,
        read_ahead: int = 8,
    ) -> None:
        """Starts at the first sequence of epoch 0.

        Args:
          prepared: where tokens come from.
          batch_size: sequences of a global batch, over all hosts.
          lengths: as `assemble`.
          seed: of the order and the packing.
          rows: those of the batch that this host reads, ascending; None for all.
          threads: that read and assemble; 0 to do it when asked.
          read_ahead: batches held ready.

        Raises:
          UserError: there is no such batch.
          ValueError: the batch has no such rows.
        """
        if batch_size < 1:
            raise UserError(
                f"a batch cannot hold {batch_size} sequences",
                where="BATCH_SIZE",
                expected="at least 1",
            )
        self.prepared = prepared
        self.batch_size = batch_size
        self.capacity = capacity_of(lengths)
        self.stream = _Stream(prepared, self.capacity, seed)
        self._rows = np.arange(batch_size) if rows is None else np.asarray(rows, np.int64)
        if not np.isin(self._rows, np.arange(batch_size)).all() or (np.diff(self._rows) < 1).any():
            raise ValueError(f"rows of a batch of {batch_size}, ascending: {self._rows}")
        self._options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(read_ahead, threads) if threads else 0
        )
        self._state = {"epoch": 0, "sequence": 0}
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> TrainBatches:
        return self

    def __next__(self) -> Batch:
        """Returns the next batch of this host: each feature of shape [len(rows), L].

        Raises:
          UserError: what is stored is damaged. The position stays before that batch: asked again,
            it is read again and never passed over.
        """
        if self._iterator is None:
            source = _Steps(self, self._state["epoch"], self._state["sequence"])
            dataset = grain.MapDataset.source(source)
            self._iterator = iter(dataset.to_iter_dataset(self._options))
        try:
            batch, self._state = next(self._iterator)
        except Exception:
            self.close()  # Grain's threads would go on behind the batch that failed
            raise
        return batch

    def state(self) -> dict[str, int]:
        """Returns the position after the batches handed out: {"epoch", "sequence"}."""
        return dict(self._state)

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes to a position that `state` gave; nothing before it is read or packed again.

        The quotas of the epochs before are counted up: a millisecond each for a thousand tasks.

        Raises:
          UserError: no such position.
        """
        epoch, sequence = int(state["epoch"]), int(state["sequence"])
        if epoch < 0 or not 0 <= sequence <= self.stream.size(epoch):
            size = f"{self.stream.size(epoch):,} sequences" if epoch >= 0 else "none"
            raise UserError(
                f"the data have no position of epoch {epoch}, sequence {sequence}",
                where=f"the checkpoint's data position; {self.prepared.path}",
                expected=f"a position in the epoch, which has {size}",
                fix="resume with the data, lengths and seed that the checkpoint was trained with",
            )
        self.close()
        self._state = {"epoch": epoch, "sequence": sequence}

    def close(self) -> None:
        """Ends the reading ahead."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    @property
    def fill(self) -> tuple[float, float]:
        return self.stream.fill(self._state["epoch"])

    def describe(self, state: Mapping[str, int]) -> list[dict[str, int | str]]:
        """Returns which examples the global batch at a position holds.

        Args:
          state: what `state` gave just before that batch was handed out.

        Returns:
          One {"sequence": row of the batch, "task", "example_id", "example": index} per example.
        """
        examples, rows = self._examples(int(state["epoch"]), int(state["sequence"]))
        described: list[dict[str, int | str]] = []
        for example, row in zip(examples.tolist(), rows.tolist(), strict=True):
            record = self.prepared.record(example)
            described.append(
                {
                    "sequence": row,
                    "task": record["task"],
                    "example_id": record["example_id"],
                    "example": example,
                }
            )
        return described

    def load(self, epoch: int, sequence: int) -> tuple[Batch, dict[str, int]]:
        """Returns this host's part of the batch at a position, and the position after it."""
        examples, rows = self._examples(epoch, sequence)
        here = np.isin(rows, self._rows)
        examples, rows = examples[here], np.searchsorted(self._rows, rows[here])
        batch = assemble_rows(
            self.prepared.read(examples),
            np.asarray(self.prepared.lengths[examples]),
            rows,
            len(self._rows),
            self.capacity,
        )
        last = self.stream.parts(epoch, sequence, self.batch_size)[-1]
        self.stream.look_ahead(last.epoch, last.last)
        return batch, {"epoch": last.epoch, "sequence": last.last}

    def _examples(self, epoch: int, sequence: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the examples of the global batch at a position, and the row of each."""
        found, rows = [], []
        row = 0
        for part in self.stream.parts(epoch, sequence, self.batch_size):
            plan = self.stream.plan(part.epoch)
            bounds = plan.offsets[part.first : part.last + 1]
            found.append(plan.examples[bounds[0] : bounds[-1]])
            rows.append(row + np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)))
            row += part.last - part.first
        return np.concatenate(found), np.concatenate(rows)
