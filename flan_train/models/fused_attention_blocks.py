"""How the fused attention cuts its work into blocks: their sizes, which of them count, their cost.

Axis letters: B batch, L length (Lq of queries, Lk of keys).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jaxtyping import Bool, Int

from flan_train.models.fused_attention_band import Bias
from flan_train.models.layers import AnyArray

LANES = 128
HEAD = 64
PAIR = 2

# Segment of a query that sees no key at all. Segments of packed rows are 0 or more.
SEES_NOTHING = -1

# Sizes by the compiler's own schedule for v4 (bundles of one pair of heads over all pairs of
# 1,024 queries and keys). Forward 256 x 256: 17,100, 512 x 512: 15,300, but smaller blocks leave
# out more of a packed row. Backward 128 queries x 512 keys: 26,600, 256 x 256: 29,900.
FORWARD_SIZES = ((256, 384, 128), (256, 384, 128))
BACKWARD_SIZES = ((128,), (512, 384, 256, 128))
# Twice the bytes: so that 2,048 queries still fit into the 16 MiB that all chips offer.
BACKWARD_SIZES_FLOAT32 = ((128,), (256, 384, 128))

# Operations of the vector unit for one logit: bias, mask, maximum or difference, sum, products.
FORWARD_VECTOR = 6
BACKWARD_VECTOR = 8


@dataclass(frozen=True)
class Blocks:
    """The static shape of a call: lengths, block sizes, and what takes part in the logits."""

    queries: int
    keys: int
    block_q: int
    block_k: int
    causal: bool
    bias: Bias | None
    scaled: bool

    @property
    def count_q(self) -> int:
        """Blocks of queries."""
        return self.queries // self.block_q

    @property
    def count_k(self) -> int:
        """Blocks of keys."""
        return self.keys // self.block_k

    @property
    def logits(self) -> int:
        """Logits of one head of one row, those of blocks above the diagonal left out if causal."""
        if not self.causal:
            return self.queries * self.keys
        ends = range(self.block_q, self.queries + 1, self.block_q)
        blocks = sum(min(self.count_k, -(-end // self.block_k)) for end in ends)
        return blocks * self.block_q * self.block_k


def fitting(length: int, sizes: Sequence[int]) -> int:
    """Returns the first of the sizes that divides the length, a multiple of 128."""
    return next(size for size in sizes if length % size == 0)


def mark_unseeing(
    queries: Int[AnyArray, "B Lq"], keys: Int[AnyArray, "B Lk"], *, causal: bool
) -> Int[Array, "B Lq"]:
    """Returns the segments of the queries, SEES_NOTHING for those that see no key at all."""
    same = queries[:, :, None] == keys[:, None, :]
    if causal:
        same &= jnp.arange(keys.shape[1]) <= jnp.arange(queries.shape[1])[:, None]
    return jnp.where(jnp.any(same, axis=-1), queries, SEES_NOTHING)


def blocks_seen(
    blocks: Blocks, queries: Int[Array, "B Lq"], keys: Int[Array, "B Lk"]
) -> Bool[Array, "B NQ NK"]:
    """Returns false for the blocks in which no query sees a key, by the ends of their segments.

    A query that sees nothing attends to all keys alike, so that all of its blocks count. Padding
    (segment 0) comes last in a row: taken for the largest number it keeps the order of segments.
    """
    largest = jnp.iinfo(jnp.int32).max
    ends = []
    for segments, count in ((queries, blocks.count_q), (keys, blocks.count_k)):
        ordered = jnp.where(segments == 0, largest, segments).reshape(segments.shape[0], count, -1)
        ends.append((ordered.min(-1), ordered.max(-1)))
    (q_low, q_high), (k_low, k_high) = ends
    seen = (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])
    if blocks.causal:
        last = (jnp.arange(blocks.count_q) + 1) * blocks.block_q - 1
        seen &= jnp.arange(blocks.count_k) * blocks.block_k <= last[:, None]
    return seen | (q_low == SEES_NOTHING)[:, :, None]


def ranges(seen: Bool[Array, "B N M"]) -> Int[Array, " R"]:
    """Returns for each of B * N rows the first of M blocks that counts, then for each the end.

    The end is one past the last, and both are 0 where none counts: int32 [2 * B * N].
    """
    count = seen.shape[-1]
    first = jnp.argmax(seen, axis=-1)
    end = jnp.where(jnp.any(seen, axis=-1), count - jnp.argmax(seen[..., ::-1], axis=-1), 0)
    return jnp.concatenate([first.ravel(), end.ravel()]).astype(jnp.int32)


def traffic(grid: tuple[int, ...], windows: Iterable[tuple[pl.BlockSpec, int]]) -> int:
    """Returns the bytes that a pipelined kernel moves between HBM and VMEM.

    A window moves whenever its place differs from that of the step before: as often as there are
    steps of the grid up to the innermost axis that its place depends on.

    Args:
      grid: the steps of each axis, the last one innermost.
      windows: of every operand and result its window and the bytes of an element.
    """
    moved = 0
    for spec, width in windows:
        assert spec.index_map is not None
        assert spec.block_shape is not None
        start = spec.index_map(*[0] * len(grid))
        steps = 1
        for axis in range(len(grid)):
            place = [int(axis == other) for other in range(len(grid))]
            if grid[axis] > 1 and spec.index_map(*place) != start:
                steps = math.prod(grid[: axis + 1])
        moved += steps * math.prod(_whole(size) for size in spec.block_shape) * width
    return moved


def _whole(size: object) -> int:
    assert isinstance(size, int)
    return size


def cost(blocks: Blocks, *, heads: int, products: int, vector: int, moved: int) -> pl.CostEstimate:
    """Returns the work of a kernel over so many heads, all rows of the batch counted.

    Floating-point operations are those of head width 64 over every logit: what packing lets the
    kernel leave out depends on the data.

    Args:
      blocks: the shape of the call.
      heads: heads of all rows.
      products: matrix products over the logits.
      vector: other operations for one logit.
      moved: bytes between HBM and VMEM.
    """
    logits = heads * blocks.logits
    flops = logits * (products * 2 * HEAD + vector)
    return pl.CostEstimate(flops=flops, transcendentals=logits, bytes_accessed=moved)
