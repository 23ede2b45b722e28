"""Where a process is told to meet the others: flags, environment, launchers."""

from __future__ import annotations

import pytest

from flan_train import hosts
from flan_train.errors import UserError

ALL = {
    "JAX_COORDINATOR_ADDRESS": "here:80",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


def test_nothing_set_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    assert hosts.find() is None
    assert hosts.find(count=1) is None
    assert hosts.find(environment={"JAX_NUM_PROCESSES": "1"}) is None
    with hosts.joined(None, ""):
        assert hosts.is_first()


def test_flags_win_over_the_environment() -> None:
    assert hosts.find(environment=ALL) == hosts.Place("here:80", 4, 3)
    assert hosts.find("there:81", 8, 0, ALL) == hosts.Place("there:81", 8, 0)
    assert hosts.find(None, None, 0, ALL) == hosts.Place("here:80", 4, 0)
    named = hosts.find(environment=ALL | {"JAX_LOCAL_DEVICE_IDS": "2,3"})
    assert named is not None
    assert named.devices == (2, 3)


def test_slurm_is_read_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "gpu[01-03,10]",
        "SLURM_NTASKS": "8",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    found = hosts.find(environment=slurm)
    assert found is not None
    assert (found.count, found.index, found.devices) == (8, 5, (1,))
    assert found.coordinator.startswith("gpu01:")
    assert found.hosts == ("gpu01", "gpu02", "gpu03", "gpu10")
    # A task that has several of its node's devices.
    found = hosts.find(environment=slurm | {"JAX_LOCAL_DEVICE_IDS": "2,3"})
    assert found is not None
    assert found.devices == (2, 3)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert hosts.find(environment=slurm | {"SLURM_NTASKS": "1"}) is None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ()),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, ("a", "b")),
        ({"TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, ("a", "b")),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "2"}, ()),
        ({"SLURM_STEP_NODELIST": "node001"}, ("node001",)),
        ({"SLURM_STEP_NODELIST": "a,b[9-11],c1"}, ("a", "b9", "b10", "b11", "c1")),
        ({"SLURM_STEP_NODELIST": "r[1-2]-x,y"}, ("r1-x", "r2-x", "y")),
        ({"SLURM_STEP_NODELIST": "a,b[x-3]"}, ()),
    ],
)
def test_machines_that_a_launcher_names(
    environment: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert hosts.expected_hosts(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID is given, but JAX_COORDINATOR_ADDRESS and"),
        (ALL | {"JAX_PROCESS_ID": "4"}, "there is no process 4 among 4"),
        (ALL | {"JAX_PROCESS_ID": "x"}, "'x' is no number"),
        (ALL | {"JAX_NUM_PROCESSES": "0"}, "0 is no number of processes"),
        (ALL | {"JAX_LOCAL_DEVICE_IDS": "a,b"}, "JAX_LOCAL_DEVICE_IDS is 'a,b'"),
        (ALL | {"JAX_COORDINATOR_ADDRESS": "here"}, "'here' is not the address"),
    ],
)
def test_what_does_not_fit_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        hosts.find(environment=environment)
    assert message in str(caught.value)


def test_a_time_limit_that_is_none() -> None:
    place = hosts.Place("127.0.0.1:1", 2, 1)
    with pytest.raises(UserError, match="start_timeout"), hosts.joined(place, "", 0):
        pass
