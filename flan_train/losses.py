"""Token cross-entropy with z-loss and label smoothing.

Legend: B batch, L length, V vocabulary.

Everything is returned as SUMS over tokens. Who divides must know the number of target tokens of
the whole global batch: a mean of means is wrong as soon as hosts or microbatches hold different
numbers of target tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import gin
import jax
import jax.numpy as jnp

from flan_train.errors import check_number


@gin.register(module="flan_train.losses")
@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is added to plain cross-entropy.

    Attributes:
      z_loss: factor of log(Z)^2, which holds the softmax normaliser Z near one.
      label_smoothing: probability mass taken from the target and spread evenly over the other
        V - 1 tokens; 0 is plain cross-entropy.
      chunk: target places of every row whose logits are held at a time; 0 for all.

    Raises:
      UserError: a field has a value that it cannot have.
    """

    z_loss: float = 1e-4
    label_smoothing: float = 0.0
    chunk: int = 128

    def __post_init__(self) -> None:
        check_number("Z_LOSS", self.z_loss, minimum=0)
        check_number("LABEL_SMOOTHING", self.label_smoothing, minimum=0, below=1)
        check_number("LossConfig.chunk", self.chunk, whole=True, minimum=0)


def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, config: LossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the summed loss (z-loss included) and the sums it is made of.

    With smoothing s the target distribution q has 1 - s at the target and s / (V - 1) elsewhere;
    the loss is the divergence KL(q || p), which is 0 at best, rather than the cross-entropy, whose
    best value would depend on s.

    For V = 3, logits log([.5, .25, .25]), target 0, weight 1: loss = log 2 = 0.693, and z-loss 0,
    because those logits are normalised already.

    Args:
      logits: [B, L, V], any float type; computed in float32.
      targets: int32 [B, L].
      weights: float32 [B, L]; 0 where there is no target.
      config: z-loss and label smoothing.

    Returns:
      The float32 scalar loss + z_loss, and {"loss" (without z), "z_loss", "weight", "correct"},
      float32 scalars, each summed over tokens with their weights.
    """
    logits = logits.astype(jnp.float32)
    _, log_z, hit = _of_logits(logits, targets)
    weights = weights.astype(jnp.float32)
    sums = _sums(logits, log_z, hit, targets, weights, config)
    return sums["loss"] + sums["z_loss"], sums


def chunked_cross_entropy(
    states: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    config: LossConfig,
    *,
    constrain: Callable[[jax.Array, Any], jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns what `cross_entropy` returns of the logits `states @ table`, never held whole.

    `config.chunk` places of every row are worked on at a time: their float32 logits, and already
    their gradient, since the loss is a sum and its cotangent one factor. So nothing of size
    [B, L, V] is made in float32, and no product twice. For activations in bfloat16 the gradient of
    the logits is kept in bfloat16, so that the table's gradient is one product; for float32 it is
    added up chunk by chunk. The sums beside the loss have no gradient.

    Args:
      states: [B, L, D], the final states, in the dtype of the products.
      table: float32 [D, V], the output projection.
      targets: int32 [B, L].
      weights: float32 [B, L]; 0 where there is no target.
      config: z-loss, label smoothing, and the length of a chunk.
      constrain: places activations by their logical axes (`models.layers.Constrain`).
    """
    length = states.shape[1]
    chunk = min(config.chunk or length, length)
    if missing := -length % chunk:
        wider = ((0, 0), (0, missing))
        states = jnp.pad(states, (*wider, (0, 0)))
        targets, weights = jnp.pad(targets, wider), jnp.pad(weights, wider)
    total, sums = _chunked(
        config, chunk, constrain, states, table, targets, weights.astype(jnp.float32)
    )
    return total, jax.lax.stop_gradient(sums)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _chunked(
    config: LossConfig,
    chunk: int,
    constrain: Any,
    states: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    return _over_chunks(config, chunk, constrain, states, table, targets, weights, False)[0]


def _chunked_forward(
    config: LossConfig,
    chunk: int,
    constrain: Any,
    states: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
) -> tuple[Any, Any]:
    return _over_chunks(config, chunk, constrain, states, table, targets, weights, True)


def _chunked_backward(
    config: LossConfig, chunk: int, constrain: Any, gradients: Any, cotangents: Any
) -> tuple[jax.Array, jax.Array, None, None]:
    del config, chunk, constrain
    factor = cotangents[0]
    of_states, of_table = gradients
    return of_states * factor.astype(of_states.dtype), of_table * factor, None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _over_chunks(
    config: LossConfig,
    chunk: int,
    constrain: Any,
    states: jax.Array,
    table: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    with_gradient: bool,
) -> tuple[tuple[jax.Array, dict[str, jax.Array]], Any]:
    """The loss and its sums; and the gradients of states and table for a cotangent of one."""
    rows, length, _ = states.shape
    # Gathered once, not once a chunk, and in the dtype of the products.
    kernel = constrain(table.astype(states.dtype), (None, "vocab"))
    joined = states.dtype == jnp.bfloat16

    def one(total: Any, part: Any) -> tuple[Any, Any]:
        x, target, weight = part
        logits = jnp.einsum("bld,dv->blv", x, kernel, preferred_element_type=jnp.float32)
        logits = constrain(logits, ("batch", "length", "vocab"))
        shifted, log_z, hit = _of_logits(logits, target)
        sums = _sums(logits, log_z, hit, target, weight, config)
        if not with_gradient:
            return (jax.tree.map(jnp.add, total[0], sums), None), None
        gradient = shifted * (1.0 + 2.0 * config.z_loss * log_z[..., None])
        high, low = _smoothed(config, logits.shape[-1])
        gradient = (gradient - jnp.where(hit, high, low)) * weight[..., None]
        gradient = constrain(gradient.astype(x.dtype), ("batch", "length", "vocab"))
        of_x = jnp.einsum("blv,dv->bld", gradient, kernel)
        of_table = total[1]
        if not joined:
            of_table = of_table + _of_table(x, gradient)
        return (jax.tree.map(jnp.add, total[0], sums), of_table), (
            constrain(of_x, ("batch", "length", "embed")),
            gradient if joined else None,
        )

    count = length // chunk
    zeros = {name: jnp.zeros((), jnp.float32) for name in ("loss", "z_loss", "weight", "correct")}
    adds_up = with_gradient and not joined
    start = (zeros, jnp.zeros(table.shape, jnp.float32) if adds_up else None)
    given = (states, targets, weights)
    if count == 1:
        (sums, of_table), kept = one(start, given)
    else:
        parts = [x.reshape(rows, count, chunk, *x.shape[2:]).swapaxes(0, 1) for x in given]
        (sums, of_table), kept = jax.lax.scan(one, start, tuple(parts))
        kept = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, length, *x.shape[3:]), kept)
    gradients = None
    if with_gradient:
        of_states, of_logits = kept
        if joined:
            of_table = _of_table(states, of_logits)
        gradients = (of_states, of_table)
    return (sums["loss"] + sums["z_loss"], sums), gradients


def _of_table(states: jax.Array, of_logits: jax.Array) -> jax.Array:
    return jnp.einsum("bld,blv->dv", states, of_logits, preferred_element_type=jnp.float32)


def _of_logits(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The probabilities, the logarithm of their normaliser, and where the targets are."""
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A comparison with an iota is split over a sharded vocabulary as it stands, and its gradient
    # is no scatter; a gather would make every device fetch the whole of the logits.
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]
    return jnp.exp(logits - log_z[..., None]), log_z, hit


def _smoothed(config: LossConfig, size: int) -> tuple[float, float]:
    """The target distribution's probability of the target, and of any other token."""
    return 1.0 - config.label_smoothing, config.label_smoothing / (size - 1)


def _sums(
    logits: jax.Array,
    log_z: jax.Array,
    hit: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    config: LossConfig,
) -> dict[str, jax.Array]:
    size = logits.shape[-1]
    target_logit = jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    if config.label_smoothing:
        high, low = _smoothed(config, size)
        others = jnp.sum(logits, axis=-1) - target_logit
        entropy = -(high * math.log(high) + (size - 1) * low * math.log(low))
        per_token = log_z - high * target_logit - low * others - entropy
    else:
        per_token = log_z - target_logit
    correct = _is_first_of_the_largest(logits, target_logit, targets).astype(jnp.float32)
    return {
        "loss": jnp.sum(per_token * weights),
        "z_loss": jnp.sum(config.z_loss * jnp.square(log_z) * weights),
        "weight": jnp.sum(weights),
        "correct": jnp.sum(correct * weights),
    }


def _is_first_of_the_largest(
    logits: jax.Array, target_logit: jax.Array, targets: jax.Array
) -> jax.Array:
    """Whether argmax of finite logits is the target, ties included: no argmax, which is slow.

    No logit may be above the target's, and none before it as large.
    """
    before = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) < targets[..., None]
    own = target_logit[..., None]
    ahead = jnp.where(before, logits >= own, logits > own)
    # Added up as floats: a reduction of booleans is not vectorised on CPUs.
    return jnp.sum(ahead.astype(jnp.float32), axis=-1) == 0
