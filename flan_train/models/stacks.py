"""Encoder and decoder: layers stacked on axis 0 of every parameter, and the two ways to run them.

Axis letters: B batch, L length (Ls of the inputs, Lt of the targets), D embed, H heads, K head dim,
N layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from flan_train.models.attention import Attention, RelativePositionBias
from flan_train.models.config import T5Config
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
        bias: Float[Array, "H L L"],
        mask: Bool[Array, "B 1 L L"],
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B L D"]:
        """Returns x after this layer."""
        keys = site_keys(dropout_key, 4)
        normed = self.pre_attention_layer_norm(x)
        key, value = self.attention.keys_values(normed, constrain=constrain)
        y = self.attention(
            normed, key, value, mask=mask, bias=bias, dropout_key=keys[0], constrain=constrain
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
        *,
        self_keys_values: Callable[[Float[Array, "B Lt D"]], tuple[Array, Array]],
        cross_keys_values: tuple[Float[Array, "B H Ls K"], Float[Array, "B H Ls K"]],
        bias: Float[Array, "H Lt Lk"],
        mask: Bool[Array, "B 1 #Lt Lk"],
        cross_mask: Bool[Array, "B 1 #Lt Ls"],
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lt D"]:
        """Returns x after this layer.

        `self_keys_values` gives the keys and values to attend to from the normed x: those of x
        itself in training, the cache with those of x written into it in decoding.
        """
        keys = site_keys(dropout_key, 6)
        normed = self.pre_self_attention_layer_norm(x)
        key, value = self_keys_values(normed)
        y = self.self_attention(
            normed, key, value, mask=mask, bias=bias, dropout_key=keys[0], constrain=constrain
        )
        x = x + dropout(y, self.rate, keys[1])
        key, value = cross_keys_values
        y = self.encoder_decoder_attention(
            self.pre_cross_attention_layer_norm(x),
            key,
            value,
            mask=cross_mask,
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
        mask: Bool[Array, "B 1 L L"],
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B L D"]:
        """Returns the encoding of the embedded tokens x."""
        before, within, after = site_keys(dropout_key, 3)
        bias = constrain(self.relpos_bias(x.shape[1], x.shape[1]), ("heads", None, None))
        x = constrain(dropout(x, self.config.dropout_rate, before), RESIDUAL)

        def call(layer: EncoderLayer, x: Array, index: Array, _: None) -> Array:
            key = None if within is None else jax.random.fold_in(within, index)
            return layer(x, bias=bias, mask=mask, dropout_key=key, constrain=constrain)

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
        mask: Bool[Array, "B 1 Lt Lt"],
        cross_mask: Bool[Array, "B 1 Lt Ls"],
        dropout_key: Key | None,
        constrain: Constrain,
    ) -> Float[Array, "B Lt D"]:
        """Returns the final states for the embedded tokens x, given the encoded inputs."""
        before, within, after = site_keys(dropout_key, 3)
        bias = constrain(self.relpos_bias(x.shape[1], x.shape[1]), ("heads", None, None))
        x = constrain(dropout(x, self.config.dropout_rate, before), RESIDUAL)

        def call(layer: DecoderLayer, x: Array, index: Array, _: None) -> Array:
            project = functools.partial(layer.self_attention.keys_values, constrain=constrain)
            cross = layer.encoder_decoder_attention.keys_values(encoded, constrain=constrain)
            return layer(
                x,
                self_keys_values=project,
                cross_keys_values=cross,
                bias=bias,
                mask=mask,
                cross_mask=cross_mask,
                dropout_key=None if within is None else jax.random.fold_in(within, index),
                constrain=constrain,
            )

        x = run_layers(self.layers, x, call, self.config)
        return dropout(self.decoder_norm(x), self.config.dropout_rate, after)

    def cross_keys_values(
        self, encoded: Float[Array, "B Ls D"], *, constrain: Constrain
    ) -> tuple[Float[Array, "N B H Ls K"], Float[Array, "N B H Ls K"]]:
        """Returns what every layer attends to in the encoded inputs, for all decoding steps."""
        graph, layers = nnx.split(self.layers)

        def project(_: None, layer: Any) -> tuple[None, tuple[Array, Array]]:
            attention = nnx.merge(graph, layer).encoder_decoder_attention
            return None, attention.keys_values(encoded, constrain=constrain)

        return jax.lax.scan(project, None, layers)[1]

    def step(
        self,
        x: Float[Array, "B 1 D"],
        *,
        keys: Float[Array, "N B H M K"],
        values: Float[Array, "N B H M K"],
        cross: tuple[Float[Array, "N B H Ls K"], Float[Array, "N B H Ls K"]],
        cross_mask: Bool[Array, "B 1 1 Ls"],
        step: Int[AnyArray, ""],
        constrain: Constrain,
    ) -> tuple[Float[Array, "B 1 D"], Float[Array, "N B H M K"], Float[Array, "N B H M K"]]:
        """Returns the final state at one place, and the cached keys and values with it added."""
        batch, length = x.shape[0], keys.shape[3]
        bias = constrain(self.relpos_bias.row(step, length), ("heads", None, None))
        seen = jnp.arange(length, dtype=jnp.int32) <= step
        mask = jnp.broadcast_to(seen, (batch, 1, 1, length))

        def call(
            layer: DecoderLayer,
            carry: tuple[Array, Array, Array],
            index: Array,
            cross: tuple[Array, Array],
        ) -> tuple[Array, Array, Array]:
            x, keys, values = carry

            def extend(normed: Array) -> tuple[Array, Array]:
                # Written into the carried stack in place: handing each layer's cache through the
                # scan's outputs would copy all of it at every token.
                nonlocal keys, values
                key, value = layer.self_attention.keys_values(normed, constrain=constrain)
                place = (index, 0, 0, step, 0)
                keys = jax.lax.dynamic_update_slice(keys, key[None], place)
                values = jax.lax.dynamic_update_slice(values, value[None], place)
                return keys[index], values[index]

            x = layer(
                x,
                self_keys_values=extend,
                cross_keys_values=cross,
                bias=bias,
                mask=mask,
                cross_mask=cross_mask,
                dropout_key=None,
                constrain=constrain,
            )
            return x, keys, values

        carry = (constrain(x, RESIDUAL), keys, values)
        x, keys, values = run_layers(self.layers, carry, call, self.config, cross)
        return self.decoder_norm(x), keys, values


def stacked(
    kind: type[EncoderLayer] | type[DecoderLayer], config: T5Config, count: int, rngs: nnx.Rngs
) -> Any:
    """Returns one module whose parameters are those of `count` layers, stacked on axis 0."""
    keys = jax.random.split(rngs.params(), count)
    return nnx.vmap(lambda key: kind(config, rngs=nnx.Rngs(params=key)))(keys)


def run_layers(
    layers: Any,
    carry: Carry,
    call: Callable[[Any, Carry, Array, Any], Carry],
    config: T5Config,
    extra: Any = None,
) -> Carry:
    """Returns carry after `carry = call(layer, carry, index, extra[index])` for every layer.

    `layers` is a stacked module and `extra` a tree of arrays stacked alike (or None). With
    `config.scan_layers` one compiled body runs N times; otherwise the layers are laid out one
    after another, which the compiler may overlap at the price of compile time. The numbers are
    the same. `config.remat_policy` says what a layer keeps for its gradient: "none" everything,
    "dots" the products with weights, "full" only its input.
    """
    graph, stack = nnx.split(layers)
    count = jax.tree.leaves(stack)[0].shape[0]

    def body(carry: Carry, index: Array, layer: Any, extra: Any) -> Carry:
        return call(nnx.merge(graph, layer), carry, index, extra)

    if config.remat_policy != "none":
        policy = None
        if config.remat_policy == "dots":
            policy = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
        # Inside a scan nothing can be merged across the boundary, so the guard only costs.
        body = jax.checkpoint(body, policy=policy, prevent_cse=not config.scan_layers)
    indices = jnp.arange(count, dtype=jnp.int32)
    if config.scan_layers:
        return jax.lax.scan(lambda c, xs: (body(c, *xs), None), carry, (indices, stack, extra))[0]
    # The gradient of split is one concatenate; indexing layer by layer would add N full stacks.
    leaves, structure = jax.tree.flatten((indices, stack, extra))
    parts = [jax.lax.split(leaf, [1] * count, axis=0) for leaf in leaves]
    for i in range(count):
        one = [jax.lax.squeeze(part[i], (0,)) for part in parts]
        carry = body(carry, *jax.tree.unflatten(structure, one))
    return carry
