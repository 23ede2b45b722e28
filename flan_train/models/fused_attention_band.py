"""T5's relative position bias inside a kernel: one band of 128 rows serves every block.

The bias of a logit depends on its offset (place of the key minus place of the query) alone, and
from some distance on it is the same for all. Laid out with keys down and queries across, blocks of
128 keys are therefore windows of one band, and windows far from the diagonal are all alike:

    column x of the band   0 .. 127 | ...              | ... W - 1
    offset in row r        far + r - x, from far keys after the query to far keys before it

A window of Q columns starting at column far - D is the bias of 128 keys whose first lies D places
after the first of Q queries. D is clipped to where the band ends: beyond, nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float

from flan_train.models.buckets import bucket_starts, relative_buckets

TILE = 128
SUBLANES = 8


@dataclass(frozen=True)
class Bias:
    """The static description of the bias: bucket rules, queries of a block, the longest length."""

    buckets: int
    max_distance: int
    bidirectional: bool
    block_q: int
    longest: int

    @property
    def _starts(self) -> tuple[int, ...]:
        """The smallest distance of each bucket of one side, in order."""
        side = self.buckets // 2 if self.bidirectional else self.buckets
        exact = side // 2
        return (*range(exact + 1), *bucket_starts(exact, side, self.max_distance))

    @property
    def near(self) -> int:
        """Tiles of offsets on either side of the diagonal that are not all in the last bucket."""
        return -(-min(self._starts[-1], self.longest) // TILE)

    @property
    def period(self) -> int:
        """Length of the vector of near offsets: P = 128 * (2 * near + 2)."""
        return TILE * (2 * self.near + 2)

    @property
    def margin(self) -> int:
        """Tiles of the band on either side that hold one number each, beside the near ones."""
        return self.block_q // TILE

    @property
    def width(self) -> int:
        """Columns of the band: W."""
        return TILE * (2 * (self.near + self.margin) + 1)

    def offsets(self) -> Array:
        """Returns the offset that each place of the vector of near offsets stands for, int32."""
        return TILE * (self.near + 1) - jnp.arange(self.period, dtype=jnp.int32)


def _at(bias: Bias, table: Any, head: Array, offset: Array) -> Array:
    """Returns the bias of a head at the given offsets, by one choice for each bucket.

    The table is a flat ref of scalars [H * buckets].
    """
    first = head * bias.buckets
    distance = jnp.abs(offset) if bias.bidirectional else jnp.maximum(-offset, 0)

    def side(base: Array | int) -> Array:
        chosen = jnp.full(offset.shape, table[base], jnp.float32)
        for i, start in enumerate(bias._starts[1:], start=1):
            chosen = jnp.where(distance >= start, table[base + i], chosen)
        return chosen

    if not bias.bidirectional:
        return side(first)
    return jnp.where(offset > 0, side(first + bias.buckets // 2), side(first))


def fill(bias: Bias, table: Any, head: Array, bands: Any, slot: int) -> None:
    """Writes the band of a head to bands[slot], float32 [128, W].

    Each doubling rolls the rows so far to the right, as the next rows need; what wraps around ends
    in the first tile, which holds one number anyway and is not taken.
    """
    shape = (SUBLANES, bias.period)
    place = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]
    rows = _at(bias, table, head, TILE * (bias.near + 1) + place[0] - place[1])
    after = jnp.broadcast_to(rows[:1, :1], (TILE, TILE * bias.margin))
    before = jnp.broadcast_to(rows[:1, -1:], (TILE, TILE * bias.margin))
    while rows.shape[0] < TILE:
        rows = jnp.concatenate([rows, pltpu.roll(rows, rows.shape[0], 1)])
    end = bias.width - TILE * bias.margin
    bands[slot, :, : TILE * bias.margin] = after
    bands[slot, :, TILE * bias.margin : end] = rows[:, TILE:]
    bands[slot, :, end:] = before


def _window(bias: Bias, offset: Array) -> Any:
    """Returns the columns of the band for 128 keys whose first is `offset` after the queries'."""
    far = TILE * (bias.near + bias.margin)
    clipped = jnp.clip(offset, -TILE * (bias.near + 1), far)
    return pl.ds(pl.multiple_of(far - clipped, TILE), bias.block_q)


def block(bias: Bias, bands: Any, slot: int, offset: Array, keys: int) -> Float[Array, "K Q"]:
    """Returns the bias of a block whose first key lies `offset` places after its first query."""
    tiles = [bands[slot, :, _window(bias, offset + start)] for start in range(0, keys, TILE)]
    return tiles[0] if len(tiles) == 1 else jnp.concatenate(tiles)


def add(bias: Bias, bands: Any, slot: int, offset: Array, gradient: Float[Array, "K Q"]) -> None:
    """Adds the gradient of a block's logits to the band that `block` took its bias from."""
    for start in range(0, gradient.shape[0], TILE):
        window = _window(bias, offset + start)
        bands[slot, :, window] += gradient[start : start + TILE]


def along_diagonals(bias: Bias, bands: Any, slot: int) -> Float[Array, "1 P"]:
    """Returns the sum of a band over each near offset; the far ones lie in the outer tiles.

    Each halving rolls the lower rows to the left onto the upper ones: the reverse of `fill`.
    """
    end = bias.width - TILE * bias.margin
    near = bands[slot, :, TILE * bias.margin : end]
    rows = jnp.concatenate([jnp.zeros((TILE, TILE), jnp.float32), near], axis=1)
    while rows.shape[0] > SUBLANES:
        half = rows.shape[0] // 2
        rows = rows[:half] + pltpu.roll(rows[half:], bias.period - half, 1)
    place = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 0)
    for step in (4, 2, 1):
        rolled = pltpu.roll(rows, bias.period - step, 1)
        rows = jnp.where((place & step) != 0, rolled, rows)
    sums = jnp.sum(rows, axis=0, keepdims=True)
    outer = []
    for first in (0, end):
        part = bands[slot, :, first : first + TILE]
        for tile in range(1, bias.margin):
            part = part + bands[slot, :, first + tile * TILE : first + (tile + 1) * TILE]
        outer.append(jnp.sum(part, axis=0, keepdims=True))
    middle = jnp.zeros((1, bias.period - 2 * TILE), jnp.float32)
    return sums + jnp.concatenate([outer[0], middle, outer[1]], axis=1)


def to_table(bias: Bias, sums: Float[Array, "B H P"]) -> Float[Array, "H N"]:
    """Returns the gradient of the table from the sums of every row and head."""
    buckets = relative_buckets(
        bias.offsets(),
        bidirectional=bias.bidirectional,
        buckets=bias.buckets,
        max_distance=bias.max_distance,
    )
    chosen = jax.nn.one_hot(buckets, bias.buckets, dtype=jnp.float32)
    return jnp.einsum("bhp,pn->hn", sums, chosen, precision=jax.lax.Precision.HIGHEST)
