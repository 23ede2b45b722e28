"""Adafactor against the algorithm in numpy and against optax's parts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flan_train import optimizers

CONFIG = optimizers.OptimizerConfig(learning_rate=1e-2, min_dim_size_to_factor=4)


class Reference:
    """One unstacked parameter, from the paper's algorithm, in float64."""

    def __init__(self, param: np.ndarray, minimum: int) -> None:
        self.param = param.astype(np.float64)
        self.step = 0
        sizes = sorted(range(param.ndim), key=lambda d: (param.shape[d], d))
        self.factored = param.ndim >= 2 and param.shape[sizes[-2]] >= minimum
        if self.factored:
            self.small, self.large = sizes[-2], sizes[-1]
            self.row = np.zeros([n for d, n in enumerate(param.shape) if d != self.large])
            self.col = np.zeros([n for d, n in enumerate(param.shape) if d != self.small])
        else:
            self.v = np.zeros(param.shape)

    def update(self, grad: np.ndarray, rate: float) -> None:
        beta = 1.0 - (self.step + 1.0) ** -0.8
        self.step += 1
        square = grad.astype(np.float64) ** 2 + 1e-30
        if self.factored:
            self.row = beta * self.row + (1 - beta) * square.mean(self.large)
            self.col = beta * self.col + (1 - beta) * square.mean(self.small)
            row = np.expand_dims(self.row, self.large)
            col = np.expand_dims(self.col, self.small)
            estimate = row * col / row.mean(self.small, keepdims=True)
        else:
            self.v = estimate = beta * self.v + (1 - beta) * square
        update = grad / np.sqrt(estimate)
        update /= max(1.0, np.sqrt(np.mean(update**2)))
        self.param = self.param - rate * max(np.sqrt(np.mean(self.param**2)), 1e-3) * update


def tree(seed: int, scale: float = 1.0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"matrix": (6, 9), "wide": (9, 5), "square": (7, 7), "thin": (3, 40), "vector": (11,)}
    return {
        name: jnp.asarray(random.normal(0, scale, shape).astype(np.float32))
        for name, shape in shapes.items()
    }


AXES = {
    "matrix": ("embed", "mlp"),
    "wide": ("mlp", "embed"),
    "square": ("embed", "heads"),
    "thin": ("heads", "buckets"),
    "vector": ("embed",),
}


def test_follows_the_algorithm_over_steps_with_warm_up() -> None:
    config = optimizers.OptimizerConfig(
        learning_rate=0.05, warmup_steps=3, min_dim_size_to_factor=4
    )
    params = tree(0)
    references = {name: Reference(np.asarray(value), 4) for name, value in params.items()}
    assert {name: r.factored for name, r in references.items()} == {
        "matrix": True, "wide": True, "square": True, "thin": False, "vector": False,
    }  # fmt: skip
    transform = optimizers.adafactor(config, AXES)
    state = transform.init(params)
    update = jax.jit(transform.update)
    for step in range(6):
        # A gradient a thousand times greater at step 4: only then does clipping bite hard.
        grads = tree(100 + step, 1000.0 if step == 4 else 1.0)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        rate = 0.05 * min(1.0, (step + 1) / 3)
        np.testing.assert_allclose(optimizers.learning_rate(config, step), rate, rtol=1e-6)
        for name, reference in references.items():
            reference.update(np.asarray(grads[name]), rate)
            np.testing.assert_allclose(
                params[name], reference.param, rtol=2e-5, atol=2e-6, err_msg=f"{name} at {step}"
            )
    assert int(state.count) == 6


def test_equals_optax_parts_on_unstacked_parameters() -> None:
    params = tree(1)
    theirs = optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8, min_dim_size_to_factor=4, epsilon=1e-30),
        optax.clip_by_block_rms(1.0),
        optax.scale(-1e-2),
        optax.scale_by_param_block_rms(1e-3),
    )
    ours = optimizers.adafactor(CONFIG, AXES)
    their_state, our_state = theirs.init(params), ours.init(params)
    for step in range(4):
        grads = tree(50 + step, 10.0**step)
        expected, their_state = theirs.update(grads, their_state, params)
        updates, our_state = ours.update(grads, our_state, params)
        for name in params:
            np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5, err_msg=name)


def test_stacked_layers_get_the_numbers_of_unrolled_ones() -> None:
    random = np.random.default_rng(2)
    layers = 3
    # Layers of very different scale: anything shared across the stack would show.
    scales = np.asarray([0.01, 1.0, 30.0], np.float32)
    shapes = {"kernel": (6, 9), "scale": (5,), "small": (3, 8)}
    axes = {"kernel": ("embed", "mlp"), "scale": ("embed",), "small": ("heads", "buckets")}
    stacked_axes = {name: ("layers", *names) for name, names in axes.items()}

    def draw(by: np.ndarray) -> dict[str, jax.Array]:
        return {
            name: jnp.asarray(
                random.normal(0, 1, (layers, *shape)).astype(np.float32)
                * by.reshape(-1, *(1 for _ in shape))
            )
            for name, shape in shapes.items()
        }

    params = draw(scales)
    stacked = optimizers.adafactor(CONFIG, stacked_axes)
    single = optimizers.adafactor(CONFIG, axes)
    state = stacked.init(params)
    pick = lambda values, i: jax.tree.map(lambda x: x[i], values)  # noqa: E731
    states = [single.init(pick(params, i)) for i in range(layers)]
    for _ in range(3):
        grads = draw(scales[::-1] ** 2)
        updates, state = jax.jit(stacked.update)(grads, state, params)
        for i in range(layers):
            one, states[i] = jax.jit(single.update)(pick(grads, i), states[i], pick(params, i))
            for name in shapes:
                np.testing.assert_allclose(
                    updates[name][i], one[name], rtol=1e-6, err_msg=f"{name}, layer {i}"
                )
        params = optax.apply_updates(params, updates)
    for slot in ("v_row", "v_col"):
        stacked_slot = getattr(state, slot)["kernel"]
        for i in range(layers):
            np.testing.assert_allclose(stacked_slot[i], getattr(states[i], slot)["kernel"], 1e-6)


def test_the_layer_axis_is_never_factored() -> None:
    assert optimizers.factored_dims((24, 1024, 2816), ("layers", "embed", "mlp"), 128) == (1, 2)
    # 200 layers of a vector are 200 vectors, not a matrix.
    assert optimizers.factored_dims((200, 512), ("layers", "embed"), 128) is None
    assert optimizers.factored_dims((200, 512), ("vocab", "embed"), 128) == (0, 1)
    assert optimizers.factored_dims((512, 127), ("embed", "mlp"), 128) is None


def test_state_axes_name_what_is_left_of_each_parameter() -> None:
    config = optimizers.OptimizerConfig(min_dim_size_to_factor=4)
    axes = {
        "wo": ("layers", "mlp", "embed"),
        "scale": ("layers", "embed"),
        "embedding": ("vocab", "embed"),
    }
    params = {
        "wo": jnp.zeros((2, 16, 8)), "scale": jnp.zeros((2, 8)), "embedding": jnp.zeros((32, 8))
    }  # fmt: skip
    named = optimizers.state_axes(config, axes, params)
    state = optimizers.adafactor(config, axes).init(params)
    assert named.v_row["wo"] == ("layers", "embed")
    assert state.v_row["wo"].shape == (2, 8)
    assert named.v_col["wo"] == ("layers", "mlp")
    assert state.v_col["wo"].shape == (2, 16)
    assert named.v["scale"] == ("layers", "embed")
    assert named.v_row["embedding"] == ("embed",)
    flat, structure = jax.tree.flatten(state)
    for leaf, names in zip(flat, structure.flatten_up_to(named), strict=True):
        assert leaf.ndim == len(names)


def test_update_without_parameters_says_why() -> None:
    transform = optimizers.adafactor(CONFIG, AXES)
    with pytest.raises(ValueError, match="relative to the parameters"):
        transform.update(tree(0), transform.init(tree(0)))
