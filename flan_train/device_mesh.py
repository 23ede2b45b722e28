"""Which device stands where in a mesh: neighbours in the mesh are neighbours in the machine.

Inside a slice (the chips that one interconnect joins) the order follows the interconnect. Slices
are joined by the data centre's network alone, and stand apart on the mesh's first axis.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from flan_train import errors

log = logging.getLogger(__name__)


def arranged(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    """Returns the devices as an array of this shape, slices along its first axis.

    On TPUs a slice is what the machine calls one. Elsewhere the processes are cut into as many
    equal runs; one process alone is cut as well, so that a mesh of slices can be tried on it.

    Args:
      shape: sizes of the mesh axes, the first one the number of slices.
      devices: of the running machine, or of a topology that is not here; as many as `shape` holds.

    Raises:
      UserError: the devices are of another number of slices, or a process would lie in two.
    """
    parts = _slices(shape[0], devices)
    return np.stack([_one_slice(tuple(shape[1:]), part) for part in parts])


def _slices(count: int, devices: Sequence[Any]) -> list[list[Any]]:
    real = {_slice_of(device) for device in devices}
    if devices[0].platform == "tpu" and len(real) != count:
        raise errors.UserError(
            f"NUM_SLICES is {count}, but the {len(devices)} devices are of {len(real)} "
            f"slice{'s' * (len(real) > 1)}",
            where="NUM_SLICES",
            expected=f"{len(real)}, the number of slices that were asked for",
            fix=f"set NUM_SLICES = {len(real)}",
        )
    if count == 1:
        return [list(devices)]
    ordered = sorted(devices, key=lambda d: (_slice_of(d), d.process_index, d.id))
    size = len(ordered) // count
    parts = [ordered[index * size : (index + 1) * size] for index in range(count)]
    processes = [{device.process_index for device in part} for part in parts]
    number = len(set.union(*processes))
    if number > 1 and sum(map(len, processes)) > number:
        raise errors.UserError(
            f"{number} processes cannot be cut into {count} equal slices",
            where="NUM_SLICES",
            expected="a number of slices that divides the number of processes",
            fix="set NUM_SLICES to a divisor of the number of processes",
        )
    return parts


def _slice_of(device: Any) -> int:
    # Absent from processors, and from a topology of one slice.
    return int(getattr(device, "slice_index", None) or 0)


def _one_slice(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    # A mesh axis that takes a part of one of the torus' axes is better than none.
    for split in (False, True):
        try:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=split)
        except (NotImplementedError, ValueError, AssertionError) as error:
            reason = str(error)
    log.warning(
        "no mesh of %s follows the interconnect of these %d devices, which are taken by number: %s",
        " x ".join(map(str, shape)),
        math.prod(shape),
        reason.splitlines()[0][:200] if reason else "they fill no block of it",
    )
    return np.array(sorted(devices, key=lambda device: device.id), dtype=object).reshape(shape)
