"""One update: loss, gradient, Adafactor, jitted over a mesh; and the state that it carries.

Legend: B rows of the global batch, M microbatches, L length. Nothing here reads data or writes
files, so that the same step can be compiled from shapes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flan_train import loss_guard, losses, optimizers
from flan_train.loss_guard import GuardConfig
from flan_train.models import t5
from flan_train.sharding import Partitioner

Metrics = dict[str, jax.Array]

ENCODER_FEATURES = ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions")
DECODER_FEATURES = (
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
    "decoder_segment_ids",
    "decoder_positions",
)


# Of ShardingConfig.cut_products: each piece reads and writes the whole result once more (flan-train
# plan shows it: XL on 64 chips of v4, 2.2e11 instead of 7.4e10 bytes in any memory), and compiling
# takes twice as long.
_WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}


class TrainState(NamedTuple):
    """What an update changes: int32 scalar `step` (updates made), parameters, optimizer state.

    And what the loss-spike guard remembers (`loss_guard.GuardState`); None without one.
    """

    step: Any
    params: Any
    opt_state: Any
    guard: Any = None


def abstract_state(
    model: t5.T5Config,
    optimizer: optimizers.OptimizerConfig,
    partitioner: Partitioner,
    guard: GuardConfig = loss_guard.OFF,
) -> TrainState:
    """Returns the state as ShapeDtypeStructs with their shardings; allocates nothing.

    Raises:
      UserError: a dimension of the model does not divide over the mesh.
    """
    axes = t5.param_axes(model)
    params = t5.abstract_params(model)
    state = jax.eval_shape(optimizers.adafactor(optimizer, axes).init, params)
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=partitioner.replicated()),
        params=_placed(params, partitioner.param_shardings(axes, params)),
        opt_state=_placed(
            state,
            partitioner.param_shardings(optimizers.state_axes(optimizer, axes, params), state),
        ),
        guard=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=partitioner.replicated()),
            loss_guard.initial(guard),
        ),
    )


def abstract_batch(
    batch_size: int, lengths: Mapping[str, int], partitioner: Partitioner
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a global batch as ShapeDtypeStructs, [B, L], with their shardings.

    Args:
      batch_size: B.
      lengths: {"inputs": encoder length, "targets": decoder length}.
      partitioner: where the rows go.
    """
    return {
        name: jax.ShapeDtypeStruct(
            (batch_size, lengths["inputs"] if name in ENCODER_FEATURES else lengths["targets"]),
            jnp.float32 if name.endswith("weights") else jnp.int32,
            sharding=partitioner.batch_sharding(),
        )
        for name in (*ENCODER_FEATURES, *DECODER_FEATURES)
    }


def init_state(
    model: t5.T5Config,
    optimizer: optimizers.OptimizerConfig,
    partitioner: Partitioner,
    seed: int,
    params: Any = None,
    guard: GuardConfig = loss_guard.OFF,
) -> TrainState:
    """Returns the state before the first update, made in place on the mesh.

    Args:
      model: what to build.
      optimizer: whose state to make.
      partitioner: where everything goes.
      seed: of the random parameters; the same on any mesh.
      params: parameters to start from instead of random ones.
      guard: whether losses are remembered.
    """
    shardings = jax.tree.map(
        lambda x: x.sharding, abstract_state(model, optimizer, partitioner, guard)
    )
    if params is None:
        draw = jax.jit(lambda key: t5.init_params(model, key), out_shardings=shardings.params)
        params = draw(jax.random.key(seed))
    transform = optimizers.adafactor(optimizer, t5.param_axes(model))
    opt_state = jax.jit(transform.init, out_shardings=shardings.opt_state)(params)
    return TrainState(
        jax.device_put(jnp.zeros((), jnp.int32), shardings.step),
        params,
        opt_state,
        put_guard(loss_guard.initial(guard), partitioner),
    )


def put_guard(state: loss_guard.GuardState | None, partitioner: Partitioner) -> Any:
    """Returns the guard's state on all devices; None stays None."""
    return jax.device_put(state, partitioner.replicated())


def put_batch(
    batch: Mapping[str, np.ndarray], partitioner: Partitioner, batch_size: int
) -> dict[str, jax.Array]:
    """Returns this host's rows (`Partitioner.host_rows`) as its part of global arrays [B, L]."""
    return {name: partitioner.put_rows(value, batch_size) for name, value in batch.items()}


def make_train_step(
    model: t5.T5Config,
    optimizer: optimizers.OptimizerConfig,
    loss: losses.LossConfig,
    partitioner: Partitioner,
    *,
    num_microbatches: int = 1,
    seed: int = 0,
    guard: GuardConfig = loss_guard.OFF,
    cut_products: bool = False,
) -> jax.stages.Wrapped:
    """Returns the jitted `step(state, batch) -> (state, metrics)`; `state` is donated.

    The gradient is that of the summed loss over the whole global batch, divided once by its
    number of target tokens, whatever the number of microbatches or devices. Dropout is a pure
    function of (seed, step, microbatch).

    Metrics, float32 scalars: the sums `loss` (without z-loss), `z_loss`, `weight`, `correct`,
    the numbers of tokens that are no padding `encoder_tokens` and `decoder_tokens`, and
    `grad_norm` (of the normalised gradient), `param_norm` (of the parameters that the update
    leaves: it overflows where they have blown up) and `learning_rate`; with a guard, those of
    `loss_guard.judge` too. An update that it refuses changes the numbers of steps alone.
    """
    axes = t5.param_axes(model)
    transform = optimizers.adafactor(optimizer, axes)
    on_tpu = partitioner.constrain.platform == "tpu"
    state_shardings = jax.tree.map(
        lambda x: x.sharding, abstract_state(model, optimizer, partitioner, guard)
    )

    def summed_loss(params: Any, batch: Mapping[str, Any], key: Any) -> tuple[Any, Metrics]:
        states = t5.final_states(
            params,
            model,
            batch,
            dropout_key=key if model.dropout_rate else None,
            constrain=partitioner.constrain,
        )
        return losses.chunked_cross_entropy(
            *t5.output_projection(params, model, states),
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            loss,
            constrain=partitioner.constrain,
        )

    def gradient(params: Any, batch: Mapping[str, Any], key: Any) -> tuple[Any, Metrics]:
        grads, sums = jax.grad(summed_loss, has_aux=True)(params, batch, key)
        # Held in the parameters' layout, so that fsdp sums into its own part only.
        return jax.lax.with_sharding_constraint(grads, state_shardings.params), sums

    def accumulated(params: Any, batch: Mapping[str, Any], key: Any) -> tuple[Any, Metrics]:
        # Row i * M + m goes to microbatch m: every device keeps the rows it has.
        parts = jax.tree.map(
            lambda x: partitioner.constrain(
                x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1),
                (None, "batch", "length"),
            ),
            dict(batch),
        )

        def add(total: Any, part: Any) -> tuple[Any, None]:
            rows, index = part
            one = gradient(params, rows, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, one), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient, params, first, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        zeros = (jax.lax.with_sharding_constraint(zeros[0], state_shardings.params), zeros[1])
        return jax.lax.scan(add, zeros, (parts, jnp.arange(num_microbatches)))[0]

    def step(state: TrainState, batch: Mapping[str, Any]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        sums_of = gradient if num_microbatches == 1 else accumulated
        grads, metrics = sums_of(state.params, batch, key)
        # A batch without a single target changes nothing, rather than everything to NaN.
        weight = jnp.where(metrics["weight"] > 0, metrics["weight"], 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.global_norm(grads)
        remembered = None
        if guard.is_on:
            refused, remembered, seen = loss_guard.judge(guard, state.guard, metrics, grad_norm)
            params = loss_guard.chosen(refused, state.params, params)
            # The learning rate goes by the step, whatever was skipped.
            kept = state.opt_state._replace(count=opt_state.count)
            opt_state = loss_guard.chosen(refused, kept, opt_state)
            metrics |= seen
        metrics |= {
            "grad_norm": grad_norm,
            "param_norm": optax.global_norm(params),
            "learning_rate": optimizers.learning_rate(optimizer, state.step),
        }
        for side in ("encoder", "decoder"):
            filled = batch[f"{side}_segment_ids"] > 0
            metrics[f"{side}_tokens"] = jnp.sum(filled).astype(jnp.float32)
        return TrainState(state.step + 1, params, opt_state, remembered), metrics

    return jax.jit(
        step,
        in_shardings=(state_shardings, partitioner.batch_sharding()),
        out_shardings=(state_shardings, partitioner.replicated()),
        donate_argnums=0,
        compiler_options=None if cut_products or not on_tpu else _WHOLE_PRODUCTS,
    )


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
