"""One token of a T5 decoder: parameters laid out for it once, then a plain function.

Training runs a whole target through stacked layers; one token at a time asks for another layout.
Layers lie apart (slicing a stack at every token would copy every weight), projections of the same
input lie side by side (fewer, wider products), and caches are written in place.

Several outputs of one prompt (draws, or beams) stand beside each other on an axis S of their own:
what the encoder gave is held and read once for all of them.

The cache is a ring. All prompts write at one `place`, whatever their own step is, and what lies
`age` places behind it is `age` tokens old for everybody. T5's position bias depends on the age
alone, so one row of it serves the whole batch, and a prompt may enter at any time: it sees nothing
older than itself.

    place 5 of a ring of 4: it writes to 5 mod 4 = 1
    where   0  1  2  3
    age     1  0  3  2      a prompt at its step 2 sees ages 0, 1, 2: not where 2 is

Beams are never copied either. `ancestors[p, s, m]` tells which beam wrote at m what beam s now
continues; every beam looks at what all beams wrote, and sees what its ancestors did.

Axis letters: P prompts, S outputs a prompt, T = S as written, M places in the ring, Ls input
length, D embed, H heads, K head dim, J = H * K, F mlp, V vocab.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from flan_train.models.buckets import relative_buckets
from flan_train.models.config import T5Config
from flan_train.models.layers import HIDDEN, Constrain

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Layer:
    """A decoder layer's weights in the activation dtype; norms float32 [D].

    qkv [D, 3, J], out [J, D], cross_query [D, J], cross_kv [D, 2, J], cross_out [J, D],
    wi [D, 1 or 2, F], wo [F, D].
    """

    self_norm: Any
    qkv: Any
    out: Any
    cross_norm: Any
    cross_query: Any
    cross_kv: Any
    cross_out: Any
    mlp_norm: Any
    wi: Any
    wo: Any


# Sharded as in training: by the names of the axes a layer's weights have.
LAYER_AXES = Layer(
    self_norm=("embed",),
    qkv=("embed", None, "heads"),
    out=("heads", "embed"),
    cross_norm=("embed",),
    cross_query=("embed", "heads"),
    cross_kv=("embed", None, "heads"),
    cross_out=("heads", "embed"),
    mlp_norm=("embed",),
    wi=("embed", None, "mlp"),
    wo=("mlp", "embed"),
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Weights:
    """All a decoder step reads. embedding [V, D], logits [D, V] (None: tied), norm float32 [D],
    position_bias float32 [H, buckets]."""

    embedding: Array
    layers: tuple[Layer, ...]
    norm: Array
    logits: Array | None
    position_bias: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What decoding remembers, a tuple over layers, in the activation dtype.

    keys, values: [P, H, S, M, K]. cross_keys, cross_values: [P, H, Ls, K].
    lengths: int32 [P], of the prompts. ancestors: int32 [P, S, M], or None where outputs are drawn
    independently.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    cross_keys: tuple[Array, ...]
    cross_values: tuple[Array, ...]
    lengths: Array
    ancestors: Array | None


def layers_of(params: Params, config: T5Config) -> tuple[Layer, ...]:
    """Returns the decoder's layers laid out for `step`: new arrays, one set a layer."""
    stack = params["decoder"]["layers"]
    own, cross, mlp = stack["self_attention"], stack["encoder_decoder_attention"], stack["mlp"]
    dtype = config.dtype

    def beside(*parts: Array) -> Array:
        return jnp.stack([part.astype(dtype) for part in parts], axis=-2)

    layers = []
    for i in range(config.num_decoder_layers):
        inputs = ("wi_0", "wi_1") if config.gated else ("wi",)
        layers.append(
            Layer(
                self_norm=stack["pre_self_attention_layer_norm"]["scale"][i],
                qkv=beside(*(own[name]["kernel"][i] for name in ("query", "key", "value"))),
                out=own["out"]["kernel"][i].astype(dtype),
                cross_norm=stack["pre_cross_attention_layer_norm"]["scale"][i],
                cross_query=cross["query"]["kernel"][i].astype(dtype),
                cross_kv=beside(*(cross[name]["kernel"][i] for name in ("key", "value"))),
                cross_out=cross["out"]["kernel"][i].astype(dtype),
                mlp_norm=stack["pre_mlp_layer_norm"]["scale"][i],
                wi=beside(*(mlp[name]["kernel"][i] for name in inputs)),
                wo=mlp["wo"]["kernel"][i].astype(dtype),
            )
        )
    return tuple(layers)


def cross_keys_values(
    weights: Weights, config: T5Config, encoded: Float[Array, "P Ls D"], constrain: Constrain
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Returns what every layer attends to in the encoded inputs: keys and values [P, H, Ls, K]."""
    prompts, length, _ = encoded.shape
    keys, values = [], []
    for layer in weights.layers:
        both = jnp.einsum("pld,dtj->ptlj", encoded, layer.cross_kv)
        both = both.reshape(prompts, 2, length, config.num_heads, config.head_dim)
        both = both.transpose(1, 0, 3, 2, 4)
        axes = ("batch", "heads", "length", "kv")
        keys.append(constrain(both[0], axes))
        values.append(constrain(both[1], axes))
    return tuple(keys), tuple(values)


def bias_by_age(weights: Weights, config: T5Config, places: int) -> Float[Array, "H M"]:
    """Returns the float32 position bias of a key that is 0, 1, .. M - 1 tokens old."""
    bucket = relative_buckets(
        -jnp.arange(places, dtype=jnp.int32),
        bidirectional=False,
        buckets=config.relative_buckets,
        max_distance=config.relative_max_distance,
    )
    return jnp.take(weights.position_bias.astype(jnp.float32), bucket, axis=1)


def step(
    weights: Weights,
    config: T5Config,
    cache: Cache,
    tokens: Int[Array, "P S"],
    place: Int[Array, ""],
    steps: Int[Array, " P"],
    by_age: Float[Array, "H M"],
    constrain: Constrain,
) -> tuple[Float[Array, "P S V"], Cache]:
    """Returns the float32 logits after the given tokens, and the cache with these written to it.

    Args:
      weights: as laid out once.
      config: what they belong to.
      cache: of all that was before.
      tokens: the last tokens; 0 for a prompt at its step 0.
      place: how many tokens were written to the ring before, whoever wrote them.
      steps: each prompt's own step.
      by_age: as `bias_by_age` gives it.
      constrain: called with an activation and its logical axes, returns it sharded.
    """
    prompts, outputs = tokens.shape
    heads, width, places = config.num_heads, config.head_dim, by_age.shape[1]
    # Outputs that see one another's keys share a row of the cache; others have one each.
    together = 1 if cache.ancestors is None else outputs
    rows = prompts * outputs // together
    here = place % places
    age = (here - jnp.arange(places, dtype=jnp.int32)) % places
    bias = jnp.repeat(jnp.take(by_age, age, axis=1), together, axis=1)
    bias = constrain(bias, ("heads", None))[None, :, None, :]
    young = age <= steps[:, None]
    ancestors = cache.ancestors
    if ancestors is None:
        seen = jnp.repeat(young, outputs, axis=0)[:, None, None, :]
    else:
        who = jnp.arange(outputs, dtype=jnp.int32)
        now = jnp.arange(places, dtype=jnp.int32) == here
        ancestors = jnp.where(now, who[:, None], ancestors)
        own = (ancestors[..., None] == who) & young[:, None, :, None]
        seen = own.reshape(prompts, 1, outputs, places * outputs)
    seen = jnp.where(seen, 0.0, HIDDEN) + bias
    visible = jnp.arange(cache.cross_keys[0].shape[2], dtype=jnp.int32) < cache.lengths[:, None]
    visible = jnp.where(visible, 0.0, HIDDEN)[:, None, None, :]

    def split(joined: Array, groups: int) -> Array:
        joined = joined.reshape(groups, -1, heads, width).transpose(0, 2, 1, 3)
        return constrain(joined, ("batch", "heads", None, "kv"))

    def join(found: Array) -> Array:
        return found.transpose(0, 2, 1, 3).reshape(prompts, outputs, heads * width)

    residual = ("batch", None, "embed")
    keys, values = [], []
    x = constrain(jnp.take(weights.embedding, tokens, axis=0).astype(config.dtype), residual)
    for i, layer in enumerate(weights.layers):
        normed = _normed(x, layer.self_norm, config)
        joined = _product(normed, layer.qkv)
        query, key, value = (split(joined[:, :, part], rows) for part in range(3))
        spot = (0, 0, here * together, 0)
        keys.append(jax.lax.dynamic_update_slice(cache.keys[i], key, spot))
        values.append(jax.lax.dynamic_update_slice(cache.values[i], value, spot))
        found = _attend(query, keys[i], values[i], seen)
        x = x + constrain(join(found) @ layer.out, residual)

        normed = _normed(x, layer.cross_norm, config)
        query = split(normed @ layer.cross_query, prompts)
        found = _attend(query, cache.cross_keys[i], cache.cross_values[i], visible)
        x = x + constrain(join(found) @ layer.cross_out, residual)

        hidden = _product(_normed(x, layer.mlp_norm, config), layer.wi)
        hidden = hidden.reshape(prompts, outputs, -1, layer.wi.shape[2])
        hidden = constrain(hidden, ("batch", None, None, "mlp"))
        if config.gated:
            hidden = jax.nn.gelu(hidden[:, :, 0], approximate=True) * hidden[:, :, 1]
        else:
            hidden = jax.nn.relu(hidden[:, :, 0])
        x = x + constrain(hidden @ layer.wo, residual)

    x = _normed(x, weights.norm, config)
    if weights.logits is None:
        x = x * jnp.asarray(config.embed_dim**-0.5, x.dtype)
        product = "psd,vd->psv"
    else:
        product = "psd,dv->psv"
    table = weights.embedding if weights.logits is None else weights.logits
    logits = jnp.einsum(product, x, table, preferred_element_type=jnp.float32)
    cross = (cache.cross_keys, cache.cross_values, cache.lengths)
    return (
        constrain(logits, ("batch", None, "vocab")),
        Cache(tuple(keys), tuple(values), *cross, ancestors),
    )


def _normed(x: Array, scale: Array, config: T5Config) -> Array:
    wide = x.astype(jnp.float32)
    square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(square + config.norm_epsilon) * scale).astype(x.dtype)


def _product(x: Array, kernel: Array) -> Array:
    # [.., D] @ [D, T, J] as one plain product; the reshape keeps J, which may be sharded, whole.
    return jnp.einsum("psd,dtj->pstj", x, kernel)


def _attend(query: Array, key: Array, value: Array, seen: Array) -> Array:
    logits = jnp.einsum("rhqk,rhmk->rhqm", query, key, preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(logits + seen, axis=-1).astype(query.dtype)
    return jnp.einsum("rhqm,rhmk->rhqk", shares, value)
