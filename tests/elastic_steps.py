"""Saves and restores the state of a tiny run on meshes of this process's devices; tests start it.

python -m tests.elastic_steps save|restore FOLDER PREPARED_DIR

`save` makes two updates on each mesh and saves what they come to in FOLDER/<devices>-<preset>, with
the loss and the examples of the update after that. `restore` makes that update from each of these
checkpoints on each of its own meshes. The last line is JSON, [source, mesh, loss, examples] each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from flan_train import checkpoints, launch, losses, train_step
from flan_train.batches import TrainBatches
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from flan_train.sharding import Partitioner, ShardingConfig, make_mesh
from tests import small_run

STEPS = 2
BATCH = 8


class Mesh(NamedTuple):
    """A preset on some of the devices; `name` is that of the folder it saves to."""

    name: str
    partitioner: Partitioner


def meshes() -> list[Mesh]:
    """Every preset on all devices of this process; where there are four, split both ways too."""
    count = jax.device_count()
    presets = [("data_parallel", 1)]
    if count > 1:
        presets += [("fsdp", 1), ("tensor", 2), ("fsdp_tensor", 2)]
    if count > 2:
        presets += [("fsdp", 2)]
    return [
        Mesh(f"{count}-{name}-{parts}", Partitioner(make_mesh(ShardingConfig(name, parts)), name))
        for name, parts in presets
    ]


class Steps:
    """Updates on one mesh, with the real data, and what each of them saw."""

    def __init__(self, mesh: Mesh, prepared: pathlib.Path) -> None:
        settings = small_run.settings(prepared)
        self.model = dataclasses.replace(settings["model"], dropout_rate=0.0)
        self.optimizer, self.partitioner = settings["optimizer"], mesh.partitioner
        self.abstract = train_step.abstract_state(self.model, self.optimizer, self.partitioner)
        self.step = train_step.make_train_step(
            self.model, self.optimizer, losses.LossConfig(), self.partitioner
        )
        data = settings["data"]
        store = launch.prepared_split(data, "train", sequences=BATCH * (STEPS + 1))
        self.reader = TrainBatches(
            store,
            batch_size=BATCH,
            lengths=data.feature_lengths,
            seed=5,
            rows=self.partitioner.host_rows(BATCH),
            threads=0,
        )

    def fresh(self) -> Any:
        return train_step.init_state(self.model, self.optimizer, self.partitioner, seed=5)

    def restored(self, run: pathlib.Path) -> Any:
        found = Checkpoints(run, CheckpointConfig()).newest_restorable(
            self.abstract.params, self.abstract.opt_state
        )
        assert found is not None
        self.reader.restore(found.restored.data)
        count = jax.device_put(np.int32(found.step), self.abstract.step.sharding)
        return train_step.TrainState(count, found.restored.params, found.restored.opt_state)

    def update(self, state: Any) -> tuple[Any, float, str]:
        """Returns the next state, the loss per target token, and what the batch was made of."""
        seen = self.reader.describe(self.reader.state())
        rows = next(self.reader)
        batch = train_step.put_batch(rows, self.partitioner, BATCH)
        state, metrics = self.step(state, batch)
        names = [f"{each['sequence']}:{each['task']}/{each['example_id']}" for each in seen]
        content = hashlib.sha256(b"".join(rows[name].tobytes() for name in sorted(rows)))
        told = f"{' '.join(names)} {content.hexdigest()}"
        return state, float(metrics["loss"]) / float(metrics["weight"]), told


def save(folder: pathlib.Path, prepared: pathlib.Path) -> list[tuple[str, str, float, str]]:
    found = []
    for mesh in meshes():
        steps = Steps(mesh, prepared)
        state = steps.fresh()
        for _ in range(STEPS):
            state, _, _ = steps.update(state)
        run = Checkpoints(folder / mesh.name, CheckpointConfig())
        run.save(STEPS, state.params, state.opt_state, steps.reader.state(), {})
        run.close()
        _, loss, seen = steps.update(state)
        found.append((mesh.name, mesh.name, loss, seen))
    return found


def restore(
    folder: pathlib.Path, prepared: pathlib.Path, only: tuple[str, ...] = ()
) -> list[tuple[str, str, float, str]]:
    found = []
    for mesh in meshes():
        if only and mesh.name not in only:
            continue
        steps = Steps(mesh, prepared)
        for run in sorted(folder.iterdir()):
            if (run / checkpoints.FOLDER).is_dir():
                _, loss, seen = steps.update(steps.restored(run))
                found.append((run.name, mesh.name, loss, seen))
    return found


if __name__ == "__main__":
    verb, folder, prepared = sys.argv[1:]
    print(
        json.dumps({"save": save, "restore": restore}[verb](*map(pathlib.Path, (folder, prepared))))
    )
