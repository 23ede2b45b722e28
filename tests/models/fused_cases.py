"""Inputs for the fused attention, and the plain attention of the same call to hold it against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flan_train.models.attention import RelativePositionBias, attend, segment_mask
from flan_train.models.fused_attention import fused_attention
from flan_train.models.layers import dropout
from flan_train.models.t5 import T5Config

RATE = 0.25
MAX_DISTANCE = 128
BUCKETS = 32


@dataclass(frozen=True)
class Case:
    """One kind of call; `runs` are the lengths of each row's segments, the last one padding."""

    lq: int
    lk: int
    heads: int = 2
    batch: int = 1
    causal: bool = False
    biased: bool = True
    dropped: bool = False
    spread: float = 0.3
    block_q: int | None = None
    block_k: int | None = None

    @property
    def static(self) -> dict[str, Any]:
        """The arguments of a call that are no arrays."""
        return {
            "heads": self.heads,
            "causal": self.causal,
            "bidirectional": not self.causal,
            "max_distance": MAX_DISTANCE,
        }

    def operands(self, dtype: str = "float32") -> tuple[Array, ...]:
        """Returns query, key, value and the table of the bias, the same at each call."""
        draw = np.random.default_rng(7)
        width = self.heads * 64
        shapes = [(self.batch, length, width) for length in (self.lq, self.lk, self.lk)]
        made = [draw.normal(size=shape) for shape in shapes]
        made[0] *= self.spread
        table = jnp.asarray(draw.normal(size=(self.heads, BUCKETS)), jnp.float32)
        return *(jnp.asarray(x, dtype) for x in made), table

    def weight(self) -> Array:
        """Returns what each number of the result weighs in the loss whose gradients are taken."""
        draw = np.random.default_rng(8)
        return jnp.asarray(draw.normal(size=(self.batch, self.lq, self.heads * 64)), jnp.bfloat16)

    def scale(self) -> Array | None:
        """Returns the scales of the values that mean the dropout of `plain`."""
        if not self.dropped:
            return None
        ones = jnp.ones((self.batch, self.heads, 1, self.lk), jnp.float32)
        return dropout(ones, RATE, jax.random.key(3))[:, :, 0]


def in_runs(length: int, *rows: list[tuple[int, int]]) -> np.ndarray:
    """Returns segments, int32 [rows, length], of (segment, count) runs, 0 after the last run."""
    made = np.zeros((len(rows), length), np.int32)
    for row, runs in zip(made, rows, strict=True):
        ids = np.concatenate([np.full(count, segment) for segment, count in runs])[:length]
        row[: len(ids)] = ids
    return made


def plain(
    case: Case, q: Array, k: Array, v: Array, table: Array, query_segments: Any, key_segments: Any
) -> Array:
    """Returns the result of the plain attention, heads joined."""

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], case.heads, 64).transpose(0, 2, 1, 3)

    bias = None
    if case.biased:
        config = T5Config(
            embed_dim=8,
            num_heads=case.heads,
            mlp_dim=8,
            num_encoder_layers=1,
            num_decoder_layers=1,
            mlp_activation="relu",
            tie_embeddings=True,
            relative_buckets=BUCKETS,
            relative_max_distance=MAX_DISTANCE,
        )
        module = RelativePositionBias(config, bidirectional=not case.causal, rngs=nnx.Rngs(0))
        module.rel_embedding[...] = table
        bias = module(case.lq, case.lk)
    found = attend(
        split(q),
        split(k),
        split(v),
        mask=segment_mask(query_segments, key_segments, causal=case.causal),
        bias=bias,
        dropout_rate=RATE if case.dropped else 0.0,
        dropout_key=jax.random.key(3) if case.dropped else None,
    )
    return found.transpose(0, 2, 1, 3).reshape(q.shape)


def fused(
    case: Case, q: Array, k: Array, v: Array, table: Array, query_segments: Any, key_segments: Any
) -> Array:
    """Returns the result of the kernels, interpreted."""
    return fused_attention(
        q,
        k,
        v,
        query_segments,
        key_segments,
        table if case.biased else None,
        value_scale=case.scale(),
        block_q=case.block_q,
        block_k=case.block_k,
        interpret=True,
        **case.static,
    )


def with_gradients(attention: Callable[..., Array], case: Case) -> Callable[..., Any]:
    """Returns a compiled function of operands and segments: the result, then its gradients."""

    def loss(operands: tuple[Array, ...], *segments: Any) -> tuple[Array, Array]:
        found = attention(case, *operands, *segments)
        return jnp.sum(found.astype(jnp.float32) * case.weight().astype(jnp.float32)), found

    def both(operands: tuple[Array, ...], *segments: Any) -> dict[str, Array]:
        gradients, found = jax.grad(loss, has_aux=True)(operands, *segments)
        return dict(
            zip(("out", "query", "key", "value", "table"), (found, *gradients), strict=True)
        )

    return jax.jit(both)


def kernels_in(jaxpr: Any) -> Iterator[Any]:
    """Yields every kernel call of a jaxpr, those inside other calls included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            yield equation
            continue
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from kernels_in(inner)
