"""Attention row by row against the plain product: values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train.models import attention
from flan_train.models.row_attention import row_attention

HEADS, WIDTH = 3, 8


def plain(query, key, value, mask, bias, scale):  # type: ignore[no-untyped-def]
    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], HEADS, WIDTH).transpose(0, 2, 1, 3)

    scaled = split(value)
    if scale is not None:
        scaled = (scaled * scale[..., None]).astype(value.dtype)
    out = attention.attend(split(query), split(key), scaled, mask=mask[:, None], bias=bias)
    return out.transpose(0, 2, 1, 3).reshape(query.shape)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)], ids=["f32", "bf16"]
)
@pytest.mark.parametrize("form", ["encoder", "causal", "cross", "broadcast"])
def test_values_and_gradients_are_those_of_the_plain_product(
    form: str, dtype: str, tolerance: float
) -> None:
    keys, queries = 24, 24 if form in ("encoder", "causal") else 16
    draw = iter(jax.random.split(jax.random.key(3), 8))

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(next(draw), shape, jnp.float32)

    joined = HEADS * WIDTH
    query, key, value = (
        normal(2, length, joined).astype(dtype) for length in (queries, keys, keys)
    )
    bias = None if form in ("cross", "broadcast") else normal(HEADS, queries, keys)
    # Dropped keys weigh nothing, the others more.
    scale = None if form == "encoder" else 1.25 * (normal(2, HEADS, keys) > -0.8)
    rng = np.random.default_rng(1)
    # Many segments, padding at the end, and queries of a segment that no key has.
    key_segments = np.sort(rng.integers(1, 5, (2, keys)), axis=1)
    key_segments[:, -3:] = 0
    query_segments = key_segments[:, :queries].copy()
    query_segments[0, 2] = 9
    if form == "broadcast":
        query_segments = query_segments[:, :1]
    mask = attention.segment_mask(query_segments, key_segments, causal=form == "causal")[:, 0]
    pull = normal(2, queries, joined)

    def loss(function):  # type: ignore[no-untyped-def]
        def of(query, key, value, bias):  # type: ignore[no-untyped-def]
            out = function(query, key, value, mask, bias, scale)
            assert out.dtype == dtype
            return jnp.sum(out.astype(jnp.float32) * pull), out

        return jax.jit(jax.grad(of, argnums=(0, 1, 2, 3), has_aux=True))

    ours, out = loss(lambda *a: row_attention(*a, HEADS))(query, key, value, bias)
    theirs, expected = loss(plain)(query, key, value, bias)
    for found, wanted in zip((out, *ours), (expected, *theirs), strict=True):
        if wanted is None:
            assert found is None
            continue
        wide = np.asarray(wanted, np.float32)
        error = np.abs(np.asarray(found, np.float32) - wide).max()
        assert error <= tolerance * max(1.0, np.abs(wide).max())


def test_the_weights_of_a_batch_are_never_there_at_once() -> None:
    rows, length = 16, 64
    shape = (rows, length, HEADS * WIDTH)
    x = jnp.ones(shape)
    mask = jnp.ones((rows, length, length), bool)
    bias = jnp.zeros((HEADS, length, length))

    def loss(query: jax.Array) -> jax.Array:
        return jnp.sum(row_attention(query, x, x, mask, bias, None, HEADS))

    compiled = jax.jit(jax.grad(loss)).lower(x).compile()
    whole = rows * HEADS * length * length * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole
