"""Meshes and the train step on TPUs that are not there; prints one line of JSON.

Run as `python -m tests.meshes_for_tpu` where libtpu is installed: which rows each host reads on
real topologies, and what two slices send each other in a step.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

os.environ |= {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import numpy as np
from jax.experimental import topologies

from flan_train import sharding, train_step
from flan_train.errors import UserError
from flan_train.losses import LossConfig
from flan_train.models.t5 import T5Config
from flan_train.optimizers import OptimizerConfig
from flan_train.sharding import Partitioner, ShardingConfig

MODEL = T5Config(
    vocab_size=512,
    embed_dim=256,
    num_heads=4,
    head_dim=64,
    mlp_dim=512,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
    dropout_rate=0.0,
    dtype="bfloat16",
)
LENGTHS = {"inputs": 128, "targets": 128}


def devices(name: str, slices: int = 1) -> list[Any]:
    """The devices of a topology; of v4, one for each chip, as it is used."""
    options: dict[str, Any] = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    if slices > 1:
        options["num_slices"] = slices
    return list(topologies.get_topology_desc(name, "tpu", **options).devices)


def rows(name: str, config: ShardingConfig, batch: int) -> dict[str, Any]:
    """The rows that each host reads, and the sizes of the mesh."""
    given = devices(name, config.num_slices)
    on = Partitioner(sharding.make_mesh(config, given), config.preset)
    hosts = sorted({device.process_index for device in given})
    return {
        "mesh": list(on.mesh.devices.shape),
        "batch": batch,
        "rows": [on.host_rows(batch, host).tolist() for host in hosts],
        "slices": [
            sorted({int(getattr(d, "slice_index", 0)) for d in part.flat})
            for part in on.mesh.devices
        ],
    }


def between_slices(program: str) -> list[dict[str, Any]]:
    """What leaves a slice in a compiled program: its hosts carry it (megascale)."""
    found = []
    for line in program.splitlines():
        if " send(" not in line:
            continue
        told = dict(re.findall(r'_xla_megascale_([a-z_]+)="([^"]*)"', line))
        (dims,) = re.findall(r"= \([a-z]+\d+\[([\d,]*)\]", line)
        elements = int(np.prod([int(size) for size in dims.split(",") if size] or [1]))
        found.append(
            {
                "kind": told.get("transfer_type"),
                "sum": told.get("reduce_operation") == "SUM",
                "elements": elements,
            }
        )
    return found


def step(name: str, config: ShardingConfig, batch: int) -> dict[str, Any]:
    """What is sent between slices in the compiled train step."""
    given = devices(name, config.num_slices)
    on = Partitioner(sharding.make_mesh(config, given), config.preset)
    optimizer = OptimizerConfig(learning_rate=1e-3)
    update = train_step.make_train_step(MODEL, optimizer, LossConfig(), on)
    state = train_step.abstract_state(MODEL, optimizer, on)
    shapes = train_step.abstract_batch(batch, LENGTHS, on)
    program = update.lower(state, shapes).compile().as_text()
    params = [int(np.prod(leaf.sharding.shard_shape(leaf.shape))) for leaf in _leaves(state.params)]
    return {
        "between": between_slices(program),
        "part": sum(params),
        "copies": int(on.mesh.shape["data"]),
    }


def _leaves(tree: Any) -> list[Any]:
    import jax

    return list(jax.tree.leaves(tree))


def refused() -> str:
    try:
        sharding.make_mesh(ShardingConfig("fsdp", num_slices=4), devices("v4:2x2x1", 2))
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    layouts = {
        "v4 fsdp": ("v4:4x4x4", ShardingConfig("fsdp")),
        "v4 fsdp_tensor 8": ("v4:4x4x4", ShardingConfig("fsdp_tensor", 8)),
        "v5e fsdp": ("v5e:4x4", ShardingConfig("fsdp")),
        "v6e tensor 4": ("v6e:8x8", ShardingConfig("tensor", 4)),
        "v4 two slices": ("v4:4x4x4", ShardingConfig("fsdp", num_slices=2)),
    }
    steps = {
        "small": ("v4:2x2x1", ShardingConfig("fsdp", num_slices=2), 16),
        "tensor": ("v4:2x2x1", ShardingConfig("fsdp_tensor", 2, num_slices=2), 16),
        "large": ("v4:4x4x4", ShardingConfig("fsdp", 8, num_slices=2), 128),
    }
    found = {
        "rows": {name: rows(topology, config, 256) for name, (topology, config) in layouts.items()},
        "steps": {name: step(*each) for name, each in steps.items() if name in sys.argv[1:]},
        "refused": refused(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
