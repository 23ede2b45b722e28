"""T5 1.1 and 1.0: the module, and the plain functions over a parameter tree that the rest calls.

Raffel et al. 2020 and the T5 1.1 release. The parameter tree is the same however it runs: nested
dicts of float32 arrays, every layer parameter stacked over the layers on axis 0.

Axis letters: B batch, L length (Ls of the inputs, Lt of the targets), D embed, H heads, K head dim,
M places in the cache, N layers, V vocab.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from flan_train.models.attention import segment_mask
from flan_train.models.config import T5Config
from flan_train.models.layers import (
    AnyArray,
    Axes,
    Constrain,
    Embed,
    Key,
    site_keys,
    unconstrained,
)
from flan_train.models.stacks import Decoder, Encoder

__all__ = [
    "T5",
    "Cache",
    "Params",
    "T5Config",
    "abstract_params",
    "apply",
    "count_params",
    "decode_step",
    "encode",
    "init_cache",
    "init_params",
    "param_axes",
]

Params: TypeAlias = dict[str, Any]

# Logical axes by the last two names of a parameter's path; stacked ones have "layers" in front.
# "heads" is the joined axis of H * K numbers, head by head.
PARAM_AXES: dict[tuple[str, str], Axes] = {
    ("token_embedder", "embedding"): ("vocab", "embed"),
    ("relpos_bias", "rel_embedding"): ("heads", "buckets"),
    ("query", "kernel"): ("embed", "heads"),
    ("key", "kernel"): ("embed", "heads"),
    ("value", "kernel"): ("embed", "heads"),
    ("out", "kernel"): ("heads", "embed"),
    ("wi", "kernel"): ("embed", "mlp"),
    ("wi_0", "kernel"): ("embed", "mlp"),
    ("wi_1", "kernel"): ("embed", "mlp"),
    ("wo", "kernel"): ("mlp", "embed"),
    ("logits_dense", "kernel"): ("embed", "vocab"),
}
NORM_AXES: Axes = ("embed",)


class T5(nnx.Module):
    """An encoder-decoder; the names of its parts are the keys of the parameter tree."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.token_embedder = Embed(config, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(
        self,
        tokens: Int[AnyArray, "B Ls"],
        segment_ids: Int[AnyArray, "B Ls"],
        *,
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Ls D"]:
        """Returns the encoded inputs in the activation dtype."""
        return self.encoder(
            self.token_embedder(tokens, self.config.dtype),
            mask=segment_mask(segment_ids, segment_ids, causal=False),
            dropout_key=dropout_key,
            constrain=constrain,
        )

    def decode(
        self,
        tokens: Int[AnyArray, "B Lt"],
        segment_ids: Int[AnyArray, "B Lt"],
        encoded: Float[Array, "B Ls D"],
        encoder_segment_ids: Int[AnyArray, "B Ls"],
        *,
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lt V"]:
        """Returns float32 logits for every target place."""
        x = self.decoder(
            self.token_embedder(tokens, self.config.dtype),
            encoded,
            mask=segment_mask(segment_ids, segment_ids, causal=True),
            cross_mask=segment_mask(segment_ids, encoder_segment_ids, causal=False),
            dropout_key=dropout_key,
            constrain=constrain,
        )
        return self.logits(x, constrain=constrain)

    def logits(self, x: Float[Array, "B Lt D"], *, constrain: Constrain) -> Float[Array, "B Lt V"]:
        """Returns float32 logits of the decoder's final states."""
        if self.config.tie_embeddings:
            logits = self.token_embedder.attend(x)
        else:
            logits = self.decoder.logits_dense(x)
        return constrain(logits, ("batch", "length", "vocab"))


@functools.lru_cache(maxsize=64)
def _structure(config: T5Config) -> tuple[Any, Params]:
    # The graph of modules and the tree of shapes; no array is made.
    module = nnx.eval_shape(lambda: T5(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(module)
    return graph, nnx.to_pure_dict(state)


def _module(params: Params, config: T5Config) -> T5:
    return nnx.merge(_structure(config)[0], params)


def init_params(config: T5Config, key: Key) -> Params:
    """Returns freshly drawn float32 parameters (T5's own standard deviations); can be jitted."""
    module = T5(config, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(module))


def abstract_params(config: T5Config) -> Params:
    """Returns the parameter tree as shapes and dtypes, without allocating anything."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _structure(config)[1])


def param_axes(config: T5Config) -> Params:
    """Returns the parameter tree with a tuple of logical axis names in place of each array."""

    def axes(path: tuple[Any, ...], _: object) -> Axes:
        names = [entry.key for entry in path]
        own = NORM_AXES if names[-1] == "scale" else PARAM_AXES[names[-2], names[-1]]
        return ("layers", *own) if "layers" in names else own

    return jax.tree_util.tree_map_with_path(axes, _structure(config)[1])


def count_params(config: T5Config) -> int:
    """Returns the number of parameters, without allocating any."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(_structure(config)[1]))


def apply(
    params: Params,
    config: T5Config,
    batch: Mapping[str, Any],
    *,
    dropout_key: Key | None = None,
    constrain: Constrain = unconstrained,
) -> Float[Array, "B Lt V"]:
    """Returns the float32 logits of a batch, packed or not.

    Args:
      params: as `init_params` returns them.
      config: what the parameters belong to, and how to run them.
      batch: int32 [B, Ls] `encoder_input_tokens` and `encoder_segment_ids`, int32 [B, Lt]
        `decoder_input_tokens` and `decoder_segment_ids`. Segments count from 1, padding is 0.
        Other features, positions among them, are not read (see attention.py).
      dropout_key: None switches dropout off.
      constrain: called with an activation and its logical axes, returns it sharded.
    """
    module = _module(params, config)
    encoder_key, decoder_key = site_keys(dropout_key, 2)
    encoder_segments = jnp.asarray(batch["encoder_segment_ids"])
    encoded = module.encode(
        jnp.asarray(batch["encoder_input_tokens"]),
        encoder_segments,
        dropout_key=encoder_key,
        constrain=constrain,
    )
    return module.decode(
        jnp.asarray(batch["decoder_input_tokens"]),
        jnp.asarray(batch["decoder_segment_ids"]),
        encoded,
        encoder_segments,
        dropout_key=decoder_key,
        constrain=constrain,
    )


def encode(
    params: Params,
    config: T5Config,
    tokens: Int[AnyArray, "B Ls"],
    segment_ids: Int[AnyArray, "B Ls"],
    *,
    constrain: Constrain = unconstrained,
) -> Float[Array, "B Ls D"]:
    """Returns the encoded inputs in the activation dtype, without dropout."""
    module = _module(params, config)
    return module.encode(tokens, segment_ids, dropout_key=None, constrain=constrain)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """What decoding remembers, in the activation dtype, layers on axis 0.

    keys, values: [N, B, H, M, K], filled up to the current step. cross_keys, cross_values:
    [N, B, H, Ls, K]. encoder_segment_ids: int32 [B, Ls]; decoding looks at segment 1.
    """

    keys: Array
    values: Array
    cross_keys: Array
    cross_values: Array
    encoder_segment_ids: Array


def init_cache(
    params: Params,
    config: T5Config,
    encoded: Float[Array, "B Ls D"],
    encoder_segment_ids: Int[AnyArray, "B Ls"],
    max_length: int,
    *,
    constrain: Constrain = unconstrained,
) -> Cache:
    """Returns a cache with room for `max_length` steps; keys of the encoded inputs are in it."""
    decoder = _module(params, config).decoder
    cross_keys, cross_values = decoder.cross_keys_values(encoded, constrain=constrain)
    layers, batch, heads, _, width = cross_keys.shape
    axes = (None, "batch", "heads", "length", "kv")
    empty = constrain(jnp.zeros((layers, batch, heads, max_length, width), encoded.dtype), axes)
    return Cache(
        empty,
        empty,
        constrain(cross_keys, axes),
        constrain(cross_values, axes),
        jnp.asarray(encoder_segment_ids),
    )


def decode_step(
    params: Params,
    config: T5Config,
    cache: Cache,
    tokens: Int[AnyArray, " B"],
    step: Int[AnyArray, ""] | int,
    *,
    constrain: Constrain = unconstrained,
) -> tuple[Float[Array, "B V"], Cache]:
    """Returns the float32 logits after the token at place `step`, and the cache with it added."""
    module = _module(params, config)
    step = jnp.asarray(step, jnp.int32)
    ones = jnp.ones((tokens.shape[0], 1), jnp.int32)
    x, keys, values = module.decoder.step(
        module.token_embedder(tokens[:, None], config.dtype),
        keys=cache.keys,
        values=cache.values,
        cross=(cache.cross_keys, cache.cross_values),
        cross_mask=segment_mask(ones, cache.encoder_segment_ids, causal=False),
        step=step,
        constrain=constrain,
    )
    logits = module.logits(x, constrain=constrain)[:, 0]
    encoder = (cache.cross_keys, cache.cross_values, cache.encoder_segment_ids)
    return logits, Cache(keys, values, *encoder)
