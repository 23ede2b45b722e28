"""Adafactor for parameters whose layers are stacked along a leading axis.

Shazeer and Stern 2018, "Adafactor", algorithm 4 with the step-dependent decay of section 7.2,
without momentum, as T5 is fine-tuned.

Stacking the layers is a matter of compilation, not of numerics. Everything in Adafactor that looks
at a whole parameter (which two dimensions are factored, the clipping by RMS, the parameter's scale)
looks at one layer's slice here, so that stacked and unrolled layers get the same numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax

from flan_train.errors import check_flag, check_number

STACKED = "layers"


@gin.register(module="flan_train.optimizers")
@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adafactor and its learning rate.

    Attributes:
      learning_rate: constant, after the warm-up.
      warmup_steps: steps over which the learning rate rises linearly to its value; 0 is none.
      decay_exponent: the second moment decays by 1 - (step + 1)^-decay_exponent.
      clip_threshold: an update with a greater root mean square is scaled down to it.
      min_dim_size_to_factor: a parameter is factored when both of its two largest dimensions
        have at least this size.
      multiply_by_parameter_scale: whether a step is relative to the parameter's own RMS.
      epsilon_gradient: added to the squared gradient.
      epsilon_scale: the least scale a parameter is taken to have.

    Raises:
      UserError: a field has a value that it cannot have.
    """

    learning_rate: float = 5e-4
    warmup_steps: int = 0
    decay_exponent: float = 0.8
    clip_threshold: float = 1.0
    min_dim_size_to_factor: int = 128
    multiply_by_parameter_scale: bool = True
    epsilon_gradient: float = 1e-30
    epsilon_scale: float = 1e-3

    def __post_init__(self) -> None:
        check_number("LEARNING_RATE", self.learning_rate, above=0)
        check_number("WARMUP_STEPS", self.warmup_steps, whole=True, minimum=0)
        for name in ("decay_exponent", "clip_threshold", "epsilon_gradient", "epsilon_scale"):
            check_number(f"OptimizerConfig.{name}", getattr(self, name), above=0)
        name = "min_dim_size_to_factor"
        check_number(f"OptimizerConfig.{name}", getattr(self, name), whole=True, minimum=1)
        name = "multiply_by_parameter_scale"
        check_flag(f"OptimizerConfig.{name}", getattr(self, name))


class AdafactorState(NamedTuple):
    """Second moments; float32. A slot that a parameter does not use has shape (1,).

    Attributes:
      count: int32 scalar, updates made so far.
      v_row: for factored parameters, the mean over the largest dimension.
      v_col: for factored parameters, the mean over the second largest dimension.
      v: for the others, the full second moment.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count
    v_row: Any
    v_col: Any
    v: Any


def learning_rate(config: OptimizerConfig, count: jax.Array | int) -> jax.Array:
    """Returns the float32 learning rate of the update after `count` updates."""
    rate = jnp.asarray(config.learning_rate, jnp.float32)
    if config.warmup_steps <= 0:
        return rate
    return rate * jnp.minimum(1.0, (jnp.asarray(count, jnp.float32) + 1.0) / config.warmup_steps)


def factored_dims(
    shape: tuple[int, ...], axes: tuple[str | None, ...], minimum: int
) -> tuple[int, int] | None:
    """Returns (second largest, largest) dimension to factor over, or None for not factored.

    A leading "layers" axis is not one of them: (24, 1024, 2816) with axes ("layers", "embed",
    "mlp") gives (1, 2). Of equal dimensions the later counts as the larger.
    """
    lead = _lead(axes)
    if len(shape) - lead < 2:
        return None
    order = sorted(range(lead, len(shape)), key=lambda d: (shape[d], d))
    second, largest = order[-2], order[-1]
    return None if shape[second] < minimum else (second, largest)


def state_axes(config: OptimizerConfig, axes_tree: Any, params: Any) -> AdafactorState:
    """Returns the logical axes of every leaf of the state, to shard it like its parameter.

    A factored vector keeps the axes of its parameter's remaining dimensions.

    Args:
      config: what was given to `adafactor`.
      axes_tree: tuples of logical axis names at the places of the parameters.
      params: the parameters, or their shapes.
    """
    leaves, structure = _flatten(params)
    rows, cols, fulls = [], [], []
    for leaf, axes in zip(leaves, structure.flatten_up_to(axes_tree), strict=True):
        dims = factored_dims(leaf.shape, axes, config.min_dim_size_to_factor)
        rows.append((None,) if dims is None else _without(axes, dims[1]))
        cols.append((None,) if dims is None else _without(axes, dims[0]))
        fulls.append(tuple(axes) if dims is None else (None,))
    # The tuples stand where the state's leaves are: only ever flattened up to those leaves.
    return AdafactorState(
        count=(),  # type: ignore[arg-type]
        v_row=structure.unflatten(rows),
        v_col=structure.unflatten(cols),
        v=structure.unflatten(fulls),
    )


def adafactor(config: OptimizerConfig, axes_tree: Any) -> optax.GradientTransformation:
    """Returns pure `init(params) -> state` and `update(grads, state, params) -> (updates, state)`.

    The updates are to be added to the parameters; the learning rate is applied already.

    Args:
      config: hyperparameters.
      axes_tree: tuples of logical axis names at the places of the parameters; a leading "layers"
        marks parameters that are stacked over layers.
    """

    def init(params: Any) -> AdafactorState:
        leaves, structure = _flatten(params)
        slots = [
            _init_slots(leaf.shape, axes, config)
            for leaf, axes in zip(leaves, structure.flatten_up_to(axes_tree), strict=True)
        ]
        row, col, full = (structure.unflatten([slot[i] for slot in slots]) for i in range(3))
        return AdafactorState(jnp.zeros((), jnp.int32), row, col, full)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, AdafactorState]:
        if params is None:
            raise ValueError("Adafactor's step is relative to the parameters: pass them to update")
        leaves, structure = _flatten(params)
        flat = [structure.flatten_up_to(t) for t in (axes_tree, grads, *state[1:])]
        step = state.count.astype(jnp.float32) + 1.0
        decay = 1.0 - step ** (-config.decay_exponent)
        rate = learning_rate(config, state.count)
        results = [
            _update_leaf(*slots, decay=decay, rate=rate, config=config)
            for slots in zip(leaves, *flat, strict=True)
        ]
        updates, row, col, full = (
            structure.unflatten([result[i] for result in results]) for i in range(4)
        )
        return updates, AdafactorState(state.count + 1, row, col, full)

    return optax.GradientTransformation(init, update)


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    return jax.tree_util.tree_flatten(tree)


def _init_slots(
    shape: tuple[int, ...], axes: tuple[str | None, ...], config: OptimizerConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    unused = jnp.zeros((1,), jnp.float32)
    dims = factored_dims(shape, axes, config.min_dim_size_to_factor)
    if dims is None:
        return unused, unused, jnp.zeros(shape, jnp.float32)
    row, col = (jnp.zeros(_without(shape, dim), jnp.float32) for dim in (dims[1], dims[0]))
    return row, col, unused


def _update_leaf(
    param: jax.Array,
    axes: tuple[str | None, ...],
    grad: jax.Array,
    v_row: jax.Array,
    v_col: jax.Array,
    v: jax.Array,
    *,
    decay: jax.Array,
    rate: jax.Array,
    config: OptimizerConfig,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    grad = grad.astype(jnp.float32)
    square = jnp.square(grad) + config.epsilon_gradient
    within = tuple(range(_lead(axes), param.ndim))  # the dimensions of one layer's slice
    dims = factored_dims(param.shape, axes, config.min_dim_size_to_factor)
    if dims is None:
        v = decay * v + (1.0 - decay) * square
        update = grad * jax.lax.rsqrt(v)
    else:
        second, largest = dims
        v_row = decay * v_row + (1.0 - decay) * jnp.mean(square, axis=largest)
        v_col = decay * v_col + (1.0 - decay) * jnp.mean(square, axis=second)
        row = jnp.expand_dims(v_row, largest)
        # Both vectors carry the overall scale; dividing one by its mean leaves it there once.
        row_factor = jax.lax.rsqrt(row / jnp.mean(row, axis=second, keepdims=True))
        update = grad * row_factor * jax.lax.rsqrt(jnp.expand_dims(v_col, second))
    update = update / jnp.maximum(1.0, _rms(update, within) / config.clip_threshold)
    if config.multiply_by_parameter_scale:
        scale = jnp.maximum(_rms(param.astype(jnp.float32), within), config.epsilon_scale)
        update = update * scale
    return (-rate * update).astype(param.dtype), v_row, v_col, v


def _rms(x: jax.Array, within: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=within, keepdims=True))


def _lead(axes: tuple[str | None, ...]) -> int:
    return 1 if axes and axes[0] == STACKED else 0


def _without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return tuple(items[:index]) + tuple(items[index + 1 :])
