"""The collectives of a compiled module: kind, size, the mesh axes they run over, and their time.

Devices are numbered by their place in the mesh, the last axis fastest. A group of them stands for
the axes along which its members differ. A program for several slices numbers those of one slice,
and hands to its host what goes to another one.

Time follows the bandwidth of the links alone, without latency: over n devices with W bytes a second
in all directions of the rings together, an array of s bytes takes s (n - 1) / (n W) to gather or to
scatter a sum, twice that to sum, and a quarter of n times its part's s / W to exchange all parts.
Source: "How to Scale Your Model", chapter on sharding, https://jax-ml.github.io/scaling-book/sharding
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flan_train.plan_chips import Chip
from flan_train.plan_hlo import Instruction, Module
from flan_train.plan_loops import Run

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_ACROSS = re.compile(r'_xla_host_transfer_rendezvous="([a-z-]+)')
_ENDED = 'custom_call_target="AsyncCollectiveDone"'
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"mesh\[([^\]]*)\](?:,\s*device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{(.*)\}"
)
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


class Collective(NamedTuple):
    """Equal collectives of a step, added up.

    Attributes:
      kind: one of KINDS.
      axes: mesh axes, joined by " x "; "part of ..." where a group is not all of them.
      devices: of one group.
      times: how many a step.
      bytes: a step and device: of all-gather the whole result, else of what is given in.
      seconds: by the links' bandwidth, if nothing else ran.
    """

    kind: str
    axes: str
    devices: int
    times: int
    bytes: float
    seconds: float


class Network(NamedTuple):
    """What groups of devices are measured against.

    Attributes:
      mesh: sizes of the mesh axes, in order.
      places: [devices, dimensions] where each device stands in its slice, in the mesh's order.
      slices: [devices] which slice it is in.
      sides: devices of a slice along each dimension.
      chip: the figures of the links.
    """

    mesh: Mapping[str, int]
    places: np.ndarray
    slices: np.ndarray
    sides: Sequence[int]
    chip: Chip

    def axes(self, groups: Iterable[Sequence[int]], *, pairs: bool = False) -> str:
        """Returns the mesh axes that the members of the groups differ along."""
        sizes = tuple(self.mesh.values())
        found: set[int] = set()
        whole = True
        for group in groups:
            places = np.array(np.unravel_index(np.asarray(group), sizes))
            differ = [axis for axis in range(len(sizes)) if len(set(places[axis])) > 1]
            whole &= math.prod(sizes[axis] for axis in differ) == len(group)
            found.update(differ)
        names = " x ".join(name for axis, name in enumerate(self.mesh) if axis in found)
        return names if whole or pairs or not names else f"part of {names}"

    def rate(self, group: Sequence[int]) -> float:
        """Returns bytes a second that a device of the group can send on all its links together."""
        members = np.asarray(group)
        if len(set(self.slices[members])) > 1:
            return self.chip.dcn_rate
        rate = 0.0
        for dimension, side in enumerate(self.sides):
            along = len(set(self.places[members, dimension]))
            if along > 1:
                # Two neighbours share one link; a line is as fast as the chips at its ends.
                ring = along == side > 2 and self.closed(dimension)
                rate += self.chip.link_rate * (2 if ring else 1)
        return rate or self.chip.link_rate

    def closed(self, dimension: int) -> bool:
        """Returns whether the links of a dimension come back to where they began.

        A slice of three-dimensional chips is a torus only if every side is a multiple of 4, and a
        mesh else; a side of two-dimensional ones is closed by itself. Source: "TPU v4", 3D mesh and
        3D torus, https://cloud.google.com/tpu/docs/v4
        """
        sides = self.sides if self.chip.dimensions == 3 else [self.sides[dimension]]
        return not any(side % self.chip.wraps_at for side in sides)


def collectives(module: Module, runs: Iterable[Run], network: Network) -> list[Collective]:
    """Returns the collectives of a module by kind and axes, the longest first.

    Args:
      module: what was compiled.
      runs: its instructions, with how often each runs.
      network: the devices and their links.
    """
    found: dict[tuple[str, str, int], list[float]] = {}
    for run in runs:
        for kind, one in _inside(module, run.instruction):
            if one.opcode == "send":
                sent = next(one.shape.arrays())
                members, moved = len(set(network.slices)), sent.elements * sent.bits / 8
                total = found.setdefault((kind, "dcn", members), [0, 0.0, 0.0])
                total[0] += run.times
                total[1] += run.times * moved
                total[2] += run.times * moved / network.chip.dcn_rate
                continue
            groups = _groups(one, int(np.prod(list(network.mesh.values()))))
            members = max((len(group) for group in groups), default=0)
            if members < 2:
                continue
            size = _payload(kind, one)
            key = (kind, network.axes(groups, pairs=kind == "collective-permute"), members)
            total = found.setdefault(key, [0, 0.0, 0.0])
            total[0] += run.times
            total[1] += run.times * size
            rate = min(network.rate(group) for group in groups[:64])
            total[2] += run.times * _seconds(kind, size, members, rate)
    rows = [
        Collective(kind, axes, members, int(count), size, seconds)
        for (kind, axes, members), (count, size, seconds) in found.items()
    ]
    return sorted(rows, key=lambda row: -row.seconds)


def groups_of(text: str, devices: int) -> list[list[int]]:
    """Returns the groups of device numbers that a `replica_groups` attribute stands for.

    Args:
      text: `{{0,2},{1,3}}`, `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)` or `mesh['a'=2,'b'=2] {'a'}`; "{}"
        for all devices in one group.
      devices: how many there are.

    Raises:
      ValueError: it is of another form.
    """
    if found := _IOTA.fullmatch(text):
        shape, source = _sizes(found[1]), _sizes(found[2])
        numbers = np.arange(math.prod(source)).reshape(source)
        if found[3]:
            numbers = numbers.transpose(_sizes(found[3]))
        return [list(map(int, row)) for row in numbers.reshape(shape)]
    if found := _MESH.fullmatch(text):
        return _mesh_groups(found)
    if re.fullmatch(r"\{\s*(\{[\d,\s]*\},?\s*)*\}", text):
        rows = [_sizes(row) for row in re.findall(r"\{([\d,\s]+)\}", text[1:-1])]
        return [list(row) for row in rows] or [list(range(devices))]
    raise ValueError(f"no groups of devices: {text[:100]}")


def _mesh_groups(found: re.Match[str]) -> list[list[int]]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
    numbers = np.arange(math.prod(sizes.values()))
    if found[2]:
        numbers = numbers.reshape(_sizes(found[2]))
        if found[3]:
            numbers = numbers.transpose(_sizes(found[3]))
    # An axis may be taken in part: (before)size, the rest after. Then it is cut in three.
    cut: dict[str, list[int]] = {name: [1, size, 1] for name, size in sizes.items()}
    chosen = [name for name, _, _ in _AXIS.findall(found[4])]
    for name, before, size in _AXIS.findall(found[4]):
        if size:
            cut[name] = [int(before), int(size), sizes[name] // (int(before) * int(size))]
    shape = [part for name in sizes for part in cut[name]]
    places = [3 * list(sizes).index(name) + 1 for name in chosen]
    others = [place for place in range(len(shape)) if place not in places]
    members = math.prod(shape[place] for place in places)
    ordered = numbers.reshape(shape).transpose([*others, *places]).reshape(-1, members)
    return [list(map(int, row)) for row in ordered]


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def _inside(module: Module, one: Instruction) -> Iterable[tuple[str, Instruction]]:
    """The collectives that one instruction starts: itself, or what a fusion of it holds."""
    kind = one.opcode.removesuffix("-start")
    if kind in KINDS:
        yield kind, one
    elif one.opcode == "send" and (across := _ACROSS.search(one.attributes)):
        # Between slices the hosts carry the data; its name is of what it is a part of.
        yield across[1], one
    elif one.opcode in ("fusion", "async-start"):
        for name in one.called:
            inside = module.computations[name].instructions.values()
            if "async_collective" in name or any(_ENDED in inner.attributes for inner in inside):
                continue  # it goes on with, or ends, what another fusion has started
            for inner in inside:
                for found, item in _inside(module, inner):
                    scattered = found == "all-reduce" and "all-reduce-scatter" in name
                    yield ("reduce-scatter" if scattered else found), item


def _groups(one: Instruction, devices: int) -> list[list[int]]:
    pairs = one.attribute("source_target_pairs")
    if pairs:
        numbers = [int(number) for number in re.findall(r"\d+", pairs)]
        both = list(zip(numbers[::2], numbers[1::2], strict=True))
        return [[source, target] for source, target in both if source != target]
    # The commas of a mesh's form stand outside of its brackets.
    mesh = re.search(r"replica_groups=(mesh\[[^{]*\{[^}]*\})", one.attributes)
    return groups_of(mesh[1] if mesh else one.attribute("replica_groups"), devices)


def _payload(kind: str, one: Instruction) -> float:
    """Bytes without padding of the whole array that moves, on one device."""
    arrays = [shape for shape in one.shape.arrays() if shape.elements > 1 or shape.space != 2]
    sizes = [shape.elements * shape.bits / 8 for shape in arrays]
    if one.opcode == "all-gather-start":
        return sum(sizes[len(sizes) // 2 :])
    if one.opcode == "collective-permute-start":
        return sizes[0]
    if kind == "reduce-scatter" and one.opcode == "reduce-scatter":
        members = max(len(group) for group in _groups(one, 1))
        return sum(sizes) * members
    return sum(sizes)


def _seconds(kind: str, size: float, members: int, rate: float) -> float:
    share = (members - 1) / members
    return {
        "all-gather": size * share,
        "reduce-scatter": size * share,
        "all-reduce": 2 * size * share,
        "all-to-all": size * members / 4 if members > 2 else size / 2,
        "ragged-all-to-all": size * members / 4 if members > 2 else size / 2,
        "collective-permute": size,
        "collective-broadcast": size,
    }[kind] / rate


def as_rows(found: Iterable[Collective]) -> list[dict[str, Any]]:
    """Returns the collectives as plain JSON values."""
    return [row._asdict() for row in found]
