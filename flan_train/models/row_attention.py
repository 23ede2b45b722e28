"""Attention of one packed row after another, in the forms that a CPU runs at full speed.

Axis letters: B batch, L length (Lq of queries, Lk of keys), H heads, K head dim, J = H * K.

One row's [H, Lq, Lk] weights, and what their gradients need beside them, stay in a CPU's cache;
those of a batch do not. So rows go one after another, and the backward pass computes a row's
weights again rather than read them from memory, as Dao et al. 2022, "FlashAttention", do for
blocks. XLA's CPU backend is fast at products whose left operand has the contracted dimension last,
and at others several times slower: the gradients are written in that form, and barriers keep the
compiler from turning them round again.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from flan_train.models.layers import HIDDEN

_Row = tuple[Array, Array, Array, Array, Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def row_attention(
    query: Float[Array, "B Lq J"],
    key: Float[Array, "B Lk J"],
    value: Float[Array, "B Lk J"],
    mask: Bool[Array, "B _ Lk"],  # one row of it may stand for all queries
    bias: Float[Array, "H Lq Lk"] | None,
    value_scale: Float[Array, "B H Lk"] | None,
    heads: int,
) -> Float[Array, "B Lq J"]:
    """Returns softmax(query key^T + bias) (value_scale * value) of every head, heads joined.

    The softmax is computed in float32, the result has the dtype of query. Gradients go to query,
    key, value and bias.

    Args:
      query: the heads of a token one after another, not divided by sqrt(K).
      key: likewise.
      value: likewise.
      mask: which keys each query may see.
      bias: float32, added to the logits; None for none.
      value_scale: float32, by which each key's value is multiplied (dropout); None for none.
      heads: H.
    """
    rows = (query, key, value, mask, value_scale)
    return lax.map(lambda row: _forward(bias, heads, row), rows)


def _forward_saving(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    bias: Array | None,
    value_scale: Array | None,
    heads: int,
) -> tuple[Array, Any]:
    out = row_attention(query, key, value, mask, bias, value_scale, heads)
    return out, ((query, key, value, mask, value_scale), bias, out)


def _backward(heads: int, saved: Any, grad: Array) -> tuple[Array | None, ...]:
    rows, bias, out = saved

    def add(total: Array | None, part: Any) -> tuple[Array | None, Any]:
        d_logits, others = _backward_of_row(bias, heads, *part)
        return None if total is None else total + d_logits, others

    zeros = None if bias is None else jnp.zeros(bias.shape, jnp.float32)
    d_bias, (d_query, d_key, d_value) = lax.scan(add, zeros, (rows, out, grad))
    return d_query, d_key, d_value, None, d_bias, None


row_attention.defvjp(_forward_saving, _backward)


def _split(x: Float[Array, "L J"], heads: int) -> Float[Array, "H L K"]:
    return x.reshape(x.shape[0], heads, -1).transpose(1, 0, 2)


def _join(x: Float[Array, "H L K"]) -> Float[Array, "L J"]:
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def _dot(formula: str, left: Array, right: Array) -> Array:
    return jnp.einsum(formula, left, right, preferred_element_type=jnp.float32)


def _raised(
    query: Array, key: Array, mask: Array, bias: Array | None
) -> tuple[Float[Array, "H Lq Lk"], Float[Array, "H Lq 1"]]:
    """Returns the softmax's numerators and their sums."""
    hidden = jnp.where(mask, 0.0, HIDDEN)
    logits = _dot("hqk,hsk->hqs", query, key) + (hidden if bias is None else bias + hidden)
    raised = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return raised, jnp.sum(raised, axis=-1, keepdims=True)


def _scaled(value: Float[Array, "H L K"], scale: Array | None) -> Float[Array, "H L K"]:
    return value if scale is None else (value * scale[..., None]).astype(value.dtype)


def _forward(bias: Array | None, heads: int, row: _Row) -> Float[Array, "Lq J"]:
    *given, mask, scale = row
    query, key, value = (_split(x, heads) for x in given)
    raised, total = _raised(query, key, mask, bias)
    # Divided after the product, which has fewer elements.
    raised = lax.optimization_barrier(raised.astype(value.dtype))
    gathered = _dot("hqs,hsk->hqk", raised, _scaled(value, scale)) / total
    return _join(gathered.astype(query.dtype))


def _backward_of_row(
    bias: Array | None, heads: int, row: _Row, out: Array, grad: Array
) -> tuple[Float[Array, "H Lq Lk"], tuple[Array, Array, Array]]:
    *given, mask, scale = row
    query, key, value, out, grad = (_split(x, heads) for x in (*given, out, grad))
    wall = lax.optimization_barrier
    dtype = query.dtype
    raised, total = _raised(query, key, mask, bias)
    weights = wall(raised / total)
    d_value = wall(_dot("hqk,hqs->hks", grad, weights.astype(dtype))).transpose(0, 2, 1)
    d_weights = wall(_dot("hqk,hsk->hqs", grad, _scaled(value, scale)))
    # The sum of weights * d_weights over the keys, without reading either.
    inner = jnp.sum(out.astype(jnp.float32) * grad.astype(jnp.float32), axis=-1, keepdims=True)
    d_logits = wall(weights * (d_weights - inner))
    narrow = d_logits.astype(dtype)
    d_query = _dot("hqs,hsk->hqk", narrow, key)
    d_key = wall(_dot("hqk,hqs->hks", query, narrow)).transpose(0, 2, 1)
    parts = (d_query, d_key, _scaled(d_value, scale))
    joined = tuple(_join(each).astype(dtype) for each in parts)
    return d_logits, joined  # type: ignore[return-value]
