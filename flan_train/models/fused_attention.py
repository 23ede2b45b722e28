"""Attention of packed rows in one TPU kernel each way, with T5's relative position bias inside.

Axis letters: B batch, L length (Lq of queries, Lk of keys), H heads, J = H * 64 heads joined,
N buckets, P near offsets.

Nothing of size [Lq, Lk] leaves the chip's own memory: a program computes the logits of one block
of one pair of heads, their mask from segments, their bias from the table of buckets, and forgets
them. The backward pass computes them once more, from a saved [B, H, Lq] float32 log of the sum of
exponentials, and with five products gives the gradients of query, key, value and table. Where the
result is rounded to bfloat16, it also takes what rounding took: one more array [B, Lq, J], saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Float, Int

from flan_train.models import fused_attention_band as band
from flan_train.models import fused_attention_blocks as cut
from flan_train.models import fused_attention_kernels as kernels
from flan_train.models.config import FUSED_RESULTS
from flan_train.models.fused_attention_band import Bias
from flan_train.models.fused_attention_blocks import HEAD, LANES, PAIR, Blocks
from flan_train.models.layers import AnyArray

OUT_NAME, REST_NAME, STATS_NAME = FUSED_RESULTS

# Up to here the whole of a pair's queries and their gradients fit into 16 MiB beside the rest.
LONGEST = {"bfloat16": 4096, "float32": 2048}

# Rows of the batch and pairs of heads may go to either core of a chip; blocks of one pair follow
# each other, since they share what the first has prepared and add to one gradient.
_COMPILER = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def obstacle(
    lq: int, lk: int, heads_on_device: int, head_dim: int, dtype: str = "bfloat16"
) -> str | None:
    """Returns why the kernel cannot serve such a call, or None where it can."""
    if dtype not in LONGEST:
        return f"numbers are {dtype}, not one of {', '.join(LONGEST)}"
    for length in (lq, lk):
        if length % LANES or not 0 < length <= LONGEST[dtype]:
            return f"length {length} is not a multiple of {LANES} up to {LONGEST[dtype]}"
    if head_dim != HEAD:
        return f"heads are {head_dim} wide, not {HEAD}"
    if heads_on_device < PAIR or heads_on_device % PAIR:
        return f"{heads_on_device} heads on a device are not an even number"
    return None


def applies(lq: int, lk: int, heads_on_device: int, head_dim: int, dtype: str = "bfloat16") -> bool:
    """Returns whether the kernel can serve a call of these lengths, heads, width and numbers."""
    return obstacle(lq, lk, heads_on_device, head_dim, dtype) is None


@dataclass(frozen=True)
class _Call:
    """The static part of a call; a backward pass has its own sizes of blocks."""

    forward: Blocks
    backward: Blocks
    interpret: bool


def fused_attention(
    query: Float[Array, "B Lq J"],
    key: Float[Array, "B Lk J"],
    value: Float[Array, "B Lk J"],
    query_segments: Int[AnyArray, "B Lq"],
    key_segments: Int[AnyArray, "B Lk"],
    bias_table: Float[Array, "H N"] | None,
    *,
    heads: int,
    causal: bool,
    bidirectional: bool,
    max_distance: int,
    value_scale: Float[Array, "B H Lk"] | None = None,
    block_q: int | None = None,
    block_k: int | None = None,
    interpret: bool = False,
) -> Float[Array, "B Lq J"]:
    """Returns what `attention.attend` returns for the same mask and bias, in the dtype of query.

    Softmax, sums and the gradient of the table are float32; products take operands in the dtype
    of query, float32 ones at full precision. A query that sees no key attends to all keys as the
    plain product does: its logits lose all but multiples of 64 where HIDDEN is added, and so all
    keys weigh alike unless a logit is beyond 32. Its gradients are the plain ones too.

    Results that the backward pass needs carry the names FUSED_RESULTS for remat policies.

    Args:
      query: heads joined on the last axis, since 64 lanes alone would be padded to 128 in HBM.
      key: likewise.
      value: likewise.
      query_segments: 0 or more, 0 for padding; padding sees padding.
      key_segments: likewise. In self-attention pass the same array.
      bias_table: of each head one number for each bucket; None for no bias.
      heads: on this device; an even number.
      causal: whether keys after the query are hidden.
      bidirectional: whether half of the buckets are for keys after the query.
      max_distance: from where on all distances share a bucket.
      value_scale: factors of each key's value, one per head, taken as constants: attention
        dropout that drops whole keys has 0 or 1 / (1 - rate) here.
      block_q: queries of a block, a multiple of 128 that divides Lq; None chooses.
      block_k: keys of a block, likewise.
      interpret: whether to run on any device, slowly.

    Raises:
      ValueError: the shapes are not for this kernel.
    """
    lq, joined = query.shape[1:]
    lk = key.shape[1]
    reason = obstacle(lq, lk, heads, joined // heads, query.dtype.name)
    if reason is not None:
        raise ValueError(f"fused attention cannot serve {query.shape} x {key.shape}: {reason}")
    for size, length in ((block_q, lq), (block_k, lk)):
        if size is not None and (size < LANES or size % LANES or length % size):
            raise ValueError(f"a block of {size} is no multiple of {LANES} that divides {length}")

    def blocks(sizes: Sequence[Sequence[int]]) -> Blocks:
        size_q = block_q or cut.fitting(lq, sizes[0])
        size_k = block_k or cut.fitting(lk, sizes[1])
        bias = None
        if bias_table is not None:
            buckets = bias_table.shape[1]
            bias = Bias(buckets, max_distance, bidirectional, size_q, max(lq, lk))
        return Blocks(lq, lk, size_q, size_k, causal, bias, value_scale is not None)

    wide = query.dtype == jnp.float32
    backward = cut.BACKWARD_SIZES_FLOAT32 if wide else cut.BACKWARD_SIZES
    call = _Call(blocks(cut.FORWARD_SIZES), blocks(backward), interpret)
    keys = jnp.asarray(key_segments, jnp.int32)
    queries = keys
    if query_segments is not key_segments:
        queries = cut.mark_unseeing(jnp.asarray(query_segments, jnp.int32), keys, causal=causal)
    return _attend(call, query, key, value, queries, keys, bias_table, value_scale)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    call: _Call, q: Array, k: Array, v: Array, q_seg: Array, k_seg: Array,
    table: Array | None, scale: Array | None,
) -> Array:  # fmt: skip
    return _forward(call, q, k, v, q_seg, k_seg, table, scale, kept=False)[0]


def _run(
    call: _Call, kernel: Any, name: str, grid: tuple[int, ...], operands: list[Any],
    results: list[Any], scratch: list[Any], **work: int,
) -> Any:  # fmt: skip
    """Returns the results of a kernel.

    Args:
      call: static part of the call.
      kernel: its body, blocks bound.
      name: of the kernel in profiles.
      grid: steps: rows of the batch, pairs of heads, blocks.
      operands: of each the array, or None, and its window; the first is the ranges of blocks.
      results: of each the shape, or None, the dtype and its window.
      scratch: shape and dtype of each, or None.
      work: of the cost: products and vector.
    """
    (blocks,) = kernel.args
    arrays = [array for array, _ in operands]
    windows = [(spec, array.dtype.itemsize) for array, spec in operands[2:] if array is not None]
    windows += [(spec, jnp.dtype(dtype).itemsize) for shape, dtype, spec in results if shape]
    moved = cut.traffic(grid, windows) + sum(x.nbytes for x in arrays[:2] if x is not None)
    return pl.pallas_call(
        kernel,
        name=name,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[None if array is None else spec for array, spec in operands[1:]],
            out_specs=[spec if shape else None for shape, _, spec in results],
            scratch_shapes=[None if entry is None else pltpu.VMEM(*entry) for entry in scratch],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(shape, dtype) if shape else None for shape, dtype, _ in results
        ],
        compiler_params=_COMPILER,
        cost_estimate=cut.cost(blocks, heads=grid[0] * grid[1] * PAIR, moved=moved, **work),
        interpret=call.interpret,
    )(*arrays)


def _paired(x: Array | None) -> Array | None:
    """Returns [B, H, L] as [B, H / 2, 2, L], of which a window of a pair needs no padding."""
    if x is None:
        return None
    batch, heads, length = x.shape
    return x.astype(jnp.float32).reshape(batch, heads // PAIR, PAIR, length)


def _flat(table: Array | None) -> Array | None:
    return None if table is None else table.astype(jnp.float32).ravel()


def _windows(size: int, *, moving: bool) -> tuple[pl.BlockSpec, pl.BlockSpec, pl.BlockSpec]:
    """Returns the windows on [B, L, J], [B, 1, L] and [B, H / 2, 2, L]: a block or all of L."""

    def at(i: Any) -> Any:
        return i if moving else 0

    return (
        pl.BlockSpec((1, size, LANES), lambda b, h, i, *_: (b, at(i), h)),
        pl.BlockSpec((1, 1, size), lambda b, h, i, *_: (b, 0, at(i))),
        pl.BlockSpec((1, 1, PAIR, size), lambda b, h, i, *_: (b, h, 0, at(i))),
    )


_SCALARS = pl.BlockSpec(memory_space=pltpu.SMEM)


def _forward(
    call: _Call, q: Array, k: Array, v: Array, q_seg: Array, k_seg: Array,
    table: Array | None, scale: Array | None, *, kept: bool = True,
) -> tuple[Array, tuple[Array | None, ...]]:  # fmt: skip
    """Returns the result, and with `kept` what the backward pass needs, else an empty tuple."""
    blocks = call.forward
    batch, lq, joined = q.shape
    pairs = joined // LANES
    part_q, seg_q, stats_q = _windows(blocks.block_q, moving=True)
    all_k, seg_k, scale_k = _windows(blocks.keys, moving=False)
    bias = blocks.bias
    # d_logits is what a small difference leaves of d_p and sum(out * d_out): were the sum made of
    # the rounded out, that one rounding would outweigh all others in the gradients.
    rounded = kept and q.dtype != jnp.float32
    out, rest, stats = _run(
        call,
        partial(kernels.forward, blocks),
        "fused_attention_forward",
        (batch, pairs, blocks.count_q),
        [
            (cut.ranges(cut.blocks_seen(blocks, q_seg, k_seg)), None),
            (_flat(table), _SCALARS),
            (q, part_q),
            (k, all_k),
            (v, all_k),
            (q_seg[:, None], seg_q),
            (k_seg[:, None], seg_k),
            (_paired(scale), scale_k),
        ],
        [
            (q.shape, q.dtype, part_q),
            (q.shape if rounded else None, q.dtype, part_q),
            ((batch, pairs, PAIR, lq), jnp.float32, stats_q),
        ],
        [
            ((LANES, blocks.keys), v.dtype),
            ((blocks.keys, LANES), jnp.int32),
            None if bias is None else ((PAIR, LANES, bias.width), jnp.float32),
            ((LANES, blocks.block_q), jnp.float32),
        ],
        products=2,
        vector=cut.FORWARD_VECTOR,
    )
    if not kept:
        return out, ()
    out = checkpoint_name(out, OUT_NAME)
    if rest is not None:
        rest = checkpoint_name(rest, REST_NAME)
    stats = checkpoint_name(stats, STATS_NAME)
    return out, (q, k, v, q_seg, k_seg, table, scale, out, rest, stats)


def _backward(
    call: _Call, kept: tuple[Any, ...], d_out: Array
) -> tuple[Array, Array, Array, None, None, Array | None, None]:
    q, k, v, q_seg, k_seg, table, scale, out, rest, stats = kept
    blocks = call.backward
    batch, lq, joined = q.shape
    pairs = joined // LANES
    all_q, seg_q, stats_q = _windows(lq, moving=False)
    part_k, seg_k, scale_k = _windows(blocks.block_k, moving=True)
    bias = blocks.bias
    f32 = jnp.float32
    bands = None if bias is None else ((PAIR, LANES, bias.width), f32)
    sums_shape = None if bias is None else (batch, pairs, PAIR, bias.period)
    d_q, d_k, d_v, sums = _run(
        call,
        partial(kernels.backward, blocks),
        "fused_attention_backward",
        (batch, pairs, blocks.count_k),
        [
            (cut.ranges(cut.blocks_seen(blocks, q_seg, k_seg).swapaxes(1, 2)), None),
            (_flat(table), _SCALARS),
            (q, all_q),
            (k, part_k),
            (v, part_k),
            (q_seg[:, None], seg_q),
            (k_seg[:, None], seg_k),
            (_paired(scale), scale_k),
            (out, all_q),
            (rest, all_q),
            (d_out, all_q),
            (stats, stats_q),
        ],
        [
            (q.shape, q.dtype, all_q),
            (k.shape, k.dtype, part_k),
            (v.shape, v.dtype, part_k),
            (sums_shape, f32, _windows(bias.period, moving=False)[2] if bias else None),
        ],
        [
            ((PAIR, lq), f32),
            ((LANES, lq), f32),
            ((blocks.block_k, LANES), f32),
            ((blocks.block_k, LANES), f32),
            bands,
            bands,
        ],
        products=5,
        vector=cut.BACKWARD_VECTOR,
    )
    d_table = None
    if bias is not None and table is not None:
        flat = sums.reshape(batch, joined // HEAD, bias.period)
        d_table = band.to_table(bias, flat).astype(table.dtype)
    return d_q, d_k, d_v, None, None, d_table, None


_attend.defvjp(_forward, _backward)
