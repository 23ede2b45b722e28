"""What every test may ask for; set before JAX is imported."""

from __future__ import annotations

import os
import pathlib

# Eight host devices make a real mesh on any machine; one device is a mesh of its first.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The checkout the tests run in."""
    return REPOSITORY


@pytest.fixture(scope="session")
def flan_data_dir() -> pathlib.Path:
    """A folder of real data (FLAN_DATA_DIR, or shared/data beside the checkout); skips without."""
    named = os.environ.get("FLAN_DATA_DIR")
    folder = pathlib.Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: FLAN_DATA_DIR is not set and {folder} does not exist")
    return folder.resolve()
