"""Topologies by name, and the figures of the chips."""

from __future__ import annotations

import pytest

from flan_train import plan_chips
from flan_train.errors import UserError


@pytest.mark.parametrize(
    ("name", "slices", "devices", "tpu"),
    [
        ("v4:4x4x4", 1, 64, True),
        ("v4:4x4x4", 2, 128, True),
        ("v5e:4x4", 1, 16, True),
        ("v5p:2x2x2", 1, 8, True),
        ("v6e:8x8", 1, 64, True),
        ("cpu:8", 1, 8, False),
    ],
)
def test_names(name: str, slices: int, devices: int, tpu: bool) -> None:
    found = plan_chips.parse(name, slices)
    assert (found.devices, found.is_tpu) == (devices, tpu)
    assert f"{devices} devices" in found.describe()


@pytest.mark.parametrize("name", ["v4", "v4:4x4", "v5e:4x4x4", "v9:2x2", "cpu:0", "cpu:x", "", "4"])
def test_unknown_topologies_name_the_known_forms(name: str) -> None:
    with pytest.raises(UserError, match="no topology") as caught:
        plan_chips.parse(name)
    assert "v5e:XxY" in caught.value.expected
    assert "cpu:N" in caught.value.expected


@pytest.mark.parametrize(("name", "slices"), [("cpu:8", 0), ("cpu:8", -1), ("v4:64x64x64", 1)])
def test_numbers_of_slices_and_devices_have_bounds(name: str, slices: int) -> None:
    with pytest.raises(UserError, match="devices") as caught:
        plan_chips.parse(name, slices)
    assert "65,536" in caught.value.expected


def test_every_chip_has_its_source() -> None:
    for name, chip in plan_chips.CHIPS.items():
        assert chip.name == name
        assert chip.source
        assert min(chip.flops, chip.hbm_rate, chip.link_rate, chip.dcn_rate) > 0
        # What a program can use is less than what is published.
        if name != "cpu":
            assert 15 < (chip.hbm_bytes or 0) / plan_chips.GIB < 96
