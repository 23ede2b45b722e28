"""The update on real small models: every mesh, any microbatching, one set of numbers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import errors, losses, optimizers, sharding, train_step
from flan_train.models import t5

MODEL = t5.T5Config(
    vocab_size=32,
    embed_dim=16,
    num_heads=4,
    head_dim=4,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
    relative_buckets=8,
    relative_max_distance=16,
    dropout_rate=0.1,
)
OPTIMIZER = optimizers.OptimizerConfig(learning_rate=0.02, min_dim_size_to_factor=8)
LENGTHS = {"inputs": 12, "targets": 8}
ROWS = 16
LOSS = losses.LossConfig()


def packed_batch(seed: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Random rows of one or two segments; later rows hold fewer and fewer target tokens."""
    random = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    for side, length in (("encoder", LENGTHS["inputs"]), ("decoder", LENGTHS["targets"])):
        tokens = random.integers(2, MODEL.vocab_size, (rows, length)).astype(np.int32)
        segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
        for row in range(rows):
            first = 1 + (length - 2) * (rows - row) // rows
            second = min(length, first + 2)
            segments[row, :first], segments[row, first:second] = 1, 2
            positions[row, :first] = np.arange(first)
            positions[row, first:second] = np.arange(second - first)
        batch[f"{side}_input_tokens"] = tokens * (segments > 0)
        batch[f"{side}_segment_ids"], batch[f"{side}_positions"] = segments, positions
    batch["decoder_target_tokens"] = np.roll(batch["decoder_input_tokens"], -1, 1)
    batch["decoder_loss_weights"] = (batch["decoder_segment_ids"] > 0).astype(np.float32)
    return batch


# These programs are tiny: compiling them, not running them, is what takes the time.
QUICK = {"xla_backend_optimization_level": 0}
CALM = dataclasses.replace(MODEL, dropout_rate=0.0)


@functools.cache
def partitioner(preset: str, partitions: int, devices: int) -> sharding.Partitioner:
    config = sharding.ShardingConfig(preset, partitions)
    return sharding.Partitioner(sharding.make_mesh(config, jax.devices()[:devices]), preset)


@functools.cache
def program(
    on: sharding.Partitioner, model: t5.T5Config, microbatches: int
) -> Callable[..., tuple[train_step.TrainState, train_step.Metrics]]:
    """The step, compiled from shapes alone."""
    step = train_step.make_train_step(
        model, OPTIMIZER, LOSS, on, num_microbatches=microbatches, seed=3
    )
    state = train_step.abstract_state(model, OPTIMIZER, on)
    batch = train_step.abstract_batch(ROWS, LENGTHS, on)
    return step.lower(state, batch).compile(compiler_options=QUICK)


@functools.cache
def random_params() -> Any:
    on = partitioner("data_parallel", 1, 1)
    return jax.tree.map(np.asarray, train_step.init_state(MODEL, OPTIMIZER, on, seed=1).params)


def start(on: sharding.Partitioner) -> train_step.TrainState:
    shardings = jax.tree.map(
        lambda x: x.sharding, train_step.abstract_state(MODEL, OPTIMIZER, on).params
    )
    params = jax.device_put(random_params(), shardings)
    return train_step.init_state(MODEL, OPTIMIZER, on, seed=1, params=params)


def run(
    preset: str = "data_parallel",
    partitions: int = 1,
    devices: int = 1,
    *,
    steps: int = 4,
    model: t5.T5Config = MODEL,
    microbatches: int = 1,
) -> tuple[list[dict[str, float]], train_step.TrainState]:
    """Metrics of a few steps, and the state after them."""
    on = partitioner(preset, partitions, devices)
    state, metrics = start(on), []
    for number in range(steps):
        batch = train_step.put_batch(packed_batch(number), on, ROWS)
        state, one = program(on, model, microbatches)(state, batch)
        metrics.append({name: float(value) for name, value in one.items()})
    return metrics, state


@pytest.fixture(scope="module")
def one_device() -> list[dict[str, float]]:
    return run()[0]


@pytest.mark.parametrize(
    ("preset", "partitions"),
    [("data_parallel", 1), ("fsdp", 1), ("tensor", 4), ("fsdp_tensor", 2)],
)
def test_every_preset_gives_the_losses_of_one_device(
    preset: str, partitions: int, one_device: list[dict[str, float]]
) -> None:
    metrics, state = run(preset, partitions, 8)
    for ours, expected in zip(metrics, one_device, strict=True):
        for name in ("loss", "z_loss"):
            np.testing.assert_allclose(
                ours[name] / ours["weight"], expected[name] / expected["weight"], atol=1e-5
            )
        for name in ("weight", "encoder_tokens", "decoder_tokens"):
            assert ours[name] == expected[name]
        np.testing.assert_allclose(ours["grad_norm"], expected["grad_norm"], rtol=1e-4)
    assert int(state.step) == int(state.opt_state.count) == 4
    # The state lies as the table says, and Adafactor's vectors like their parameters.
    kernel = state.params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    row = state.opt_state.v_row["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    col = state.opt_state.v_col["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    parts = {"data_parallel": (1, 1), "fsdp": (8, 1), "tensor": (1, 4), "fsdp_tensor": (4, 2)}
    embed, mlp = parts[preset]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 16 // embed, 24 // mlp)
    assert row.sharding.shard_shape(row.shape) == (2, 16 // embed)
    assert col.sharding.shard_shape(col.shape) == (2, 24 // mlp)


def test_training_lowers_the_loss_of_a_batch_it_has_seen() -> None:
    on = partitioner("data_parallel", 1, 1)
    state, batch, seen = start(on), train_step.put_batch(packed_batch(0), on, ROWS), []
    for _ in range(30):
        state, metrics = program(on, MODEL, 1)(state, batch)
        seen.append(float(metrics["loss"] / metrics["weight"]))
    assert seen[-1] < 0.8 * seen[0]


@pytest.mark.parametrize(("preset", "devices"), [("data_parallel", 1), ("fsdp", 4)])
def test_microbatches_of_unequal_weight_give_the_same_gradient(preset: str, devices: int) -> None:
    weights = packed_batch(0)["decoder_loss_weights"].sum(1)
    assert weights[0::4].sum() != weights[3::4].sum()
    whole, state = run(model=CALM)
    split, other = run(preset, devices=devices, model=CALM, microbatches=4)
    for one, two in zip(whole, split, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_allclose(one[name], two[name], rtol=2e-5, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=2e-5),
        state.params,
        other.params,
    )


def test_dropout_is_a_function_of_seed_and_step() -> None:
    one, state = run(steps=3)
    two, again = run(steps=3)
    assert one == two
    jax.tree.map(np.testing.assert_array_equal, state, again)
    calm, _ = run(steps=1, model=CALM)
    assert calm[0]["loss"] != one[0]["loss"]


def test_a_batch_without_targets_changes_no_parameter() -> None:
    on = partitioner("data_parallel", 1, 1)
    batch = packed_batch(0) | {"decoder_loss_weights": np.zeros((ROWS, 8), np.float32)}
    state, metrics = program(on, MODEL, 1)(start(on), train_step.put_batch(batch, on, ROWS))
    assert float(metrics["weight"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, random_params(), state.params)


def test_random_parameters_are_the_same_on_any_mesh() -> None:
    on = partitioner("fsdp", 1, 8)
    state = train_step.init_state(MODEL, OPTIMIZER, on, seed=1)
    jax.tree.map(np.testing.assert_array_equal, random_params(), state.params)


def test_the_abstract_batch_is_that_of_the_data() -> None:
    batch = train_step.abstract_batch(ROWS, LENGTHS, partitioner("data_parallel", 1, 1))
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        k: (v.shape, v.dtype) for k, v in packed_batch(0).items()
    }


def test_heads_that_do_not_divide_are_refused_before_anything_is_built() -> None:
    model: Any = dataclasses.replace(MODEL, num_heads=6)
    mesh = sharding.make_mesh(sharding.ShardingConfig("tensor", 4))
    on = sharding.Partitioner(mesh, "tensor")
    with pytest.raises(errors.UserError) as caught:
        train_step.abstract_state(model, OPTIMIZER, on)
    assert "'heads' of size 6" in str(caught.value)
    assert "'tensor' of size 4" in str(caught.value)
