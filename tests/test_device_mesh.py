"""Meshes along the interconnect, and slices; for TPUs that are not there where libtpu is."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import device_mesh, errors, sharding
from flan_train.sharding import Partitioner, ShardingConfig


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as an order needs."""

    id: int
    process_index: int
    slice_index: int | None = None
    platform: str = "gpu"
    device_kind: str = "any"


def numbers(shape: tuple[int, ...], devices: list[Device]) -> list[Any]:
    return np.vectorize(lambda device: device.id)(device_mesh.arranged(shape, devices)).tolist()


def test_slices_of_processes_stand_apart() -> None:
    devices = [Device(number, number // 2) for number in range(8)]
    assert numbers((1, 2, 4, 1), devices) == [[[[0], [1], [2], [3]], [[4], [5], [6], [7]]]]
    assert numbers((2, 4, 1, 1), devices[::-1]) == [
        [[[0]], [[1]], [[2]], [[3]]],
        [[[4]], [[5]], [[6]], [[7]]],
    ]
    assert np.shape(numbers((4, 1, 2, 1), devices)) == (4, 1, 2, 1)


def test_machines_that_name_slices_are_grouped_by_them() -> None:
    # As NVIDIA's do: what one NVLink joins; here every second device.
    devices = [Device(number, number % 2, slice_index=number % 2) for number in range(4)]
    assert numbers((2, 2, 1, 1), devices) == [[[[0]], [[2]]], [[[1]], [[3]]]]
    assert numbers((1, 4, 1, 1), devices) == [[[[0]], [[1]], [[2]], [[3]]]]


def test_processes_are_not_torn() -> None:
    with pytest.raises(errors.UserError, match="3 processes cannot be cut into 2 equal slices"):
        numbers((2, 3, 1, 1), [Device(number, number // 2) for number in range(6)])


def test_a_tpu_knows_its_slices() -> None:
    devices = [Device(number, number, slice_index=number // 2, platform="tpu") for number in (0, 3)]
    for count in (1, 3):
        with pytest.raises(errors.UserError, match="the 2 devices are of 2 slices") as caught:
            device_mesh.arranged((count, 2, 1, 1), devices)
        assert "NUM_SLICES = 2" in caught.value.fix


@pytest.mark.parametrize("preset", ["data_parallel", "fsdp", "tensor", "fsdp_tensor"])
def test_parameters_are_copied_over_slices_and_rows_are_not(preset: str) -> None:
    config = ShardingConfig(preset, 1 if preset == "data_parallel" else 2, num_slices=2)
    on = Partitioner(sharding.make_mesh(config), preset)
    assert on.mesh.shape["dcn"] == 2
    assert "dcn 2 x" in on.describe()
    kernel = jax.ShapeDtypeStruct((16, 32), np.float32)
    spec = on.param_shardings({"kernel": ("embed", "mlp")}, {"kernel": kernel})["kernel"].spec
    assert "dcn" not in [axis for entry in spec for axis in np.atleast_1d(entry)]
    rows = on.put_rows(np.arange(16.0).reshape(8, 2), 8)
    halves = [
        {shard.device for shard in rows.addressable_shards if shard.index[0].start in part}
        for part in ((None, 0, 1, 2, 3), (4, 5, 6, 7))
    ]
    assert [set(part.flat) for part in on.mesh.devices] == halves
    np.testing.assert_array_equal(rows, np.arange(16.0).reshape(8, 2))


def test_slices_that_do_not_divide_the_devices() -> None:
    with pytest.raises(errors.UserError, match="8 devices cannot be divided into 3 equal slices"):
        sharding.make_mesh(ShardingConfig(num_slices=3))
    with pytest.raises(errors.UserError, match="NUM_SLICES"):
        ShardingConfig(num_slices=0)


needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the compiler for TPUs, is not installed: pip install 'flan-train[tpu]'",
)


def on_tpus(repository: pathlib.Path, *steps: str) -> dict[str, Any]:
    """What a process of its own found: libtpu stays once it is loaded."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.meshes_for_tpu", *steps],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_step(step: dict[str, Any]) -> None:
    """Slices send each other sums, of gradients once and of scalars, and nothing else."""
    assert step["between"]
    assert all(each["kind"] == "ALL_REDUCE" and each["sum"] for each in step["between"])
    # A device's own part of the gradient: what is copied within a slice is summed there first, and
    # each of the copies sends its share of the sum.
    sent = sum(each["elements"] for each in step["between"])
    assert 0.9 * step["part"] / step["copies"] < sent < 1.2 * step["part"]


@needs_tpu_compiler
def test_meshes_and_slices_of_real_topologies(repository: pathlib.Path) -> None:
    found = on_tpus(repository, "small")
    for name, case in found["rows"].items():
        hosts = case["rows"]
        assert len({len(rows) for rows in hosts}) == 1, name
        assert set(itertools.chain(*hosts)) == set(range(case["batch"])), name
    # The order follows the interconnect: a host's rows need not be neighbours.
    assert found["rows"]["v4 fsdp"]["mesh"] == [1, 1, 64, 1]
    assert np.diff(found["rows"]["v4 fsdp"]["rows"][0]).max() > 1
    assert found["rows"]["v4 fsdp_tensor 8"]["mesh"] == [1, 1, 8, 8]
    assert found["rows"]["v4 two slices"]["slices"] == [[0], [1]]
    assert "the 8 devices are of 2 slices" in found["refused"]
    check_step(found["steps"]["small"])


@pytest.mark.slow
@needs_tpu_compiler
def test_two_slices_of_many_chips(repository: pathlib.Path) -> None:
    check_step(on_tpus(repository, "large")["steps"]["large"])


@pytest.mark.slow
@needs_tpu_compiler
def test_two_slices_with_split_layers(repository: pathlib.Path) -> None:
    check_step(on_tpus(repository, "tensor")["steps"]["tensor"])
