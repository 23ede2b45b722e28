"""The device mesh and ONE table from logical axis to mesh axis; it knows axis names, never layers.

Mesh axes: `dcn` (slices, which the data centre's network joins), `data` (copies of the parameters,
different rows of the batch), `fsdp` (different rows of the batch, parameters split and gathered
when used), `tensor` (the same rows, every layer's width split). Over `dcn` parameters are copied,
so that a slice sends the others its gradients and nothing else. A preset is a column of the table:
a new strategy is a new column.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from flan_train import device_mesh, errors

MESH_AXES = ("dcn", "data", "fsdp", "tensor")
# Those that the rows of a batch are divided over.
BATCH_AXES = ("dcn", "data", "fsdp")

MeshAxes = str | tuple[str, ...] | None

# An activation's embed axis is named apart from a parameter's: the rows of a batch already take
# the fsdp axis, and an array cannot be split twice over the same devices.
_WHOLE: dict[str, MeshAxes] = {
    "batch": BATCH_AXES,
    "length": None,
    "layers": None,
    "embed": None,
    "activation_embed": None,
    "heads": None,
    "kv": None,
    "mlp": None,
    "vocab": None,
    "buckets": None,
}
_TENSOR: dict[str, MeshAxes] = {"heads": "tensor", "mlp": "tensor", "vocab": "tensor"}

PRESETS: dict[str, dict[str, MeshAxes]] = {
    "data_parallel": _WHOLE,
    "fsdp": {**_WHOLE, "embed": "fsdp"},
    "tensor": {**_WHOLE, **_TENSOR},
    "fsdp_tensor": {**_WHOLE, **_TENSOR, "embed": "fsdp"},
}


@gin.register(module="flan_train.sharding")
@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """How the devices are used.

    Attributes:
      preset: a column of PRESETS.
      num_partitions: in the tensor presets, devices that share each layer's width (the `tensor`
        mesh axis), the others going to `data` or `fsdp`; in fsdp, devices that share one copy of
        the parameters, 1 standing for all of a slice.
      cut_products: on TPUs, whether products with gathered weights are cut into pieces that travel
        while others are multiplied (XLA's windowed products).
      num_slices: slices that train together; a TPU slice is what one interconnect joins, elsewhere
        an equal part of the processes.

    Raises:
      UserError: a field is of another type, or a number below 1.
    """

    preset: str = "data_parallel"
    num_partitions: int = 1
    num_slices: int = 1
    cut_products: bool = False

    def __post_init__(self) -> None:
        # Whether the preset exists and suits the devices is found where a mesh is made of it.
        errors.check_text("SHARDING_PRESET", self.preset)
        errors.check_number("NUM_PARTITIONS", self.num_partitions, whole=True, minimum=1)
        errors.check_flag("ShardingConfig.cut_products", self.cut_products)
        errors.check_number("NUM_SLICES", self.num_slices, whole=True, minimum=1)


def mesh_shape(config: ShardingConfig, count: int) -> tuple[int, int, int, int]:
    """Returns the sizes of the mesh axes ("dcn", "data", "fsdp", "tensor") over `count` devices.

    For 8 devices of one slice: data_parallel is 1 x 8 x 1 x 1; fsdp 1 x 1 x 8 x 1, and with
    num_partitions=4 1 x 2 x 4 x 1; tensor with num_partitions=4 1 x 2 x 1 x 4; fsdp_tensor with
    num_partitions=2 1 x 1 x 4 x 2, and with num_slices=2 2 x 1 x 2 x 2.

    Raises:
      UserError: unknown preset, or num_partitions or num_slices that does not suit the preset or
        the devices.
    """
    if config.preset not in PRESETS:
        raise errors.unknown_name("sharding preset", config.preset, PRESETS)
    slices = config.num_slices
    if count % slices:
        raise errors.UserError(
            f"{count} device{'s' * (count > 1)} cannot be divided into {slices} equal slices",
            where="NUM_SLICES",
            expected=f"one of {', '.join(str(d) for d in _divisors(count))}",
            fix="set NUM_SLICES to the number of slices that the devices are of",
        )
    count //= slices
    partitions = config.num_partitions
    if partitions < 1 or count % partitions:
        raise errors.UserError(
            f"{count} device{'s' * (count > 1)} cannot be divided into groups of {partitions}",
            where="NUM_PARTITIONS",
            expected=f"one of {', '.join(str(d) for d in _divisors(count))}",
            fix="set NUM_PARTITIONS to a divisor of the number of devices",
        )
    rest = count // partitions
    if config.preset == "data_parallel" and partitions > 1:
        raise errors.UserError(
            f"the preset 'data_parallel' splits nothing, but NUM_PARTITIONS is {partitions}",
            where="SHARDING_PRESET, NUM_PARTITIONS",
            expected="NUM_PARTITIONS = 1, or a preset that splits the parameters",
            fix=f"use one of {', '.join(name for name in PRESETS if name != 'data_parallel')}, "
            "or set NUM_PARTITIONS = 1",
        )
    return {
        "data_parallel": (slices, count, 1, 1),
        "fsdp": (slices, rest, partitions, 1) if partitions > 1 else (slices, 1, count, 1),
        "tensor": (slices, rest, 1, partitions),
        "fsdp_tensor": (slices, 1, rest, partitions),
    }[config.preset]


def make_mesh(config: ShardingConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of `mesh_shape` over all devices, or those given.

    Args:
      config: how they are used.
      devices: those of this machine, or of a topology that programs are compiled for.

    Raises:
      UserError: as `mesh_shape`, or the devices are of another number of slices.
    """
    given = list(jax.devices() if devices is None else devices)
    return Mesh(device_mesh.arranged(mesh_shape(config, len(given)), given), MESH_AXES)


class Partitioner:
    """Turns logical axis names into shardings on one mesh by one column of the table."""

    def __init__(self, mesh: Mesh | AbstractMesh, preset: str) -> None:
        if preset not in PRESETS:
            raise errors.unknown_name("sharding preset", preset, PRESETS)
        self.mesh = mesh
        self.preset = preset
        self.rules: Mapping[str, MeshAxes] = PRESETS[preset]
        self._host_rows: dict[tuple[int, int], np.ndarray] = {}

    def spec(
        self, axes: Sequence[str | None], shape: Sequence[int], *, what: str, activation: bool
    ) -> PartitionSpec:
        """Returns the partition of an array with these logical axes and this shape.

        Mesh axes of size one are left out, so that a preset on one device is the plain program.

        Args:
          axes: one logical axis name (or None: whole) a dimension.
          shape: the array's shape.
          what: the array's name, for messages.
          activation: whether names are looked up as those of an activation.

        Raises:
          UserError: a dimension that does not divide over its mesh axis.
          ValueError: an unknown axis name, a wrong number of them, or two on one mesh axis.
        """
        if len(axes) != len(shape):
            raise ValueError(f"{what}: {len(axes)} axis names {axes} for shape {tuple(shape)}")
        taken: dict[str, str] = {}
        entries: list[MeshAxes] = []
        for name, size in zip(axes, shape, strict=True):
            over = self.mesh_axes_of(name, activation, what)
            for mesh_axis in over:
                if mesh_axis in taken:
                    raise ValueError(
                        f"{what}: the logical axes '{taken[mesh_axis]}' and '{name}' both land on "
                        f"the mesh axis '{mesh_axis}' in preset '{self.preset}'"
                    )
                taken[mesh_axis] = str(name)
            over = tuple(axis for axis in over if self.mesh.shape[axis] > 1)
            parts = math.prod(self.mesh.shape[axis] for axis in over)
            if size % parts:
                raise _does_not_divide(what, str(name), size, over, parts)
            entries.append(over[0] if len(over) == 1 else over or None)
        return PartitionSpec(*entries)

    @property
    def constrain(self) -> Constrainer:
        """How a model's layers place their activations on this mesh."""
        return Constrainer(self)

    def param_shardings(self, axes_tree: Any, shapes_tree: Any) -> Any:
        """Returns the tree of NamedSharding for a tree of parameters or of optimizer state.

        Args:
          axes_tree: tuples of logical axis names, at the places of `shapes_tree`'s leaves.
          shapes_tree: anything with a `shape` (arrays or ShapeDtypeStruct).

        Raises:
          UserError: a dimension that does not divide over its mesh axis; both are named.
          ValueError: two logical axes of one array on one mesh axis.
        """
        leaves: list[Any]
        structure: Any
        leaves, structure = jax.tree_util.tree_flatten_with_path(shapes_tree)
        axes = structure.flatten_up_to(axes_tree)
        return structure.unflatten(
            NamedSharding(
                self.mesh,
                self.spec(names, leaf.shape, what=path_name(path), activation=False),
            )
            for (path, leaf), names in zip(leaves, axes, strict=True)
        )

    def batch_sharding(self) -> NamedSharding:
        """Returns the sharding of a [batch, length] array: rows over BATCH_AXES."""
        return NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))

    def replicated(self) -> NamedSharding:
        """Returns the sharding of an array that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_parts(self) -> int:
        """The number of parts the rows of a batch are divided into."""
        return math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)

    def describe(self) -> str:
        """Returns the devices, the preset and the mesh in words."""
        slices = self.mesh.shape["dcn"] > 1
        mesh = " x ".join(
            f"{name} {size}" for name, size in self.mesh.shape.items() if name != "dcn" or slices
        )
        plural = "devices" if self.mesh.size > 1 else "device"
        return f"{self.mesh.size} {plural}, preset {self.preset}: {mesh}"

    def host_rows(self, batch_size: int, process: int | None = None) -> np.ndarray:
        """Returns which rows of a batch a process reads, int64, ascending.

        They need not be neighbours: a mesh follows the interconnect, not the processes. Processes
        that share rows (their devices split layers, not the batch) get the same ones.

        Args:
          batch_size: rows of the global batch.
          process: its number; None for this one.
        """
        mine = jax.process_index() if process is None else process
        if (batch_size, mine) in self._host_rows:  # asked in every step, of thousands of devices
            return self._host_rows[batch_size, mine]
        indices: Mapping[Any, Any] = self.batch_sharding().devices_indices_map((batch_size, 1))
        rows = {
            row
            for device, index in indices.items()
            if device.process_index == mine and index is not None
            for row in range(*index[0].indices(batch_size))
        }
        found = self._host_rows[batch_size, mine] = np.array(sorted(rows), np.int64)
        return found

    def put_rows(self, rows: np.ndarray, batch_size: int) -> jax.Array:
        """Returns a global array [batch_size, ...] of which each process gives its `host_rows`."""
        there = self.host_rows(batch_size)
        if len(rows) != len(there):
            raise ValueError(f"{len(rows)} rows given, but this process holds {len(there)}")

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            first, last, _ = index[0].indices(batch_size)
            return rows[slice(*np.searchsorted(there, [first, last]))]

        return jax.make_array_from_callback(
            (batch_size, *rows.shape[1:]), self.batch_sharding(), part
        )

    def check_batch_size(self, batch_size: int, num_microbatches: int = 1) -> None:
        """Raises UserError unless a batch divides over microbatches and devices."""
        parts = self.batch_parts * num_microbatches
        if num_microbatches < 1 or batch_size < 1 or batch_size % parts:
            raise errors.UserError(
                f"a batch of {batch_size} sequences does not divide over {num_microbatches} "
                f"microbatches and {self.batch_parts} groups of devices",
                where="BATCH_SIZE, NUM_MICROBATCHES",
                expected=f"a multiple of {max(parts, 1)}",
                fix=f"for instance BATCH_SIZE = {max(1, round(batch_size / parts)) * parts}"
                if parts > 0
                else "set NUM_MICROBATCHES to 1 or more",
            )

    def mesh_axes_of(self, name: str | None, activation: bool, what: str) -> tuple[str, ...]:
        """Returns the mesh axes that a logical axis is divided over; none for None.

        Raises:
          ValueError: no such logical axis; the message names `what` it was asked for.
        """
        if name is None:
            return ()
        key = f"activation_{name}" if activation and f"activation_{name}" in self.rules else name
        if key not in self.rules:
            raise ValueError(f"{what}: '{name}' is no logical axis; known: {sorted(self.rules)}")
        over = self.rules[key]
        return (over,) if isinstance(over, str) else tuple(over or ())


@dataclasses.dataclass(frozen=True)
class Constrainer:
    """What the layers of a model know of a mesh (`models.layers.Constrain`)."""

    partitioner: Partitioner

    @property
    def platform(self) -> str:
        """What the mesh's devices are: "tpu", "gpu" or "cpu"."""
        mesh = self.partitioner.mesh
        if isinstance(mesh, AbstractMesh):
            return jax.default_backend()
        return str(mesh.devices.flat[0].platform)

    def __call__(self, x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        """Returns activation `x` with its sharding pinned to what the table says of `axes`."""
        if self.partitioner.mesh.size == 1:
            return x
        sharding = NamedSharding(self.partitioner.mesh, self._spec(axes, x.shape))
        return jax.lax.with_sharding_constraint(x, sharding)

    def parts(self, axis: str) -> int:
        """Returns the number of parts that an activation's logical axis is divided into."""
        over = self.partitioner.mesh_axes_of(axis, True, "activation")
        return math.prod(self.partitioner.mesh.shape[name] for name in over)

    def per_shard(
        self,
        function: Callable[..., jax.Array],
        operands: Sequence[tuple[str | None, ...] | None],
        result: tuple[str | None, ...],
    ) -> Callable[..., jax.Array]:
        """Returns `function` run by every device on its own parts of the operands.

        Where an operand is copied its gradients are summed.

        Args:
          function: of as many arrays as `operands`, to one array.
          operands: the logical axes of each; None for an operand that is None.
          result: the logical axes of what it returns.

        Raises:
          UserError: a dimension that does not divide over its mesh axis, when called.
        """
        if self.partitioner.mesh.size == 1:
            return function

        def call(*given: jax.Array | None) -> jax.Array:
            specs = tuple(
                None if axes is None or x is None else self._spec(axes, x.shape)
                for axes, x in zip(operands, given, strict=True)
            )
            shape = jax.eval_shape(function, *given).shape
            mapped = jax.shard_map(
                function,
                mesh=self.partitioner.mesh,
                in_specs=specs,
                out_specs=self._spec(result, shape),
                check_vma=False,
            )
            return mapped(*given)

        return call

    def _spec(self, axes: tuple[str | None, ...], shape: Sequence[int]) -> PartitionSpec:
        return self.partitioner.spec(axes, shape, what="activation", activation=True)


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a leaf's tree path as text, "encoder/layers/mlp/wo/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _does_not_divide(
    what: str, name: str, size: int, over: tuple[str, ...], parts: int
) -> errors.UserError:
    mesh_axes = " x ".join(over)
    setting = "BATCH_SIZE" if name == "batch" else "NUM_PARTITIONS"
    return errors.UserError(
        f"the axis '{name}' of size {size} cannot be divided over the mesh axis '{mesh_axes}' "
        f"of size {parts}",
        where=what,
        expected=f"'{name}' a multiple of {parts}",
        fix=f"change {setting} (sizes that divide: "
        f"{', '.join(str(d) for d in _divisors(size)[:8])}) or choose another sharding preset",
    )


def _divisors(count: int) -> list[int]:
    return [d for d in range(1, count + 1) if count % d == 0]
