"""The settings of a run small enough for tests, on a real task."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

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


@contextlib.contextmanager
def compiled_once(folder: pathlib.Path) -> Iterator[None]:
    """Keeps compiled programs in a folder: launches run the same ones, and compiling is the most.

    Two modules of tests may share it.
    """
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update(names[0], str(folder))
    jax.config.update(names[1], 0.0)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
