"""The settings of a run small enough for tests, on a real task."""

from __future__ import annotations

import pathlib
from typing import Any

from flan_train.checkpoints import CheckpointConfig
from flan_train.evaluate import EvalConfig
from flan_train.losses import LossConfig
from flan_train.models.t5 import T5Config
from flan_train.optimizers import OptimizerConfig
from flan_train.prepare import DataConfig
from flan_train.select import SelectConfig
from flan_train.sharding import ShardingConfig

TASK = "quickstart_addition_direct"
MODEL = T5Config(
    vocab_size=896,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activation="relu",
    tie_embeddings=True,
    dropout_rate=0.1,
)


def settings(prepared_dir: pathlib.Path) -> dict[str, Any]:
    """Returns every argument of `train` but the run directory."""
    data = DataConfig(
        TASK,
        {"inputs": 64, "targets": 16},
        "quickstart",
        prepared_dir=str(prepared_dir),
        examples_per_task=100,
    )
    return {
        "model": MODEL,
        "data": data,
        "optimizer": OptimizerConfig(learning_rate=0.01, min_dim_size_to_factor=16),
        "loss": LossConfig(),
        "sharding": ShardingConfig("fsdp_tensor", 2),
        "checkpoint": CheckpointConfig(period=2, keep=1),
        "evaluation": EvalConfig((TASK,), period=3, examples_per_task=8, batch_size=8),
        "selection": SelectConfig(),
        "train_steps": 6,
        "batch_size": 8,
        "log_period": 1,
        "seed": 5,
    }
