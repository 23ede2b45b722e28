"""What the makers publish of each chip, and how a topology is written; nothing here needs JAX.

Sources, per chip:
  compute, memory, network: https://cloud.google.com/tpu/docs/v4, .../v5e, .../v5p, .../v6e
  one link, one direction: "How to Scale Your Model", chapter on TPUs, table of chips,
    https://jax-ml.github.io/scaling-book/tpus
  usable memory: what libtpu 0.0.42 says is available when a program does not fit.
"""

from __future__ import annotations

import dataclasses
import math
import re

from flan_train.errors import UserError

GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip; a device of JAX is a whole chip in all of them.

    Attributes:
      name: as topologies begin.
      flops: peak of bfloat16 matrix multiplication, operations a second.
      hbm_rate: bytes a second of main memory.
      hbm_bytes: main memory that a program can use; None where it is not limited by the chip.
      link_rate: bytes a second of one interconnect link in one direction.
      dimensions: of the torus that the links make.
      wraps_at: a side is closed to a ring when this divides it; of three dimensions all sides are,
        or none (`plan_collectives.Network.closed`).
      dcn_rate: bytes a second and chip of the data centre's network.
      config: the compiler's name of the configuration that makes a chip one device.
      source: where the figures are published.
    """

    name: str
    flops: float
    hbm_rate: float
    hbm_bytes: float | None
    link_rate: float
    dimensions: int
    wraps_at: int
    dcn_rate: float
    config: str | None
    source: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            "v4", 275e12, 1.2e12, 30.75 * GIB, 45e9, 3, 4, 6.25e9, "megacore",
            "cloud.google.com/tpu/docs/v4: 275 TFLOP/s, 32 GiB, 1,200 GB/s",
        ),
        Chip(
            "v5e", 197e12, 0.8e12, 15.75 * GIB, 45e9, 2, 16, 3.125e9, None,
            "cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 800 GB/s, links 1,600 Gbit/s a "
            "chip, network 6.4 Tbit/s a pod of 256",
        ),
        Chip(
            "v5p", 459e12, 2.765e12, 95.74 * GIB, 90e9, 3, 4, 6.25e9, None,
            "cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2,765 GB/s, links 1,200 GB/s a "
            "chip in both directions, network 50 Gbit/s a chip",
        ),
        Chip(
            "v6e", 918e12, 1.6e12, 31.25 * GIB, 90e9, 2, 16, 12.5e9, None,
            "cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB, 1,600 GB/s, links 3,200 Gbit/s a "
            "chip, network 25.6 Tbit/s a pod of 256",
        ),
        # No maker stands behind these: round numbers that make plans of one machine comparable.
        Chip(
            "cpu", 1e11, 2e10, None, 1e10, 1, 1, 1e9, None,
            "nominal: 100 GFLOP/s, 20 GB/s, 10 GB/s between devices",
        ),
    )
}  # fmt: skip

FORMS = (
    "v4:XxYxZ such as v4:4x4x4, v5p:XxYxZ such as v5p:2x2x2, v5e:XxY such as v5e:4x4, v6e:XxY such "
    "as v6e:8x8, or cpu:N such as cpu:8"
)
_MOST_DEVICES = 65536


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that a program is compiled for, here or absent.

    Attributes:
      name: "v4:4x4x4" or "cpu:8".
      chip: their kind.
      sides: chips along each dimension of one slice.
      slices: how many slices of that shape the data centre's network joins.
    """

    name: str
    chip: Chip
    sides: tuple[int, ...]
    slices: int = 1

    @property
    def devices(self) -> int:
        """Devices of all slices."""
        return math.prod(self.sides) * self.slices

    @property
    def is_tpu(self) -> bool:
        """Whether the TPU compiler is needed."""
        return self.chip.name != "cpu"

    def describe(self) -> str:
        """Returns the topology in words."""
        slices = f" in {self.slices} slices" if self.slices > 1 else ""
        each = f" of {self.chip.hbm_bytes / GIB:.2f} GiB" if self.chip.hbm_bytes else ""
        return f"{self.name}: {self.devices} devices{each}{slices}"


def parse(name: str, slices: int = 1) -> Topology:
    """Returns the topology of a name such as "v4:4x4x4".

    Raises:
      UserError: the name is of another form, or too large.
    """
    kind, _, shape = name.partition(":")
    sides = tuple(int(side) for side in shape.split("x")) if _is_shape(shape) else ()
    chip = CHIPS.get(kind)
    if chip is None or len(sides) != chip.dimensions or min(sides) < 1:
        raise UserError(
            f"'{name}' is no topology", where="--topology", expected=FORMS, fix="name one of these"
        )
    if slices < 1 or math.prod(sides) * slices > _MOST_DEVICES:
        slices_of = "" if slices == 1 else f"{slices} slices of "
        raise UserError(
            f"{slices_of}{name} would be {math.prod(sides) * slices:,} devices",
            where="--topology, --slices",
            expected=f"1 to {_MOST_DEVICES:,} devices in all",
        )
    return Topology(name, chip, sides, slices)


def _is_shape(text: str) -> bool:
    return re.fullmatch(r"\d{1,5}(x\d{1,5})*", text) is not None
