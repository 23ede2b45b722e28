"""Multi-head attention with T5's relative position bias, over packed rows.

Axis letters: B batch, L length (Lq of queries, Lk of keys), D embed, H heads, K head dim.

A packed row holds several examples, told apart by segment ids; tokens see only their own segment:

    segment ids   1 1 1 2 2 0        row 0 of the mask   1 1 1 0 0 0
                                     row 3 of the mask   0 0 0 1 1 0
                                     row 5 (padding)     0 0 0 0 0 1

Inside a segment positions count up by one, so the difference of two positions is the difference
of their places in the row. The bias therefore comes from one [Lq, Lk] table that depends on the
lengths alone; entries between segments are wrong and masked.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from flan_train.models.config import T5Config
from flan_train.models.layers import RESIDUAL, AnyArray, Axes, Constrain, Dense, Key, dropout

# Added to a logit in float32 to hide it: far below any logit, far above float32's end, so that a
# row in which everything is hidden still has a finite softmax.
HIDDEN = -1e9

HEADS: Axes = ("batch", "heads", "length", "kv")


def bucket_starts(exact: int, buckets: int, max_distance: int) -> tuple[int, ...]:
    """Returns the smallest distance of each logarithmic bucket after the first, in order.

    Of `buckets` buckets the first `exact` hold one distance each; the rest divide the distances
    from `exact` to `max_distance` evenly on a logarithmic scale. Whole-number arithmetic puts the
    borders in the same place on every device, where float logarithms can land on either side.

    bucket_starts(8, 16, 128) == (12, 16, 23, 32, 46, 64, 91)
    """
    spread = buckets - exact
    starts = []
    distance = exact
    for i in range(1, spread):
        # distance >= exact * (max_distance / exact) ** (i / spread), raised to the power `spread`
        while distance**spread < exact ** (spread - i) * max_distance**i:
            distance += 1
        starts.append(distance)
    return tuple(starts)


def relative_buckets(
    offset: Int[Array, " P"], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[Array, " P"]:
    """Returns the bucket of each offset (place of the key minus place of the query), int32.

    Raffel et al. 2020, section 2.1. Bidirectional: the upper half of the buckets is for keys after
    the query. Otherwise keys after the query count as distance 0 (they are masked anyway).
    """
    base = jnp.zeros_like(offset)
    if bidirectional:
        buckets //= 2
        base = jnp.where(offset > 0, buckets, 0)
        distance = jnp.abs(offset)
    else:
        distance = jnp.maximum(-offset, 0)
    exact = buckets // 2
    bucket = jnp.minimum(distance, exact)
    for start in bucket_starts(exact, buckets, max_distance):
        bucket = bucket + (distance >= start)
    return base + bucket


class RelativePositionBias(nnx.Module):
    """The bias table of one stack, shared by its layers: rel_embedding [H, buckets]."""

    def __init__(self, config: T5Config, *, bidirectional: bool, rngs: nnx.Rngs) -> None:
        self.config = config
        self.bidirectional = bidirectional
        shape = (config.num_heads, config.relative_buckets)
        draw = jax.random.normal(rngs.params(), shape, jnp.float32)
        self.rel_embedding = nnx.Param(draw * config.embed_dim**-0.5)

    def _at(self, offset: Int[Array, " P"]) -> Float[Array, "H P"]:
        bucket = relative_buckets(
            offset,
            bidirectional=self.bidirectional,
            buckets=self.config.relative_buckets,
            max_distance=self.config.relative_max_distance,
        )
        # A product with a one-hot table has a product as its gradient; indexing has a scatter.
        chosen = jax.nn.one_hot(bucket, self.config.relative_buckets, dtype=jnp.float32)
        table = self.rel_embedding[...].astype(jnp.float32)
        return jnp.einsum("hn,pn->hp", table, chosen, precision=jax.lax.Precision.HIGHEST)

    def __call__(self, queries: int, keys: int) -> Float[Array, "H Lq Lk"]:
        """Returns the float32 bias of every (query, key) pair of a row.

        The bias is one vector over the offsets, laid out along diagonals. Tiling a vector of
        length P = Lq + Lk and cutting the result into rows of P - 1 moves each row by one place:

            v = a b c d, Lq = Lk = 2:   a b c d a b c d  ->  a b c  ->  b c
                                                             d a b      a b
        """
        offset = jnp.arange(queries + keys, dtype=jnp.int32) - (queries - 1)
        vector = self._at(offset)
        heads, period = vector.shape
        tiled = jnp.tile(vector, (1, queries))[:, : queries * (period - 1)]
        rows = tiled.reshape(heads, queries, period - 1)
        return rows[:, :, queries - 1 : queries - 1 + keys]


def segment_mask(
    query_segments: Int[AnyArray, "B Lq"], key_segments: Int[AnyArray, "B Lk"], *, causal: bool
) -> Bool[Array, "B 1 Lq Lk"]:
    """Returns which keys each query may see: its own segment, and when causal nothing after it.

    Padding (segment 0) sees padding, so that it never touches a real token.
    """
    mask = jnp.equal(query_segments[:, None, :, None], key_segments[:, None, None, :])
    if causal:
        shape = mask.shape[-2:]
        places = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]
        mask = mask & (places[1] <= places[0])
    return mask


def attend(
    query: Float[Array, "B H Lq K"],
    key: Float[Array, "B H Lk K"],
    value: Float[Array, "B H Lk K"],
    *,
    mask: Bool[Array, "B 1 #Lq Lk"],
    bias: Float[Array, "H Lq Lk"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Key | None = None,
) -> Float[Array, "B H Lq K"]:
    """Returns softmax(query key^T + bias) value with a float32 softmax, in the dtype of query.

    T5 has no 1/sqrt(K): its initialisation of the query projection takes that place.
    """
    logits = jnp.einsum("bhqk,bhsk->bhqs", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    logits = logits + jnp.where(mask, 0.0, HIDDEN)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    weights = dropout(weights, dropout_rate, dropout_key)
    return jnp.einsum("bhqs,bhsk->bhqk", weights, value)


class Attention(nnx.Module):
    """The four projections of one attention: query, key, value [D, H*K] and out [H*K, D]."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        embed, joined = config.embed_dim, config.num_heads * config.head_dim
        self.query = Dense(embed, joined, (embed * config.head_dim) ** -0.5, rngs=rngs)
        self.key = Dense(embed, joined, embed**-0.5, rngs=rngs)
        self.value = Dense(embed, joined, embed**-0.5, rngs=rngs)
        self.out = Dense(joined, embed, joined**-0.5, rngs=rngs)

    def _split(
        self, joined: Float[Array, "B L J"], constrain: Constrain
    ) -> Float[Array, "B H L K"]:
        batch, length, _ = joined.shape
        heads = joined.reshape(batch, length, self.config.num_heads, self.config.head_dim)
        return constrain(heads.transpose(0, 2, 1, 3), HEADS)

    def keys_values(
        self, x: Float[Array, "B Lk D"], *, constrain: Constrain
    ) -> tuple[Float[Array, "B H Lk K"], Float[Array, "B H Lk K"]]:
        """Returns the keys and values of x."""
        return self._split(self.key(x), constrain), self._split(self.value(x), constrain)

    def __call__(
        self,
        x: Float[Array, "B Lq D"],
        key: Float[Array, "B H Lk K"],
        value: Float[Array, "B H Lk K"],
        *,
        mask: Bool[Array, "B 1 #Lq Lk"],
        bias: Float[Array, "H Lq Lk"] | None = None,
        dropout_key: Key | None = None,
        constrain: Constrain,
    ) -> Float[Array, "B Lq D"]:
        """Returns what the queries of x gather from the given keys and values, projected back."""
        gathered = attend(
            self._split(self.query(x), constrain),
            key,
            value,
            mask=mask,
            bias=bias,
            dropout_rate=self.config.dropout_rate,
            dropout_key=dropout_key,
        )
        batch, heads, length, width = gathered.shape
        joined = gathered.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)
        return constrain(self.out(joined), RESIDUAL)
