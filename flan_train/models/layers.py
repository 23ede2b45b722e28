"""The parts of a transformer layer that are not attention.

Axis letters: B batch, L length, D embed, F mlp, V vocab; I and O the two sides of a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from flan_train.models.config import T5Config

Axes: TypeAlias = tuple[str | None, ...]
AnyArray: TypeAlias = Array | np.ndarray
Key: TypeAlias = Array  # a typed JAX random key

# Added to a logit in float32 to hide it: far below any logit, far above float32's end, so that a
# row in which everything is hidden still has a finite softmax.
HIDDEN = -1e9

RESIDUAL: Axes = ("batch", "length", "embed")


@runtime_checkable
class Constrain(Protocol):
    """Where activations lie: what the layers know of a mesh."""

    @property
    def platform(self) -> str:
        """What the devices are: "tpu", "gpu" or "cpu"."""

    def __call__(self, x: Array, axes: Axes) -> Array:
        """Returns x with its sharding pinned to what its logical axes stand for."""

    def parts(self, axis: str) -> int:
        """Returns the number of parts that an activation's logical axis is divided into."""

    def per_shard(
        self, function: Callable[..., Array], operands: Sequence[Axes | None], result: Axes
    ) -> Callable[..., Array]:
        """Returns `function` run by every device on its own parts of the operands.

        The axes are those of activations; None stands for an operand that is None.
        """


class _Unconstrained:
    @property
    def platform(self) -> str:
        return jax.default_backend()

    def __call__(self, x: Array, axes: Axes) -> Array:
        del axes
        return x

    def parts(self, axis: str) -> int:
        del axis
        return 1

    def per_shard(
        self, function: Callable[..., Array], operands: Sequence[Axes | None], result: Axes
    ) -> Callable[..., Array]:
        del operands, result
        return function


# The `constrain` of a model that runs on one device.
unconstrained: Constrain = _Unconstrained()


def site_keys(key: Key | None, sites: int) -> list[Key | None]:
    """Returns one dropout key for each of so many places in a layer, or Nones without a key."""
    if key is None:
        return [None] * sites
    return list(jax.random.split(key, sites))


def dropout(
    x: Float[Array, "*batch L D"], rate: float, key: Key | None
) -> Float[Array, "*batch L D"]:
    """Returns x with a share `rate` of its columns zeroed and the rest scaled up to make up for it.

    One draw serves the whole length (axis -2), as in the published T5 recipe: it needs 1/L of the
    random bits. Without a key x comes back unchanged.
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


@jax.custom_vjp
def product(x: Float[Array, "*batch I"], kernel: Float[Array, "I O"]) -> Float[Array, "*batch O"]:
    """Returns x @ kernel, both of one dtype, with gradients in forms that every backend is fast at.

    The kernel's gradient is the product x^T g. JAX would derive (g^T x)^T, which XLA's CPU backend
    runs at about half the speed; TPUs and GPUs do not care.
    """
    return jnp.dot(x, kernel)


def _product_saving(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return jnp.dot(x, kernel), (x, kernel)


def _product_gradients(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    d_kernel = jax.lax.platform_dependent(x, grad, cpu=_across, default=_as_it_stands)
    return jax.lax.dot_general(grad, kernel, (((grad.ndim - 1,), (1,)), ((), ()))), d_kernel


def _across(x: Float[Array, "*batch I"], grad: Float[Array, "*batch O"]) -> Float[Array, "I O"]:
    """Returns x^T grad as matrices, which XLA's CPU backend multiplies as they lie.

    Contracting several dimensions, it would first transpose x in one loop with whatever made it (a
    norm, a GELU), column by column, at a tenth of the speed of memory.
    """
    x, grad = (each.reshape(-1, each.shape[-1]) for each in (x, grad))
    return jax.lax.dot_general(x, grad, (((0,), (0,)), ((), ())))


def _as_it_stands(
    x: Float[Array, "*batch I"], grad: Float[Array, "*batch O"]
) -> Float[Array, "I O"]:
    """Returns x^T grad with all axes of the batch contracted at once."""
    batch = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(x, grad, ((batch, batch), ((), ())))


product.defvjp(_product_saving, _product_gradients)


class Dense(nnx.Module):
    """A projection without bias: kernel [I, O] float32, drawn with the given standard deviation."""

    def __init__(self, inputs: int, outputs: int, std: float, *, rngs: nnx.Rngs) -> None:
        draw = jax.random.normal(rngs.params(), (inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(draw * std)

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        """Returns x @ kernel in the dtype of x."""
        return product(x, self.kernel[...].astype(x.dtype))


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a scale and no bias (Zhang & Sennrich 2019), in float32."""

    def __init__(self, config: T5Config) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones((config.embed_dim,), jnp.float32))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Returns the normalised x in the dtype of x."""
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        return (wide * inverse * self.scale[...]).astype(x.dtype)


class Embed(nnx.Module):
    """The token table: embedding [V, D] float32."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        shape = (config.vocab_size, config.embed_dim)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))

    def __call__(
        self, tokens: Int[AnyArray, "B L"], dtype: str, constrain: Constrain
    ) -> Float[Array, "B L D"]:
        """Returns the rows of the tokens in the activation dtype."""
        table = self.embedding[...]
        if constrain.parts("vocab") > 1:
            # Whole rows of the own part of the vocabulary: left to itself, XLA divides rows and
            # columns and sends parts of the table from slice to slice.
            table = constrain(table, ("vocab", None))
        return jnp.take(table, tokens, axis=0).astype(dtype)

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Returns float32 logits, the tied output of T5 1.0: x * D**-0.5 against every row."""
        table = self.embedding[...].astype(x.dtype)
        x = x * jnp.asarray(x.shape[-1] ** -0.5, x.dtype)
        return jnp.einsum("bld,vd->blv", x, table, preferred_element_type=jnp.float32)


class LogitsDense(Dense):
    """The untied output projection: kernel [D, V]."""

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Returns float32 logits."""
        kernel = self.kernel[...].astype(x.dtype)
        return jnp.einsum("bld,dv->blv", x, kernel, preferred_element_type=jnp.float32)


class Mlp(nnx.Module):
    """T5's feed-forward part: plain ReLU (wi, wo), or gated tanh-GELU (wi_0, wi_1, wo)."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        embed, mlp = config.embed_dim, config.mlp_dim
        if config.gated:
            self.wi_0 = Dense(embed, mlp, embed**-0.5, rngs=rngs)
            self.wi_1 = Dense(embed, mlp, embed**-0.5, rngs=rngs)
        else:
            self.wi = Dense(embed, mlp, embed**-0.5, rngs=rngs)
        self.wo = Dense(mlp, embed, mlp**-0.5, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B L D"], *, dropout_key: Key | None, constrain: Constrain
    ) -> Float[Array, "B L D"]:
        """Returns the layer's contribution to the residual stream."""
        if self.config.gated:
            hidden = jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x)
        else:
            hidden = jax.nn.relu(self.wi(x))
        hidden = constrain(hidden, ("batch", "length", "mlp"))
        hidden = dropout(hidden, self.config.dropout_rate, dropout_key)
        return constrain(self.wo(hidden), RESIDUAL)
