"""Token cross-entropy with z-loss and label smoothing.

Legend: B batch, L length, V vocabulary.

Everything is returned as SUMS over tokens. Who divides must know the number of target tokens of
the whole global batch: a mean of means is wrong as soon as hosts or microbatches hold different
numbers of target tokens.
"""

from __future__ import annotations

import dataclasses
import math

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

    Raises:
      UserError: a field has a value that it cannot have.
    """

    z_loss: float = 1e-4
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_number("Z_LOSS", self.z_loss, minimum=0)
        check_number("LABEL_SMOOTHING", self.label_smoothing, minimum=0, below=1)


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
    size = logits.shape[-1]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A comparison with an iota is split over a sharded vocabulary as it stands, and its gradient
    # is no scatter; a gather would make every device fetch the whole of the logits.
    hit = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]
    target_logit = jnp.sum(jnp.where(hit, logits, 0.0), axis=-1)
    if config.label_smoothing:
        high = 1.0 - config.label_smoothing
        low = config.label_smoothing / (size - 1)
        others = jnp.sum(logits, axis=-1) - target_logit
        entropy = -(high * math.log(high) + (size - 1) * low * math.log(low))
        per_token = log_z - high * target_logit - low * others - entropy
    else:
        per_token = log_z - target_logit
    weights = weights.astype(jnp.float32)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    sums = {
        "loss": jnp.sum(per_token * weights),
        "z_loss": jnp.sum(config.z_loss * jnp.square(log_z) * weights),
        "weight": jnp.sum(weights),
        "correct": jnp.sum(correct * weights),
    }
    return sums["loss"] + sums["z_loss"], sums
