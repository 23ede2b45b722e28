"""The update with the fused attention against the plain one: one device, and split over a mesh."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import attention_choice, errors, losses, optimizers, sharding, train_step
from flan_train.models import t5
from flan_train.models.attention import fused_obstacle
from flan_train.models.layers import unconstrained

MODEL = t5.T5Config(
    vocab_size=64,
    embed_dim=32,
    num_heads=4,
    mlp_dim=48,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
    dropout_rate=0.1,
    attention="fused",
)
LENGTH, ROWS = 128, 4
QUICK = {"xla_backend_optimization_level": 0}


def batch() -> dict[str, np.ndarray]:
    """Rows of three segments and padding; in the last there is no decoder segment 2."""
    random = np.random.default_rng(0)
    segments = np.zeros((ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        first, second, third = sorted(random.integers(1, LENGTH - 8, 3))
        segments[row, :first], segments[row, first:second], segments[row, second:third] = 1, 2, 3
    made: dict[str, np.ndarray] = {}
    for side in ("encoder", "decoder"):
        own = segments.copy()
        if side == "decoder":
            own[-1][own[-1] == 2] = 0
        made[f"{side}_segment_ids"] = own
        made[f"{side}_input_tokens"] = random.integers(2, 64, own.shape).astype(np.int32) * (
            own > 0
        )
        made[f"{side}_positions"] = np.zeros_like(own)
    made["decoder_target_tokens"] = random.integers(2, 64, (ROWS, LENGTH)).astype(np.int32)
    made["decoder_loss_weights"] = (made["decoder_segment_ids"] > 0).astype(np.float32)
    return made


def updated(model: t5.T5Config, config: sharding.ShardingConfig, devices: int) -> tuple[Any, Any]:
    """(parameters, metrics) after one update."""
    mesh = sharding.make_mesh(config, jax.devices()[:devices])
    partitioner = sharding.Partitioner(mesh, config.preset)
    optimizer = optimizers.OptimizerConfig(learning_rate=0.01)
    step = train_step.make_train_step(model, optimizer, losses.LossConfig(), partitioner, seed=3)
    state = train_step.init_state(model, optimizer, partitioner, seed=0)
    rows = train_step.put_batch(batch(), partitioner, ROWS)
    state, metrics = step.lower(state, rows).compile(compiler_options=QUICK)(state, rows)
    return jax.device_get((state.params, metrics))


@pytest.mark.parametrize(
    ("preset", "partitions", "devices"),
    [
        pytest.param("data_parallel", 1, 1, marks=pytest.mark.slow),
        ("fsdp_tensor", 2, 4),
    ],
)
def test_an_update_is_the_plain_one(preset: str, partitions: int, devices: int) -> None:
    config = sharding.ShardingConfig(preset=preset, num_partitions=partitions)
    plain = dataclasses.replace(MODEL, attention="plain")
    expected = updated(plain, sharding.ShardingConfig(), 1)
    found = updated(MODEL, config, devices)
    for name, value in expected[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    # An update divides by the gradient's own size: where that is rounding alone, so is the update.
    for one, other in zip(*(jax.tree.leaves(x[0]) for x in (expected, found)), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-4)


def test_the_kernel_is_used_only_where_it_applies() -> None:
    def obstacle(queries: int = 128, keys: int = 256, **changes: Any) -> str | None:
        return fused_obstacle(dataclasses.replace(MODEL, **changes), queries, keys, unconstrained)

    assert obstacle() is None
    assert obstacle(attention="auto") == "the devices are no TPUs but cpu"
    assert obstacle(attention="plain") == "it is switched off"
    assert "length 100" in str(obstacle(queries=100))
    assert "32 wide" in str(obstacle(head_dim=32))
    assert "3 heads" in str(obstacle(num_heads=3))


def test_heads_are_counted_on_each_device() -> None:
    config = sharding.ShardingConfig(preset="tensor", num_partitions=4)
    partitioner = sharding.Partitioner(sharding.make_mesh(config), config.preset)
    with pytest.raises(errors.UserError, match=r"encoder attention: 1 heads on a device"):
        attention_choice.checked(MODEL, (128, 128), partitioner)


def test_the_log_tells_which_attention_is_used() -> None:
    config = sharding.ShardingConfig()
    partitioner = sharding.Partitioner(sharding.make_mesh(config), config.preset)
    assert attention_choice.checked(MODEL, (256, 128), partitioner) == "fused"
    plain = dataclasses.replace(MODEL, attention="auto")
    assert "plain (the devices are no TPUs" in attention_choice.checked(
        plain, (256, 128), partitioner
    )
