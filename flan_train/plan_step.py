"""The trainer's own update, compiled from shapes alone for devices that need not be here."""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flan_train import (
    attention_choice,
    errors,
    loss_guard,
    plan_collectives,
    plan_hlo,
    plan_loops,
    sharding,
    train_step,
)
from flan_train.loss_guard import GuardConfig
from flan_train.losses import LossConfig
from flan_train.models import t5
from flan_train.optimizers import OptimizerConfig
from flan_train.plan_chips import Topology
from flan_train.plan_cost import Cost, Costs, uncosted

MEMORY = (
    "argument_size_in_bytes",
    "output_size_in_bytes",
    "alias_size_in_bytes",
    "temp_size_in_bytes",
    "generated_code_size_in_bytes",
    "peak_memory_in_bytes",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that the compiled update follows from; what a launch passes to `make_train_step`.

    Attributes:
      model, optimizer, loss, guard, seed: as of `train`.
      sharding: the preset and its sizes.
      batch_size: rows of a global batch.
      lengths: {"inputs": places of a row, "targets": places of a row}.
      num_microbatches: parts of a batch.
    """

    model: t5.T5Config
    optimizer: OptimizerConfig
    loss: LossConfig
    sharding: sharding.ShardingConfig
    batch_size: int
    lengths: Mapping[str, int]
    num_microbatches: int = 1
    seed: int = 0
    guard: GuardConfig = loss_guard.OFF

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Returns the settings among the arguments of `train`."""
        names = ("model", "optimizer", "loss", "sharding", "batch_size", "num_microbatches", "seed")
        return cls(
            **{name: arguments[name] for name in names},
            lengths=dict(arguments["data"].feature_lengths),
            guard=arguments["guard"],
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Settings:
        """Returns the settings that `dataclasses.asdict` made plain values of."""
        kinds = {
            "model": t5.T5Config,
            "optimizer": OptimizerConfig,
            "loss": LossConfig,
            "sharding": sharding.ShardingConfig,
            "guard": GuardConfig,
        }
        return cls(
            **{
                name: kinds[name](**value) if name in kinds else value
                for name, value in found.items()
            }
        )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled update.

    Attributes:
      executable: what JAX returned.
      partitioner: the mesh and its preset.
      attention: how attention is computed, in words.
      lower_seconds, compile_seconds: tracing to StableHLO, and the compiler's own time.
    """

    executable: jax.stages.Compiled
    partitioner: sharding.Partitioner
    attention: str
    lower_seconds: float
    compile_seconds: float


def topology_devices(topology: Topology) -> list[Any]:
    """Returns the devices of a topology; those of this process for "cpu".

    Raises:
      UserError: the compiler knows no such topology.
    """
    if not topology.is_tpu:
        return jax.devices("cpu")[: topology.devices]
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if topology.chip.config:
        options["chip_config_name"] = topology.chip.config
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise errors.UserError(
            f"the TPU compiler knows no topology '{topology.name}': {errors.reason(error)}",
            where="--topology",
            expected="the shape of a slice that there is, such as v4:2x2x1, v4:4x4x4, v5e:4x4",
        ) from error
    return list(found.devices)


def compile_step(settings: Settings, topology: Topology) -> Compiled:
    """Returns the update compiled for a topology; allocates no parameters.

    Raises:
      UserError: the settings do not suit the devices, or the program does not fit their memory.
    """
    layout = dataclasses.replace(settings.sharding, num_slices=topology.slices)
    mesh = sharding.make_mesh(layout, topology_devices(topology))
    partitioner = sharding.Partitioner(mesh, layout.preset)
    partitioner.check_batch_size(settings.batch_size, settings.num_microbatches)
    lengths = settings.lengths["inputs"], settings.lengths["targets"]
    attention = attention_choice.checked(settings.model, lengths, partitioner)
    step = train_step.make_train_step(
        settings.model,
        settings.optimizer,
        settings.loss,
        partitioner,
        num_microbatches=settings.num_microbatches,
        seed=settings.seed,
        guard=settings.guard,
        cut_products=layout.cut_products,
    )
    state = train_step.abstract_state(
        settings.model, settings.optimizer, partitioner, settings.guard
    )
    batch = train_step.abstract_batch(settings.batch_size, settings.lengths, partitioner)
    started = time.monotonic()
    lowered = step.lower(state, batch)
    between = time.monotonic()
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        raise errors.UserError(
            f"the update does not fit: {text.splitlines()[0][:400]}",
            where=f"{topology.describe()}, preset {layout.preset}",
            expected="a program that fits the memory of a device",
            fix="try more microbatches, REMAT_POLICY = 'full', a preset that splits more, or "
            "--search",
        ) from error
    ended = time.monotonic()
    return Compiled(executable, partitioner, attention, between - started, ended - between)


def measure(settings: Settings, topology: Topology, hlo_path: str | None = None) -> dict[str, Any]:
    """Compiles the update and returns what it takes, per device, as plain values.

    Args:
      settings: what is compiled.
      topology: for what.
      hlo_path: where to write the optimised program as text; None: nowhere.

    Returns:
      {"parameters", "mesh", "attention" (how it is computed, in words), "memory" (bytes by MEMORY's
      names, and "parameters", "optimizer" of the state), "costs" and "costs_once" (`Cost`, loops
      multiplied out and counted once), "uncosted" (runs of custom calls of which nothing is known,
      by target), "xla" (what XLA itself counts), "loops", "collectives", "lower_seconds",
      "compile_seconds", "process_bytes" (the largest resident size of this process), "jax"}.

    Raises:
      UserError: as `compile_step`; the text cannot be written.
    """
    compiled = compile_step(settings, topology)
    text = compiled.executable.as_text() or ""
    if hlo_path is not None:
        try:
            with open(hlo_path, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise errors.not_written("--hlo", hlo_path, error) from None
    module = plan_hlo.parse(text)
    costs = Costs(module, tpu=topology.is_tpu)

    def weight(computation: plan_hlo.Computation, one: plan_hlo.Instruction) -> float:
        return costs.of(computation, one).accessed

    runs = list(plan_loops.runs(module, weight=weight))
    once = plan_loops.runs(module, once=True, weight=weight)
    analysis = compiled.executable.cost_analysis() or {}
    memory = compiled.executable.memory_analysis()
    state = train_step.abstract_state(
        settings.model, settings.optimizer, compiled.partitioner, settings.guard
    )
    return {
        "parameters": t5.count_params(settings.model),
        "mesh": dict(compiled.partitioner.mesh.shape),
        "attention": compiled.attention,
        "memory": {
            **{name: int(getattr(memory, name)) for name in MEMORY},
            "parameters": _bytes(state.params),
            "optimizer": _bytes(state.opt_state),
        },
        "costs": _total(costs, runs)._asdict(),
        "costs_once": _total(costs, once)._asdict(),
        "uncosted": _uncosted(runs),
        "xla": {
            "flops": analysis.get("flops"),
            "transcendentals": analysis.get("transcendentals"),
            "accessed": analysis.get("bytes accessed"),
        },
        "loops": [
            loop._asdict()
            for loop in plan_loops.loops(module)
            if loop.trips is None or loop.trips > 1
        ],
        "collectives": plan_collectives.as_rows(
            plan_collectives.collectives(module, runs, _network(compiled, topology))
        ),
        "lower_seconds": compiled.lower_seconds,
        "compile_seconds": compiled.compile_seconds,
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "jax": jax.__version__,
    }


def _total(costs: Costs, runs: Any) -> Cost:
    total = Cost()
    for computation, one, times in runs:
        total = total.plus(costs.of(computation, one).times(times))
    return total


def _uncosted(runs: Any) -> dict[str, float]:
    counts: dict[str, float] = {}
    for _, one, times in runs:
        if target := uncosted(one):
            counts[target] = counts.get(target, 0) + times
    return counts


def _network(compiled: Compiled, topology: Topology) -> plan_collectives.Network:
    mesh = compiled.partitioner.mesh
    devices = list(mesh.devices.flat)
    places = [
        tuple(device.coords)[: len(topology.sides)] if topology.is_tpu else (number,)
        for number, device in enumerate(devices)
    ]
    return plan_collectives.Network(
        dict(mesh.shape),
        np.array(places),
        np.array([getattr(device, "slice_index", None) or 0 for device in devices]),
        topology.sides,
        topology.chip,
    )


def _bytes(tree: Any) -> int:
    """Bytes of one device's part of a tree of shapes."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
