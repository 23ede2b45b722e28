"""Relative position buckets, the bias laid out along diagonals, masks and the softmax."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flan_train.models.attention import RelativePositionBias, attend, segment_mask
from flan_train.models.buckets import bucket_starts, relative_buckets
from tests.models import seeded

CONFIG = seeded.SIZES["t5_1_1_small"]


def by_logarithm(offset: int, bidirectional: bool, buckets: int, max_distance: int) -> int:
    """Returns the bucket by the paper's formula, in double precision nudged off the borders."""
    base = 0
    if bidirectional:
        buckets //= 2
        base = buckets if offset > 0 else 0
        distance = abs(offset)
    else:
        distance = max(-offset, 0)
    exact = buckets // 2
    if distance < exact:
        return base + distance
    far = math.log(distance / exact) / math.log(max_distance / exact) * (buckets - exact)
    return base + min(exact + int(far + 1e-9), buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 64), (8, 20)])
def test_buckets_follow_the_formula(bidirectional: bool, buckets: int, max_distance: int) -> None:
    offsets = np.arange(-300, 301, dtype=np.int32)
    found = relative_buckets(
        jnp.asarray(offsets),
        bidirectional=bidirectional,
        buckets=buckets,
        max_distance=max_distance,
    )
    expected = [by_logarithm(int(o), bidirectional, buckets, max_distance) for o in offsets]
    np.testing.assert_array_equal(found, expected)
    # A key after the query is never at distance 0, so that one bucket stays unused.
    unused = {buckets // 2} if bidirectional else set()
    assert set(np.asarray(found).tolist()) == set(range(buckets)) - unused


def test_bucket_starts_as_documented() -> None:
    assert bucket_starts(8, 16, 128) == (12, 16, 23, 32, 46, 64, 91)


def bias_module(bidirectional: bool) -> RelativePositionBias:
    """Returns a table with a different number in every place."""
    return RelativePositionBias(
        CONFIG, bidirectional=bidirectional, rngs=nnx.Rngs(params=jax.random.key(0))
    )


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 6), (5, 1), (3, 8), (150, 150)])
def test_the_bias_of_a_pair_depends_on_its_offset_alone(
    queries: int, keys: int, bidirectional: bool
) -> None:
    module = bias_module(bidirectional)
    table = np.asarray(module.rel_embedding[...])
    found = np.asarray(module(queries, keys))
    assert found.shape == (CONFIG.num_heads, queries, keys)
    buckets = {o: by_logarithm(o, bidirectional, 32, 128) for o in range(-queries, keys)}
    chosen = np.array([[buckets[k - q] for k in range(keys)] for q in range(queries)])
    np.testing.assert_array_equal(found, table[:, chosen])


def test_the_table_gets_the_sum_of_its_pairs_as_gradient() -> None:
    module = bias_module(bidirectional=True)
    graph, state = nnx.split(module)
    weight = np.asarray(seeded.ids("weights", 5, 7), np.float32)
    gradient = jax.grad(lambda s: jnp.sum(nnx.merge(graph, s)(5, 7)[0] * weight))(state)
    expected = np.zeros(32)
    for q in range(5):
        for k in range(7):
            expected[by_logarithm(k - q, True, 32, 128)] += weight[q, k]
    found = np.asarray(jax.tree.leaves(gradient)[0])
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert (found[1:] == 0).all()


def test_the_mask_as_documented() -> None:
    segments = np.array([[1, 1, 1, 2, 2, 0]], np.int32)
    mask = np.asarray(segment_mask(segments, segments, causal=False))[0, 0].astype(int)
    np.testing.assert_array_equal(mask[0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(mask[3], [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(mask[5], [0, 0, 0, 0, 0, 1])
    causal = np.asarray(segment_mask(segments, segments, causal=True))[0, 0].astype(int)
    np.testing.assert_array_equal(causal, np.tril(mask))


def test_attention_is_an_unscaled_softmax_and_survives_a_hidden_row() -> None:
    draw = np.random.default_rng(0)
    query, key, value = (draw.normal(size=(1, 2, 4, 8)).astype(np.float32) for _ in range(3))
    bias = draw.normal(size=(2, 4, 4)).astype(np.float32)
    mask = np.tril(np.ones((4, 4), bool))[None, None]
    mask[..., 3, :] = False
    found = np.asarray(
        attend(
            jnp.asarray(query),
            jnp.asarray(key),
            jnp.asarray(value),
            mask=jnp.asarray(mask),
            bias=jnp.asarray(bias),
        )
    )
    assert np.isfinite(found).all()
    logits = np.einsum("bhqk,bhsk->bhqs", query, key) + bias
    weights = np.where(mask, np.exp(logits), 0)[..., :3, :]
    expected = np.einsum("bhqs,bhsk->bhqk", weights / weights.sum(-1, keepdims=True), value)
    np.testing.assert_allclose(found[:, :, :3], expected, atol=1e-5)
