"""T5 1.1 and 1.0: the module, and the plain functions over a parameter tree that the rest calls.

Raffel et al. 2020 and the T5 1.1 release. The parameter tree is the same however it runs: nested
dicts of float32 arrays, every layer parameter stacked over the layers on axis 0.

Axis letters: B batch, L length (Ls of the inputs, Lt of the targets), D embed, H heads, K head dim,
N layers, V vocab.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

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
    "Params",
    "T5Config",
    "abstract_params",
    "apply",
    "count_params",
    "decode_alternatives",
    "encode",
    "final_states",
    "init_params",
    "logits",
    "output_projection",
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
            self.token_embedder(tokens, self.config.dtype, constrain),
            segment_ids=segment_ids,
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
    ) -> Float[Array, "B Lt D"]:
        """Returns the decoder's final states."""
        return self.decoder(
            self.token_embedder(tokens, self.config.dtype, constrain),
            encoded,
            segment_ids=segment_ids,
            cross_segment_ids=(segment_ids, encoder_segment_ids),
            dropout_key=dropout_key,
            constrain=constrain,
        )

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
    states = final_states(params, config, batch, dropout_key=dropout_key, constrain=constrain)
    return logits(params, config, states, constrain=constrain)


def final_states(
    params: Params,
    config: T5Config,
    batch: Mapping[str, Any],
    *,
    dropout_key: Key | None = None,
    constrain: Constrain = unconstrained,
) -> Float[Array, "B Lt D"]:
    """Returns the decoder's final states of a batch, from which `logits` follow; as `apply`."""
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


def output_projection(
    params: Params, config: T5Config, states: Float[Array, "B Lt D"]
) -> tuple[Float[Array, "B Lt D"], Float[Array, "D V"]]:
    """Returns (x, table) such that the logits of final states are x @ table; table is float32."""
    if config.tie_embeddings:
        scale = jnp.asarray(config.embed_dim**-0.5, states.dtype)
        return states * scale, params["token_embedder"]["embedding"].T
    return states, params["decoder"]["logits_dense"]["kernel"]


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


def decode_alternatives(
    params: Params,
    config: T5Config,
    encoded: Float[Array, "B Ls D"],
    encoder_segment_ids: Int[AnyArray, "B Ls"],
    tokens: Int[AnyArray, "B Lt"],
    segment_ids: Int[AnyArray, "B Lt"],
    *,
    constrain: Constrain = unconstrained,
) -> Float[Array, "B Lt D"]:
    """Returns the final states of several alternative targets of one input, packed into its row.

    Every target (a segment of the row, from 1) sees itself and segment 1 of the inputs, whose
    keys and values are computed once for all of them. `logits` takes the states on.

        tokens        0 7 8 0 7 9 0      two targets "7 8 .", "7 9 ." of one input, and padding
        segment_ids   1 1 1 2 2 2 0
    """
    module = _module(params, config)
    ones = jnp.ones(tokens.shape, jnp.int32)
    return module.decoder(
        module.token_embedder(tokens, config.dtype, constrain),
        encoded,
        segment_ids=segment_ids,
        cross_segment_ids=(ones, encoder_segment_ids),
        dropout_key=None,
        constrain=constrain,
    )


def logits(
    params: Params,
    config: T5Config,
    states: Float[Array, "B Lt D"],
    *,
    constrain: Constrain = unconstrained,
) -> Float[Array, "B Lt V"]:
    """Returns the float32 logits of final states of the decoder."""
    return _module(params, config).logits(states, constrain=constrain)
