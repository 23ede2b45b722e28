"""Which examples share a sequence: a pure function of lengths, shares and a seed.

A toy, capacity 8 on the encoder and 4 on the decoder side, an example = (inputs, targets):

    examples          0: (6, 1)   1: (2, 3)   2: (4, 2)   3: (4, 2)
    sequences         {0, 1}: encoder 6 + 2 = 8, decoder 1 + 3 = 4
                      {2, 3}: encoder 4 + 4 = 8, decoder 2 + 2 = 4

Both sides are full. Packing by inputs alone may as well have put 0 and 1 apart; see
`packing_kernel.fill_sequences` for how both sides are filled at once.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from flan_train.ordering import permutation

# A grid of length pairs above this many cells is made coarser; 1,024 + 256 has 263,425.
MAX_CELLS = 1 << 22
# An epoch holds at least this part of all examples, even if a tiny task with a large share then
# repeats within it (still never before each of its examples has had its turn).
MIN_EPOCH_FRACTION = 0.05

# Ways to fill a sequence (see `packing_kernel.fill_sequences`). The first alone is the fastest and
# the best where one side is scarce; the others find what fits where both are. Measured on the
# chain-of-thought rows at 1,024 + 256: 2.6 % and 0.4 % above the lower bound.
_ONE_TRY = np.array([[1.0, 0]])
_TRIES = np.array(
    [[1.0, 0]]
    + [[part, 1] for part in (0.85, 0.75, 0.66, 0.6, 0.5, 0.4, 0.3, 0.2)]
    + [[part, 2] for part in (0.5, 0.6, 0.75, 0.4, 0.3)]
    + [[part, 3] for part in (0.3, 0.5)]
)
_HALF = Fraction(1, 2)
_TOLERANCE = 0.002
_CLOSE = 1.001


@dataclasses.dataclass(frozen=True)
class PackPlan:
    """Sequences and the examples each holds, in compressed rows.

    Attributes:
      offsets: int64 [S + 1]; sequence s holds `examples[offsets[s]:offsets[s + 1]]`.
      examples: int64 [n], indices of examples.
    """

    offsets: np.ndarray
    examples: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sequence(self, index: int) -> np.ndarray:
        """Returns the examples of one sequence, int64 [k]."""
        return self.examples[self.offsets[index] : self.offsets[index + 1]]


class Prepared(Protocol):
    """What planning needs of a prepared dataset (`prepared.PreparedDataset` has it)."""

    task_names: list[str]
    task_offsets: np.ndarray
    shares: dict[str, float]
    lengths: np.ndarray


def pack(lengths: np.ndarray, capacity: tuple[int, int], *, seed: int) -> PackPlan:
    """Returns a plan that holds every example once and exceeds no side of any sequence.

    Deterministic; which of several equally long examples go together depends on `seed`. On the
    collection's rows within 1.5 % of `lower_bound`; 10 million examples take a few seconds.

    Args:
      lengths: int [n, 2], tokens of inputs and targets, EOS included.
      capacity: tokens of the encoder and decoder side of a sequence.

    Raises:
      ValueError: an example is longer than a side, or a length is negative.
    """
    from flan_train import packing_kernel as kernel

    lengths = _checked(lengths, capacity)
    if not len(lengths):
        return PackPlan(np.zeros(1, np.int64), np.zeros(0, np.int64))
    units, grid = _grid(capacity)
    width = grid[1] + 1
    # Rounded up, so that what fits on the coarse grid fits.
    e, d = (np.minimum(-(-lengths[:, side] // units[side]), grid[side]) for side in (0, 1))
    cells = (e * width + d).astype(np.int32)
    counts = np.bincount(cells, minlength=(grid[0] + 1) * width)
    grouped, starts = kernel.group_by_cell(
        cells, permutation(len(cells), seed, "examples of one length"), counts
    )
    good_enough = _CLOSE * lower_bound(lengths, capacity)
    best: tuple[np.ndarray, np.ndarray] | None = None
    for tries, seeds in itertools.product((_ONE_TRY, _TRIES), _seed_orders(counts, grid)):
        placed = kernel.fill_sequences(counts.copy(), grid[0], grid[1], seeds, tries, _TOLERANCE)
        if best is None or len(placed[1]) < len(best[1]):
            best = placed
        if len(best[1]) - 1 <= good_enough:
            break
    assert best is not None
    return PackPlan(best[1], kernel.name_examples(best[0], grouped, starts))


def lower_bound(lengths: np.ndarray, capacity: tuple[int, int]) -> int:
    """Returns a number of sequences that no packing can go below.

    Examples that fit with no other one take a sequence each. Of the rest, either side alone is a
    one-dimensional bin packing, whose bound L2 (Martello and Toth 1990) counts tokens and examples
    over half the capacity together.

    Args:
      lengths: int [n, 2]; `capacity` as in `pack`.
    """
    lengths = _checked(lengths, capacity)
    units, grid = _grid(capacity)
    # Rounded down: what cannot be together on the coarse grid cannot be together.
    e, d = lengths[:, 0] // units[0], lengths[:, 1] // units[1]
    shape = (grid[0] + 1, grid[1] + 1)
    counts = np.bincount(e * shape[1] + d, minlength=shape[0] * shape[1]).reshape(shape)
    companions = counts.cumsum(0).cumsum(1)[::-1, ::-1]
    own = (2 * np.arange(shape[0])[:, None] <= grid[0]) & (2 * np.arange(shape[1]) <= grid[1])
    alone = (companions - own <= 0)[e, d]
    rest = lengths[~alone]
    sides = [_one_sided_bound(rest[:, side], capacity[side]) for side in (0, 1)]
    return int(alone.sum()) + max(sides)


def _one_sided_bound(lengths: np.ndarray, capacity: int) -> int:
    """Bound L2 of one-dimensional bin packing, the best over all thresholds up to half."""
    counts = np.bincount(lengths, minlength=capacity + 1)
    number = np.concatenate([[0], counts.cumsum()])  # number[k]: examples shorter than k
    tokens = np.concatenate([[0], (counts * np.arange(capacity + 1)).cumsum()])
    threshold = np.arange(capacity // 2 + 1)
    half = capacity // 2 + 1
    over_half = number[-1] - number[half]
    large = number[capacity - threshold + 1] - number[half]  # those a small one may join
    room = large * capacity - (tokens[capacity - threshold + 1] - tokens[half])
    small = tokens[half] - tokens[threshold]
    extra = np.maximum(0, -((room - small) // capacity))
    return int((over_half + extra).max())


def fill(plan: PackPlan, lengths: np.ndarray, capacity: tuple[int, int]) -> tuple[float, float]:
    """Returns the parts of the encoder and decoder slots that hold tokens, 0 to 1."""
    if not len(plan):
        return 0.0, 0.0
    tokens = lengths[plan.examples].sum(axis=0, dtype=np.int64)
    return tuple(float(tokens[side] / (len(plan) * capacity[side])) for side in (0, 1))  # type: ignore[return-value]


def epoch_quotas(
    rows: Mapping[str, int], shares: Mapping[str, float], epoch: int = 0
) -> dict[str, int]:
    """Returns how many examples of each task one epoch holds: one capped pass.

    The largest number of examples of which every task can supply its share without repeating, but
    at least MIN_EPOCH_FRACTION of all rows. Epochs are of one size; a task whose share of it is a
    fraction gets a whole example in some of them, so that over the epochs it has its share.

    Example: 10,000 rows of a with share 0.9 and 500 rows of b with share 0.1 make an epoch of
    5,000: 4,500 of a and the 500 of b.
    """
    before, after = (quotas_through(rows, shares, epochs) for epochs in (epoch, epoch + 1))
    return {name: after[name] - before[name] for name in after}


def quotas_through(
    rows: Mapping[str, int], shares: Mapping[str, float], epochs: int
) -> dict[str, int]:
    """Returns how many examples of each task the first `epochs` epochs hold together.

    They are handed out by the Webster rule, under which nobody's number ever falls as the total
    grows; largest remainders do not promise that. T tasks: nobody is further from the ideal number
    than 1/2 + share * T/2.
    """
    members = _members(rows, shares)
    return _webster(members, epochs * _epoch_size(rows, members)[0]) if members else {}


def epoch_note(rows: Mapping[str, int], shares: Mapping[str, float]) -> str | None:
    """Returns a sentence on which tasks repeat within an epoch, if MIN_EPOCH_FRACTION applies."""
    members = _members(rows, shares)
    total, natural = _epoch_size(rows, members) if members else (0, 0)
    if total == natural:
        return None
    whole = sum(members.values())
    turns = {name: share / whole * total / rows[name] for name, share in members.items()}
    often = sorted((name for name in turns if turns[name] > 1), key=lambda name: -turns[name])
    listed = ", ".join(f"{name} ({rows[name]:,} rows, {turns[name]:.1f} times)" for name in often)
    return (
        f"an epoch holds {total:,} examples, {MIN_EPOCH_FRACTION:.0%} of all rows, where one pass "
        f"over the scarcest task would make it {natural:,}; these repeat within it: {listed}"
    )


def _members(rows: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, float]:
    return {name: share for name, share in shares.items() if share > 0 and rows[name] > 0}


def _epoch_size(rows: Mapping[str, int], members: Mapping[str, float]) -> tuple[int, int]:
    """Returns the examples of an epoch, and how many they would be without the floor."""
    largest = min(rows[name] / share for name, share in members.items())
    floor = MIN_EPOCH_FRACTION * sum(rows[name] for name in members)
    # The tolerance keeps 3 rows / share 3/7 at 7 examples.
    sizes = (max(int(size * (1 + 1e-9)), 1) for size in (max(largest, floor), largest))
    total, natural = sizes
    return total, natural


def _webster(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Returns whole numbers in proportion to positive shares that sum to `total`.

    The k-th example of a task is worth share / (2k - 1); the `total` most valuable ones are handed
    out, ties by name. So the numbers for a larger total contain those for a smaller one.
    """
    exact = {name: Fraction(share) for name, share in shares.items()}
    whole = sum(exact.values())
    # Rounding shares of any smaller total to the nearest gives its most valuable ones; T/2 less
    # cannot round to more than was asked for.
    start = total - Fraction(len(exact), 2)
    given = {
        name: max(math.floor(share * start / whole + _HALF), 0) for name, share in exact.items()
    }

    def next_one(name: str) -> tuple[Fraction, str]:
        return (2 * given[name] + 1) / exact[name], name

    heap = [next_one(name) for name in exact]
    heapq.heapify(heap)
    for _ in range(total - sum(given.values())):
        name = heap[0][1]
        given[name] += 1
        heapq.heapreplace(heap, next_one(name))
    return given


def epoch_examples(
    task_offsets: np.ndarray,
    shares: Mapping[str, float],
    task_names: Sequence[str],
    *,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """Returns the examples of an epoch in task order, int64; a pure function of (seed, epoch).

    Each task goes through its examples in a random order, over and over, a new order each time;
    an epoch takes up where the one before it stopped. So no example comes twice before the others
    of its task have come once.

    Args:
      task_offsets: int64 [T + 1], examples of task t are `task_offsets[t]:task_offsets[t + 1]`.
      shares: planned share of each task.
      task_names: names in the order of `task_offsets`.
    """
    rows = dict(zip(task_names, np.diff(task_offsets).tolist(), strict=True))
    before, after = (quotas_through(rows, shares, epochs) for epochs in (epoch, epoch + 1))
    parts = []
    for name, start in zip(task_names, task_offsets[:-1].tolist(), strict=True):
        position, end = before.get(name, 0), after.get(name, 0)
        while position < end:
            turn, first = divmod(position, rows[name])
            last = min(rows[name], first + end - position)
            order = permutation(rows[name], seed, "turn", name, turn)
            parts.append(start + order[first:last])
            position += last - first
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def plan_epoch(prepared: Prepared, capacity: tuple[int, int], *, seed: int, epoch: int) -> PackPlan:
    """Returns the packed sequences of an epoch in shuffled order; a pure function of (seed, epoch).

    Args:
      prepared: the prepared dataset; `examples` of the plan are its indices.
      capacity: as in `pack`.
    """
    examples = epoch_examples(
        prepared.task_offsets, prepared.shares, prepared.task_names, seed=seed, epoch=epoch
    )
    plan = pack(prepared.lengths[examples], capacity, seed=seed + epoch)
    return shuffled(PackPlan(plan.offsets, examples[plan.examples]), "sequences", seed, epoch)


def shuffled(plan: PackPlan, *key: object) -> PackPlan:
    """Returns the plan with its sequences in an order fixed by `key`."""
    order = permutation(len(plan), *key)
    sizes = np.diff(plan.offsets)[order]
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
    return PackPlan(offsets, plan.examples[np.repeat(plan.offsets[:-1][order], sizes) + within])


def _checked(lengths: np.ndarray, capacity: tuple[int, int]) -> np.ndarray:
    lengths = np.asarray(lengths)
    if lengths.ndim != 2 or lengths.shape[1] != 2:
        raise ValueError(f"lengths must have shape [n, 2], not {lengths.shape}")
    if min(capacity) < 1:
        raise ValueError(f"both capacities must be at least 1, not {capacity}")
    wrong = ((lengths > np.asarray(capacity)) | (lengths < 0)).any(axis=1)
    if wrong.any():
        index = int(wrong.argmax())
        raise ValueError(
            f"example {index} has {lengths[index].tolist()} tokens (inputs, targets); a sequence "
            f"holds {list(capacity)}"
        )
    return lengths


def _grid(capacity: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Returns tokens per grid unit and the capacities in whole units, of either side."""
    units = [1, 1]
    while True:
        grid = [capacity[side] // units[side] for side in (0, 1)]
        if (grid[0] + 1) * (grid[1] + 1) <= MAX_CELLS:
            return units, grid
        units[int(grid[1] > grid[0])] *= 2


def _seed_orders(counts: np.ndarray, grid: list[int]) -> list[np.ndarray]:
    """Returns orders, hardest cells first, in which to begin sequences; none is always the best."""
    cells = np.flatnonzero(counts)
    parts = np.stack(np.divmod(cells, grid[1] + 1), axis=1) / np.asarray(grid)
    need = counts[cells] @ parts
    scarcity = need / max(need.max(), 1e-9)
    both = 1e-3 * parts.sum(axis=1)
    keys = (
        parts.max(axis=1) + both,
        parts @ scarcity,
        (parts * scarcity).max(axis=1) + both,
    )
    return [cells[np.argsort(-key, kind="stable")] for key in keys]
