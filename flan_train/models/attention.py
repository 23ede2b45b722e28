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

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from flan_train.models.buckets import relative_buckets
from flan_train.models.config import T5Config
from flan_train.models.layers import (
    HIDDEN,
    RESIDUAL,
    AnyArray,
    Axes,
    Constrain,
    Dense,
    Key,
    dropout,
)
from flan_train.models.row_attention import row_attention

HEADS: Axes = ("batch", "heads", "length", "kv")
JOINED: Axes = ("batch", "length", "heads")
ROWS: Axes = ("batch", "length")


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


class Sight(NamedTuple):
    """What the attention of one stack sees, the same in each of its layers.

    Either `mask` and `bias`, laid out in full for the plain product; or the `segments` that the
    fused one makes a block of the mask from, and the `table` for a block of the bias.
    """

    mask: Bool[Array, "B 1 #Lq Lk"] | None = None
    bias: Float[Array, "H Lq Lk"] | None = None
    segments: tuple[Int[AnyArray, "B Lq"], Int[AnyArray, "B Lk"]] | None = None
    table: Float[Array, "H N"] | None = None


def fused_obstacle(config: T5Config, queries: int, keys: int, constrain: Constrain) -> str | None:
    """Returns why attention of these lengths is not run in `fused_attention`'s kernel, or None.

    With `config.attention` "auto" it is on TPUs in bfloat16, wherever the kernel applies; with
    "fused" wherever it applies, interpreted (slowly) on anything but a TPU; with "plain" never.
    """
    if config.attention == "plain":
        return "it is switched off"
    if config.attention == "auto" and constrain.platform != "tpu":
        return f"the devices are no TPUs but {constrain.platform}"
    if config.attention == "auto" and config.dtype != "bfloat16":
        return f"{config.dtype} would take six passes of the matrix unit"
    # Pallas takes its time to import, and only this path needs it.
    from flan_train.models.fused_attention import obstacle

    heads = config.num_heads // constrain.parts("heads")
    return obstacle(queries, keys, heads, config.head_dim, config.dtype)


def sight(
    config: T5Config,
    query_segments: Int[AnyArray, "B Lq"],
    key_segments: Int[AnyArray, "B Lk"],
    *,
    causal: bool = False,
    relative: RelativePositionBias | None = None,
    constrain: Constrain,
) -> Sight:
    """Returns what queries see of keys: their own segment, weighed by distance where one is given.

    Args:
      config: of the model.
      query_segments: of the queries' places; 0 is padding.
      key_segments: of the keys' places.
      causal: whether nothing after the query is seen.
      relative: the stack's bias by distance.
      constrain: where activations lie.
    """
    queries, keys = query_segments.shape[1], key_segments.shape[1]
    if fused_obstacle(config, queries, keys, constrain) is None:
        table = None if relative is None else relative.rel_embedding[...]
        return Sight(segments=(query_segments, key_segments), table=table)
    bias = None
    if relative is not None:
        bias = constrain(relative(queries, keys), ("heads", None, None))
    return Sight(segment_mask(query_segments, key_segments, causal=causal), bias)


class Attention(nnx.Module):
    """The four projections of one attention: query, key, value [D, H*K] and out [H*K, D]."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        embed, joined = config.embed_dim, config.num_heads * config.head_dim
        self.query = Dense(embed, joined, (embed * config.head_dim) ** -0.5, rngs=rngs)
        self.key = Dense(embed, joined, embed**-0.5, rngs=rngs)
        self.value = Dense(embed, joined, embed**-0.5, rngs=rngs)
        self.out = Dense(joined, embed, joined**-0.5, rngs=rngs)

    def keys_values(
        self, x: Float[Array, "B Lk D"], *, constrain: Constrain
    ) -> tuple[Float[Array, "B Lk J"], Float[Array, "B Lk J"]]:
        """Returns the keys and values of x, heads joined."""
        return constrain(self.key(x), JOINED), constrain(self.value(x), JOINED)

    def __call__(
        self,
        x: Float[Array, "B Lq D"],
        key: Float[Array, "B Lk J"],
        value: Float[Array, "B Lk J"],
        *,
        sight: Sight,
        causal: bool = False,
        dropout_key: Key | None = None,
        constrain: Constrain,
    ) -> Float[Array, "B Lq D"]:
        """Returns what the queries of x gather from the given keys and values, projected back."""
        query = constrain(self.query(x), JOINED)
        arguments = (query, key, value, sight, causal, dropout_key, constrain)
        gathered = self._plain(*arguments) if sight.segments is None else self._fused(*arguments)
        return constrain(self.out(gathered), RESIDUAL)

    def _split(
        self, joined: Float[Array, "B L J"], constrain: Constrain
    ) -> Float[Array, "B H L K"]:
        batch, length, _ = joined.shape
        heads = joined.reshape(batch, length, self.config.num_heads, self.config.head_dim)
        return constrain(heads.transpose(0, 2, 1, 3), HEADS)

    def _plain(
        self,
        query: Float[Array, "B Lq J"],
        key: Float[Array, "B Lk J"],
        value: Float[Array, "B Lk J"],
        sight: Sight,
        causal: bool,
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lq J"]:
        del causal  # in the mask
        assert sight.mask is not None
        if self.config.attention == "auto" and constrain.platform == "cpu":
            return self._by_rows(query, key, value, sight, dropout_key, constrain)
        gathered = attend(
            *(self._split(x, constrain) for x in (query, key, value)),
            mask=sight.mask,
            bias=sight.bias,
            dropout_rate=self.config.dropout_rate,
            dropout_key=dropout_key,
        )
        return gathered.transpose(0, 2, 1, 3).reshape(query.shape)

    def _by_rows(
        self,
        query: Float[Array, "B Lq J"],
        key: Float[Array, "B Lk J"],
        value: Float[Array, "B Lk J"],
        sight: Sight,
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lq J"]:
        assert sight.mask is not None

        def local(
            query: Array,
            key: Array,
            value: Array,
            mask: Array,
            bias: Array | None,
            scale: Array | None,
        ) -> Array:
            heads = query.shape[-1] // self.config.head_dim
            return row_attention(query, key, value, mask, bias, scale, heads)

        run = constrain.per_shard(
            local,
            (
                *(JOINED, JOINED, JOINED),
                ("batch", None, None),
                ("heads", None, None),
                ("batch", "heads", "length"),
            ),
            JOINED,
        )
        scale = self._value_scale(key, dropout_key, constrain)
        return run(query, key, value, sight.mask[:, 0], sight.bias, scale)

    def _value_scale(
        self, key: Float[Array, "B Lk J"], dropout_key: Key | None, constrain: Constrain
    ) -> Float[Array, "B H Lk"] | None:
        """Returns what dropout of attention weights does to each key's value, float32."""
        if dropout_key is None or not self.config.dropout_rate:
            return None
        # The weights of a key are dropped for all queries at once: its value is.
        ones = jnp.ones((key.shape[0], self.config.num_heads, 1, key.shape[1]), jnp.float32)
        dropped = dropout(ones, self.config.dropout_rate, dropout_key)[:, :, 0]
        return constrain(dropped, ("batch", "heads", "length"))

    def _fused(
        self,
        query: Float[Array, "B Lq J"],
        key: Float[Array, "B Lk J"],
        value: Float[Array, "B Lk J"],
        sight: Sight,
        causal: bool,
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lq J"]:
        from flan_train.models.fused_attention import fused_attention

        assert sight.segments is not None
        config = self.config
        scale = self._value_scale(key, dropout_key, constrain)

        def local(
            query: Array,
            key: Array,
            value: Array,
            query_segments: Array | None,
            key_segments: Array,
            table: Array | None,
            scale: Array | None,
        ) -> Array:
            return fused_attention(
                query,
                key,
                value,
                key_segments if query_segments is None else query_segments,
                key_segments,
                table,
                heads=query.shape[-1] // config.head_dim,
                causal=causal,
                bidirectional=not causal,
                max_distance=config.relative_max_distance,
                value_scale=scale,
                interpret=constrain.platform != "tpu",
            )

        run = constrain.per_shard(
            local,
            (JOINED, JOINED, JOINED, ROWS, ROWS, ("heads", None), ("batch", "heads", "length")),
            JOINED,
        )
        # One array in self-attention: the kernel then knows that every query sees itself.
        queries, keys = sight.segments
        segments = (None if queries is keys else queries, keys)
        return run(query, key, value, *segments, sight.table, scale)
