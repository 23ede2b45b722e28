"""The train step, as it is, lowered for NVIDIA GPUs on a machine without one."""

from __future__ import annotations

import dataclasses
import re

import jax
import pytest

from flan_train import losses, optimizers, sharding, train_step
from flan_train.loss_guard import GuardConfig
from flan_train.models.t5 import T5Config

MODEL = T5Config(
    vocab_size=512,
    embed_dim=128,
    num_heads=4,
    head_dim=64,
    mlp_dim=256,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
    dropout_rate=0.1,
    dtype="bfloat16",
    # What "auto" takes on GPUs; on this machine's own devices it would be another.
    attention="plain",
)
LENGTHS = {"inputs": 128, "targets": 64}
# What XLA itself resolves, for any device; a callback or a kernel of one device is none of them.
OF_ANY_DEVICE = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}


@pytest.mark.parametrize(
    ("preset", "partitions", "slices", "scanned"),
    [
        ("fsdp", 1, 1, True),
        ("fsdp_tensor", 2, 2, True),
        ("data_parallel", 1, 1, False),
        ("tensor", 2, 1, True),
    ],
)
def test_the_train_step_lowers_for_cuda(
    preset: str, partitions: int, slices: int, scanned: bool
) -> None:
    config = sharding.ShardingConfig(preset, partitions, slices)
    on = sharding.Partitioner(sharding.make_mesh(config), preset)
    model = dataclasses.replace(MODEL, scan_layers=scanned)
    optimizer = optimizers.OptimizerConfig(learning_rate=1e-3, warmup_steps=10)
    guard = GuardConfig(factor=3.0)
    step = train_step.make_train_step(
        model, optimizer, losses.LossConfig(z_loss=1e-4), on, num_microbatches=2, guard=guard
    )
    state = train_step.abstract_state(model, optimizer, on, guard)
    batch = train_step.abstract_batch(16, LENGTHS, on)

    # Refuses what is not promised to stay as it is from one version to the next.
    exported = jax.export.export(step, platforms=["cuda"])(state, batch)
    assert exported.platforms == ("cuda",)
    assert exported.nr_devices == 8
    program = exported.mlir_module()
    assert set(re.findall(r"custom_call @(\w+)", program)) <= OF_ANY_DEVICE
    # The matrix products are in bfloat16, whatever this machine can do.
    assert len(re.findall(r"dot_general.*xbf16>, tensor<.*xbf16>\)", program)) > 20

    lowered = step.trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()
    assert "dot_general" in lowered
