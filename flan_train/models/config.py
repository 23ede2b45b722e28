"""What a T5 is made of, as one hashable value that jit can take as a static argument."""

from __future__ import annotations

from dataclasses import dataclass

import gin

from flan_train.errors import UserError, unknown_name

MLP_ACTIVATIONS = ("gated-gelu", "relu")
ATTENTIONS = ("auto", "fused", "plain")
# What the fused attention calls its results, so that they can be kept for its gradient.
FUSED_RESULTS = ("attention_out", "attention_rest", "attention_stats")
REMAT_POLICIES = ("none", "full", "dots")
# No float16: its range needs a scaled loss, which the trainer does not do.
ACTIVATION_DTYPES = ("float32", "bfloat16")

_POSITIVE = (
    "vocab_size",
    "embed_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "relative_max_distance",
)


@gin.register(module="flan_train.models.t5")
@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The shape of a T5 and the way its layers run; sizes are counts of elements.

    Sizes follow Raffel et al. 2020 (T5 1.0) and the T5 1.1 release. The last six fields change
    how the model runs, never which parameters it has.

    Raises:
      UserError: a field has a value that no T5 can have.
    """

    embed_dim: int
    num_heads: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activation: str
    tie_embeddings: bool
    vocab_size: int = 32128
    head_dim: int = 64
    relative_buckets: int = 32
    relative_max_distance: int = 128
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: str = "float32"
    scan_layers: bool = True
    remat_policy: str = "none"
    attention: str = "auto"

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
                raise _bad(name, value, "a whole number from 1 to 2**31 - 1")
        for name, known in (
            ("mlp_activation", MLP_ACTIVATIONS),
            ("remat_policy", REMAT_POLICIES),
            ("attention", ATTENTIONS),
            ("dtype", ACTIVATION_DTYPES),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known, where=f"T5Config.{name}")
        for name in ("tie_embeddings", "scan_layers"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "True or False")
        if not isinstance(self.dropout_rate, int | float) or not 0 <= self.dropout_rate < 1:
            raise _bad("dropout_rate", self.dropout_rate, "a number from 0 up to, not including, 1")
        if not isinstance(self.norm_epsilon, int | float) or not self.norm_epsilon > 0:
            raise _bad("norm_epsilon", self.norm_epsilon, "a number above 0")
        # Half of the buckets look ahead in the encoder, and half of those hold one distance each.
        if self.relative_buckets not in range(4, 1025, 4):
            raise _bad("relative_buckets", self.relative_buckets, "a multiple of 4 up to 1024")
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise _bad(
                "relative_max_distance",
                self.relative_max_distance,
                f"more than half of relative_buckets ({self.relative_buckets // 2})",
            )

    @property
    def gated(self) -> bool:
        """Whether the MLP has two input projections, one of them a gate."""
        return self.mlp_activation.startswith("gated-")


def _bad(name: str, value: object, expected: str) -> UserError:
    return UserError(
        f"T5Config.{name} = {value!r} cannot be", where=f"T5Config.{name}", expected=expected
    )
