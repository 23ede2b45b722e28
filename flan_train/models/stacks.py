"""Encoder and decoder: layers stacked on axis 0 of every parameter, and the two ways to run them.

Axis letters: B batch, L length (Ls of the inputs, Lt of the targets), D embed, H heads, K head dim,
N layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from flan_train.models.attention import Attention, RelativePositionBias, Sight, sight
from flan_train.models.config import FUSED_RESULTS, T5Config
from flan_train.models.layers import (
    RESIDUAL,
    AnyArray,
    Constrain,
    Key,
    LogitsDense,
    Mlp,
    RMSNorm,
    dropout,
    site_keys,
)

Carry = TypeVar("Carry")


class EncoderLayer(nnx.Module):
    """Self-attention in both directions, then the MLP; each pre-normed with a residual."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.rate = config.dropout_rate
        self.pre_attention_layer_norm = RMSNorm(config)
        self.attention = Attention(config, rngs=rngs)
        self.pre_mlp_layer_norm = RMSNorm(config)
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        sight: Sight,
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B L D"]:
        """Returns x after this layer."""
        keys = site_keys(dropout_key, 4)
        normed = self.pre_attention_layer_norm(x)
        key, value = self.attention.keys_values(normed, constrain=constrain)
        y = self.attention(
            normed, key, value, sight=sight, dropout_key=keys[0], constrain=constrain
        )
        x = x + dropout(y, self.rate, keys[1])
        y = self.mlp(self.pre_mlp_layer_norm(x), dropout_key=keys[2], constrain=constrain)
        return constrain(x + dropout(y, self.rate, keys[3]), RESIDUAL)


class DecoderLayer(nnx.Module):
    """Causal self-attention, attention to the encoder, then the MLP; each pre-normed."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.rate = config.dropout_rate
        self.pre_self_attention_layer_norm = RMSNorm(config)
        self.self_attention = Attention(config, rngs=rngs)
        self.pre_cross_attention_layer_norm = RMSNorm(config)
        self.encoder_decoder_attention = Attention(config, rngs=rngs)
        self.pre_mlp_layer_norm = RMSNorm(config)
        self.mlp = Mlp(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Lt D"],
        encoded: Float[Array, "B Ls D"],
        *,
        sight: Sight,
        cross_sight: Sight,
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lt D"]:
        """Returns x after this layer."""
        keys = site_keys(dropout_key, 6)
        normed = self.pre_self_attention_layer_norm(x)
        key, value = self.self_attention.keys_values(normed, constrain=constrain)
        y = self.self_attention(
            normed,
            key,
            value,
            sight=sight,
            causal=True,
            dropout_key=keys[0],
            constrain=constrain,
        )
        x = x + dropout(y, self.rate, keys[1])
        key, value = self.encoder_decoder_attention.keys_values(encoded, constrain=constrain)
        y = self.encoder_decoder_attention(
            self.pre_cross_attention_layer_norm(x),
            key,
            value,
            sight=cross_sight,
            dropout_key=keys[2],
            constrain=constrain,
        )
        x = x + dropout(y, self.rate, keys[3])
        y = self.mlp(self.pre_mlp_layer_norm(x), dropout_key=keys[4], constrain=constrain)
        return constrain(x + dropout(y, self.rate, keys[5]), RESIDUAL)


class Encoder(nnx.Module):
    """The bidirectional stack with its final norm."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.relpos_bias = RelativePositionBias(config, bidirectional=True, rngs=rngs)
        self.layers = stacked(EncoderLayer, config, config.num_encoder_layers, rngs)
        self.encoder_norm = RMSNorm(config)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        *,
        segment_ids: Int[AnyArray, "B L"],
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B L D"]:
        """Returns the encoding of the embedded tokens x."""
        before, within, after = site_keys(dropout_key, 3)
        seen = sight(
            self.config, segment_ids, segment_ids, relative=self.relpos_bias, constrain=constrain
        )
        x = constrain(dropout(x, self.config.dropout_rate, before), RESIDUAL)

        def call(layer: EncoderLayer, x: Array, index: Array) -> Array:
            key = None if within is None else jax.random.fold_in(within, index)
            return layer(x, sight=seen, dropout_key=key, constrain=constrain)

        x = run_layers(self.layers, x, call, self.config)
        return dropout(self.encoder_norm(x), self.config.dropout_rate, after)


class Decoder(nnx.Module):
    """The causal stack with its final norm and, unless tied, the output projection."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.relpos_bias = RelativePositionBias(config, bidirectional=False, rngs=rngs)
        self.layers = stacked(DecoderLayer, config, config.num_decoder_layers, rngs)
        self.decoder_norm = RMSNorm(config)
        if not config.tie_embeddings:
            width = config.embed_dim
            self.logits_dense = LogitsDense(width, config.vocab_size, width**-0.5, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Lt D"],
        encoded: Float[Array, "B Ls D"],
        *,
        segment_ids: Int[AnyArray, "B Lt"],
        cross_segment_ids: tuple[Int[AnyArray, "B Lt"], Int[AnyArray, "B Ls"]],
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lt D"]:
        """Returns the final states for the embedded tokens x, given the encoded inputs.

        A target place sees the inputs whose number of `cross_segment_ids` is its own.
        """
        before, within, after = site_keys(dropout_key, 3)
        seen = sight(
            self.config,
            segment_ids,
            segment_ids,
            causal=True,
            relative=self.relpos_bias,
            constrain=constrain,
        )
        seen_inputs = sight(self.config, *cross_segment_ids, constrain=constrain)
        x = constrain(dropout(x, self.config.dropout_rate, before), RESIDUAL)

        def call(layer: DecoderLayer, x: Array, index: Array) -> Array:
            return layer(
                x,
                encoded,
                sight=seen,
                cross_sight=seen_inputs,
                dropout_key=None if within is None else jax.random.fold_in(within, index),
                constrain=constrain,
            )

        x = run_layers(self.layers, x, call, self.config)
        return dropout(self.decoder_norm(x), self.config.dropout_rate, after)


def stacked(
    kind: type[EncoderLayer] | type[DecoderLayer], config: T5Config, count: int, rngs: nnx.Rngs
) -> Any:
    """Returns one module whose parameters are those of `count` layers, stacked on axis 0."""
    keys = jax.random.split(rngs.params(), count)
    return nnx.vmap(lambda key: kind(config, rngs=nnx.Rngs(params=key)))(keys)


def run_layers(
    layers: Any,
    carry: Carry,
    call: Callable[[Any, Carry, Array], Carry],
    config: T5Config,
) -> Carry:
    """Returns carry after `carry = call(layer, carry, index)` for every layer.

    `layers` is a stacked module. With `config.scan_layers` one compiled body runs N times;
    otherwise the layers are laid out one after another, which the compiler may overlap at the price
    of compile time. The numbers are the same. `config.remat_policy` says what a layer keeps for its
    gradient: "none" everything; "dots" the products with weights and what the fused attention gives
    (the plain one's weights are made again); "full" only its input.
    """
    graph, stack = nnx.split(layers)
    count = jax.tree.leaves(stack)[0].shape[0]

    def body(carry: Carry, index: Array, layer: Any) -> Carry:
        return call(nnx.merge(graph, layer), carry, index)

    if config.remat_policy != "none":
        policy = None
        if config.remat_policy == "dots":
            policies = jax.checkpoint_policies
            policy = policies.save_from_both_policies(
                policies.checkpoint_dots_with_no_batch_dims,
                policies.save_only_these_names(*FUSED_RESULTS),
            )
        # Inside a scan nothing can be merged across the boundary, so the guard only costs.
        body = jax.checkpoint(body, policy=policy, prevent_cse=not config.scan_layers)
    indices = jnp.arange(count, dtype=jnp.int32)
    if config.scan_layers:
        return jax.lax.scan(lambda c, xs: (body(c, *xs), None), carry, (indices, stack))[0]
    # The gradient of split is one concatenate; indexing layer by layer would add N full stacks.
    leaves, structure = jax.tree.flatten((indices, stack))
    parts = [jax.lax.split(leaf, [1] * count, axis=0) for leaf in leaves]
    for i in range(count):
        one = [jax.lax.squeeze(part[i], (0,)) for part in parts]
        carry = body(carry, *jax.tree.unflatten(structure, one))
    return carry
