"""The device mesh and ONE table from logical axis to mesh axis; it knows axis names, never layers.

Mesh axes: `data` (copies of the parameters, different rows of the batch), `fsdp` (different rows
of the batch, parameters split and gathered when used), `tensor` (the same rows, every layer's
width split). A preset is a column of the table: a new strategy is a new column.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from flan_train import errors

MESH_AXES = ("data", "fsdp", "tensor")

MeshAxes = str | tuple[str, ...] | None

# An activation's embed axis is named apart from a parameter's: the rows of a batch already take
# the fsdp axis, and an array cannot be split twice over the same devices.
_WHOLE: dict[str, MeshAxes] = {
    "batch": ("data", "fsdp"),
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
        the parameters, 1 standing for all.

    Raises:
      UserError: a field is of another type, or num_partitions below 1.
    """

    preset: str = "data_parallel"
    num_partitions: int = 1

    def __post_init__(self) -> None:
        # Whether the preset exists and suits the devices is found where a mesh is made of it.
        errors.check_text("SHARDING_PRESET", self.preset)
        errors.check_number("NUM_PARTITIONS", self.num_partitions, whole=True, minimum=1)


def mesh_shape(config: ShardingConfig, count: int) -> tuple[int, int, int]:
    """Returns the sizes of the mesh axes ("data", "fsdp", "tensor") over `count` devices.

    For 8 devices: data_parallel is 8 x 1 x 1; fsdp 1 x 8 x 1, and with num_partitions=4 2 x 4 x 1;
    tensor with num_partitions=4 2 x 1 x 4; fsdp_tensor with num_partitions=2 1 x 4 x 2.

    Raises:
      UserError: unknown preset, or num_partitions that does not suit the preset or the devices.
    """
    if config.preset not in PRESETS:
        raise errors.unknown_name("sharding preset", config.preset, PRESETS)
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
        "data_parallel": (count, 1, 1),
        "fsdp": (rest, partitions, 1) if partitions > 1 else (1, count, 1),
        "tensor": (rest, 1, partitions),
        "fsdp_tensor": (1, rest, partitions),
    }[config.preset]


def make_mesh(config: ShardingConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of `mesh_shape` over all devices, or those given; raises as that does."""
    given = list(jax.devices() if devices is None else devices)
    shape = mesh_shape(config, len(given))
    if devices is None:
        # Lets JAX order the devices along the machine's own interconnect.
        return jax.make_mesh(
            shape, MESH_AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(MESH_AXES)
        )
    return Mesh(np.array(given, dtype=object).reshape(shape), MESH_AXES)


class Partitioner:
    """Turns logical axis names into shardings on one mesh by one column of the table."""

    def __init__(self, mesh: Mesh | AbstractMesh, preset: str) -> None:
        if preset not in PRESETS:
            raise errors.unknown_name("sharding preset", preset, PRESETS)
        self.mesh = mesh
        self.preset = preset
        self.rules: Mapping[str, MeshAxes] = PRESETS[preset]

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
            over = self._mesh_axes(name, activation, what)
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

    def constrain(self, x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
        """Returns activation `x` with its sharding pinned to what the table says of `axes`."""
        if self.mesh.size == 1:
            return x
        spec = self.spec(axes, x.shape, what="activation", activation=True)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

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
        """Returns the sharding of a [batch, length] array: rows over `data` and `fsdp`."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    def replicated(self) -> NamedSharding:
        """Returns the sharding of an array that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_parts(self) -> int:
        """The number of parts the rows of a batch are divided into."""
        return int(self.mesh.shape["data"] * self.mesh.shape["fsdp"])

    def describe(self) -> str:
        """Returns the devices, the preset and the mesh in words."""
        mesh = " x ".join(f"{name} {size}" for name, size in self.mesh.shape.items())
        plural = "devices" if self.mesh.size > 1 else "device"
        return f"{self.mesh.size} {plural}, preset {self.preset}: {mesh}"

    def host_part(self, batch_size: int) -> tuple[int, int]:
        """Returns (part, number of parts): which equal part of a batch's rows this host reads.

        Hosts that share rows (their devices split layers, not the batch) get the same part.
        """
        rows = {
            (index[0].start or 0, index[0].stop or batch_size)
            for index in self.batch_sharding()
            .addressable_devices_indices_map((batch_size, 1))
            .values()
            if index is not None
        }
        first, last = min(start for start, _ in rows), max(stop for _, stop in rows)
        count = last - first
        if sum(stop - start for start, stop in rows) != count or first % count:
            raise ValueError(f"the rows of this host are not one equal part of the batch: {rows}")
        return first // count, batch_size // count

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

    def _mesh_axes(self, name: str | None, activation: bool, what: str) -> tuple[str, ...]:
        if name is None:
            return ()
        key = f"activation_{name}" if activation and f"activation_{name}" in self.rules else name
        if key not in self.rules:
            raise ValueError(f"{what}: '{name}' is no logical axis; known: {sorted(self.rules)}")
        over = self.rules[key]
        return (over,) if isinstance(over, str) else tuple(over or ())


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
