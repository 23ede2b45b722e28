"""The bodies of the fused attention kernels: one pair of heads of one row of the batch at a time.

Axis letters: Lq, Lk lengths of queries and keys, Q, K sizes of a block of each, W width of a band.

Logits are computed transposed, keys down and queries across, [K, Q]: then everything that belongs
to a query (its maximum, sum, segment, delta) is a row vector, which the vector unit spreads over
the keys for nothing, and of the five products of the backward pass none needs a transposed block.

Two heads of width 64 fill the 128 lanes of a block. Setting the lanes of the other head to zero in
one operand of a product over lanes leaves the product of one head, without moving data.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from flan_train.models import fused_attention_band as band
from flan_train.models.fused_attention_band import SUBLANES
from flan_train.models.fused_attention_blocks import HEAD, LANES, PAIR, SEES_NOTHING, Blocks
from flan_train.models.layers import HIDDEN

# Below every logit, hidden ones included, and finite, so that no difference is not-a-number.
LOWEST = -3e38


def _product(left: Array, right: Array, contract: tuple[int, int]) -> Array:
    """Returns the float32 product over one axis of each operand, at the operands' precision."""
    exact = left.dtype == jnp.float32
    return jax.lax.dot_general(
        left,
        right,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )


def _of_head(pair: Array, head: int) -> Array:
    """Returns a [L, 128] pair with the lanes of the other head set to zero."""
    lane = jax.lax.broadcasted_iota(jnp.int32, pair.shape, 1)
    mine = lane < HEAD if head == 0 else lane >= HEAD
    return jnp.where(mine, pair, jnp.zeros_like(pair))


def _rows_of(head: int) -> slice:
    return slice(head * HEAD, (head + 1) * HEAD)


def _span(block: Array, size: int) -> Any:
    return pl.ds(pl.multiple_of(block * size, LANES), size)


def _down(row: Array) -> Array:
    """Returns a [1, L] row vector as [L, 128], the same in every lane."""
    return jnp.broadcast_to(row, (LANES, row.shape[-1])).T


def _largest(scale: Any) -> Array:
    """Returns the largest of the [2, L] scales of each head, 1 for a head with none, as [2, 1].

    Dropout knows two scales. With the larger one taken out of the values and put into what is
    float32 anyway, values are kept or zeroed, and nothing is rounded.
    """
    largest = jnp.max(jnp.abs(scale), axis=1, keepdims=True)
    return jnp.where(largest > 0, largest, 1.0)


def _per_lane(scale: Array) -> Array:
    """Returns the [2, L] scales of a pair as [128, L], a row for every lane of the values."""
    size = scale.shape[-1]
    return jnp.concatenate([jnp.broadcast_to(scale[i : i + 1], (HEAD, size)) for i in range(PAIR)])


def _mask(blocks: Blocks, key_segments: Array, query_segments: Array, offset: Array) -> Array:
    """Returns what is added to the logits [K, Q] of a block: 0 where visible, else HIDDEN.

    The first key lies `offset` places after the first query.
    """
    wide = jnp.concatenate([key_segments] * (blocks.block_q // LANES), axis=1)
    visible = wide == query_segments
    if blocks.causal:
        shape = visible.shape
        place_k = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        place_q = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        visible = visible & (place_k - place_q <= -offset)
    return jnp.where(visible, 0.0, HIDDEN)


def _logits(
    blocks: Blocks, keys: Array, queries: Array, bands: Any, head: int, offset: Array
) -> Array:
    """Returns the logits [K, Q] of a block before the mask."""
    logits = _product(keys, queries, (1, 1))
    if blocks.bias is None:
        return logits
    return logits + band.block(blocks.bias, bands, head, offset, blocks.block_k)


def forward(
    blocks: Blocks, ranges: Any, table: Any, q: Any, k: Any, v: Any, q_seg: Any, k_seg: Any,
    scale: Any, out: Any, rest: Any, stats: Any, values: Any, k_seg_down: Any, bands: Any,
    total: Any,
) -> None:  # fmt: skip
    """One block of queries against all keys it can see, with a running softmax.

    Refs: ranges int32 [2 * B * blocks], first and end of the visible blocks of keys; table float32
    [H * buckets]; q, out, rest [1, Q, 128]; k, v [1, Lk, 128]; q_seg [1, 1, Q]; k_seg [1, 1, Lk];
    scale [1, 1, 2, Lk]; stats [1, 1, 2, Q]. `rest`, unless it is None, gets what rounding takes
    from `out`. Scratch: values [128, Lk], k_seg_down [Lk, 128], bands [2, 128, W], total float32
    [128, Q].
    """
    row, pair, block = (pl.program_id(i) for i in range(3))
    size_q, size_k = blocks.block_q, blocks.block_k
    largest = _largest(scale[0, 0]) if blocks.scaled else None

    @pl.when(block == 0)
    def _prepare() -> None:
        for i in range(blocks.count_k):
            span = pl.ds(i * size_k, size_k)
            k_seg_down[span, :] = _down(k_seg[0, :, span])
            turned = v[0, span, :].T
            if largest is not None:
                factors = _per_lane(scale[0, 0, :, span] / largest)
                turned = turned.astype(jnp.float32) * factors
            values[:, span] = turned.astype(values.dtype)
        if blocks.bias is not None:
            for head in range(PAIR):
                band.fill(blocks.bias, table, pair * PAIR + head, bands, head)

    queries = [_of_head(q[0], head) for head in range(PAIR)]
    segments = q_seg[0]
    total[...] = jnp.zeros_like(total)
    ones = jnp.ones((SUBLANES, size_k), values.dtype)
    start = jnp.full((1, size_q), LOWEST, jnp.float32)
    nothing = jnp.zeros((1, size_q), jnp.float32)

    def visit(i: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        span = _span(i, size_k)
        keys = k[0, span, :]
        offset = i * size_k - block * size_q
        mask = _mask(blocks, k_seg_down[span, :], segments, offset)
        logits = [_logits(blocks, keys, queries[head], bands, head, offset) for head in range(PAIR)]
        after: list[Array] = []
        for head in range(PAIR):
            hidden = logits[head] + mask
            higher = jnp.maximum(carry[2 * head], jnp.max(hidden, axis=0, keepdims=True))
            shrink = jnp.exp(carry[2 * head] - higher)
            p = jnp.exp(hidden - higher).astype(values.dtype)
            rows = _rows_of(head)
            # Rows of ones below the values make the matrix unit add up p as well.
            lengthened = jnp.concatenate([values[rows, span], ones])
            part = _product(lengthened, p, (1, 0))
            total[rows, :] = total[rows, :] * shrink + part[:HEAD]
            after += [higher, carry[2 * head + 1] * shrink + part[HEAD : HEAD + 1]]
        return tuple(after)

    place = row * blocks.count_q + block
    ends = pl.num_programs(0) * blocks.count_q
    carry = jax.lax.fori_loop(
        ranges[place], ranges[ends + place], visit, (start, nothing, start, nothing)
    )
    shift = jnp.where(segments == SEES_NOTHING, HIDDEN, 0.0)
    for head in range(PAIR):
        high, weight = carry[2 * head : 2 * head + 2]
        rows = _rows_of(head)
        factor = 1.0 if largest is None else largest[head : head + 1]
        total[rows, :] = total[rows, :] * (factor / weight)
        stats[0, 0, head : head + 1, :] = (high - shift) + jnp.log(weight)
    turned = total[...].T
    out[0] = turned.astype(out.dtype)
    if rest is not None:
        # Read back, so that no compiler takes the rounding for nothing.
        rest[0] = (turned - out[0].astype(jnp.float32)).astype(rest.dtype)


def backward(
    blocks: Blocks, ranges: Any, table: Any, q: Any, k: Any, v: Any, q_seg: Any, k_seg: Any,
    scale: Any, out: Any, rest: Any, d_out: Any, stats: Any, d_q: Any, d_k: Any, d_v: Any,
    d_bias: Any, delta: Any, d_q_turned: Any, d_k_sum: Any, d_v_sum: Any, bands: Any, d_bands: Any,
) -> None:  # fmt: skip
    """One block of keys against all queries that can see it; queries' gradients add up over calls.

    Refs: ranges int32 [2 * B * blocks], first and end of the blocks of queries; q, out, rest,
    d_out, d_q [1, Lq, 128]; k, v, d_k, d_v [1, K, 128]; q_seg [1, 1, Lq]; k_seg [1, 1, K]; scale
    [1, 1, 2, K]; stats [1, 1, 2, Lq]; d_bias [1, 1, 2, P]. Scratch, float32: delta [2, Lq],
    d_q_turned [128, Lq], d_k_sum, d_v_sum [K, 128], bands, d_bands [2, 128, W].
    """
    row, pair, block = (pl.program_id(i) for i in range(3))
    size_q, size_k = blocks.block_q, blocks.block_k

    @pl.when(block == 0)
    def _prepare() -> None:
        d_q_turned[...] = jnp.zeros_like(d_q_turned)
        for i in range(blocks.count_q):
            span = pl.ds(i * size_q, size_q)
            whole = out[0, span, :].astype(jnp.float32)
            if rest is not None:
                whole = whole + rest[0, span, :].astype(jnp.float32)
            turned = (d_out[0, span, :].astype(jnp.float32) * whole).T
            for head in range(PAIR):
                part = jnp.sum(turned[_rows_of(head)], axis=0, keepdims=True)
                delta[head : head + 1, span] = part
        if blocks.bias is not None:
            d_bands[...] = jnp.zeros_like(d_bands)
            for head in range(PAIR):
                band.fill(blocks.bias, table, pair * PAIR + head, bands, head)

    keys, values = k[0], v[0]
    keys_turned = keys.T
    largest = jnp.ones((PAIR, 1), jnp.float32)
    factors = None
    if blocks.scaled:
        largest = _largest(scale[0, 0])
        factors = _per_lane(scale[0, 0] / largest).T
        values = (values.astype(jnp.float32) * factors).astype(values.dtype)
    log_largest = jnp.log(largest)
    key_segments = _down(k_seg[0])
    d_k_sum[...] = jnp.zeros_like(d_k_sum)
    d_v_sum[...] = jnp.zeros_like(d_v_sum)

    def visit(i: Array, carry: int) -> int:
        span = _span(i, size_q)
        segments = q_seg[0, :, span]
        offset = block * size_k - i * size_q
        mask = _mask(blocks, key_segments, segments, offset)
        shift = jnp.where(segments == SEES_NOTHING, HIDDEN, 0.0)
        # Head after head keeps fewer numbers alive than all logits first, unlike in `forward`.
        for head in range(PAIR):
            queries = _of_head(q[0, span, :], head)
            d_outs = _of_head(d_out[0, span, :], head)
            logits = _logits(blocks, keys, queries, bands, head, offset)
            log_sum = stats[0, 0, head : head + 1, span]
            p = jnp.exp((logits + mask - shift) - (log_sum - log_largest[head : head + 1]))
            d_p = _product(values, d_outs, (1, 1))
            d_logits = p * (d_p - delta[head : head + 1, span] / largest[head : head + 1])
            if blocks.bias is not None:
                band.add(blocks.bias, d_bands, head, offset, d_logits)
            d_logits = d_logits.astype(keys.dtype)
            d_v_sum[...] += _product(p.astype(keys.dtype), d_outs, (1, 0))
            d_k_sum[...] += _product(d_logits, queries, (1, 0))
            rows = _rows_of(head)
            d_q_turned[rows, span] += _product(keys_turned[rows], d_logits, (1, 0))
        return carry

    place = row * blocks.count_k + block
    ends = pl.num_programs(0) * blocks.count_k
    jax.lax.fori_loop(ranges[place], ranges[ends + place], visit, 0)

    d_k[0] = d_k_sum[...].astype(d_k.dtype)
    d_values = d_v_sum[...] if factors is None else d_v_sum[...] * factors
    d_v[0] = d_values.astype(d_v.dtype)

    @pl.when(block == blocks.count_k - 1)
    def _finish() -> None:
        for i in range(blocks.count_q):
            span = pl.ds(i * size_q, size_q)
            d_q[0, span, :] = d_q_turned[:, span].T.astype(d_q.dtype)
        if blocks.bias is not None:
            for head in range(PAIR):
                d_bias[0, 0, head : head + 1, :] = band.along_diagonals(blocks.bias, d_bands, head)
