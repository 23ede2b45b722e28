"""Small real processes, without JAX: one of them ends, and all are told which one it was."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.test_host_meeting import free_port

# What a run does, in short: it joins, does its part, and comes to its end. JAX is left out of it,
# for its own reaction to a lost process would hide that of the watchers.
PROGRAM = """
import sys, time
from flan_train import errors, hosts

def nothing(*arguments):
    pass

index, count, port, deed = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
hosts._start_jax = hosts._stop_jax = nothing
hosts._patience = lambda error: 1.0
with hosts.joined(hosts.Place("127.0.0.1:" + port, count, index), "A = 1\\n", 60):
    print("joined", flush=True)
    if deed == "work":
        time.sleep(600)
    if deed == "user_error":
        time.sleep(0.5)
        raise errors.UserError("the disk is full", where="MODEL_DIR", fix="make room")
    if deed == "bug":
        raise ZeroDivisionError("of all things")
    if deed == "slow":
        time.sleep(1)
print("came to its end", flush=True)
"""


class Processes:
    """Processes of a run, started with what each of them is to do."""

    def __init__(self, repository: pathlib.Path, folder: pathlib.Path, deeds: list[str]) -> None:
        port = free_port()
        self.said = [folder / f"{index}.txt" for index in range(len(deeds))]
        self.all = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(index), str(len(deeds)), str(port), deed],
                cwd=repository,
                stdout=self.said[index].open("w"),
                stderr=subprocess.STDOUT,
            )
            for index, deed in enumerate(deeds)
        ]

    def wait_until_joined(self) -> None:
        while not all("joined" in text for text in self.texts()):
            assert all(process.poll() is None for process in self.all), self.texts()
            time.sleep(0.02)

    def end(self) -> list[int]:
        """Returns the exit codes, once all have ended."""
        return [process.wait(timeout=60) for process in self.all]

    def texts(self) -> list[str]:
        return [path.read_text() for path in self.said]

    def watchers(self) -> list[int]:
        """Process numbers of the watchers that are still there."""
        found = []
        for process in self.all:
            path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            if path.is_file():
                found += [int(word) for word in path.read_text().split()]
        return found


@pytest.fixture
def started(repository: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[list[Processes]]:
    kept: list[Processes] = []
    yield kept
    for processes in kept:
        for process in processes.all:
            process.kill()
            process.wait()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("lost", [0, 2])
def test_a_killed_process_ends_all_and_each_names_it(
    repository: pathlib.Path, tmp_path: pathlib.Path, started: list[Processes], lost: int
) -> None:
    run = Processes(repository, tmp_path, ["work"] * 3)
    started.append(run)
    run.wait_until_joined()
    watchers = run.watchers()
    run.all[lost].kill()
    codes = run.end()
    assert codes == [-signal.SIGKILL if index == lost else 1 for index in range(3)]
    deadline = time.monotonic() + 60
    while not all(map(gone, watchers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    name = f"process {lost} of 3 ({socket.gethostname()}) is lost"
    # The lost one's own watcher says it as well, on its machine.
    assert [text.count("flan-train: " + name) for text in run.texts()] == [1, 1, 1]


@pytest.mark.slow
def test_a_process_that_does_nothing_any_more_is_ended_too(
    repository: pathlib.Path, tmp_path: pathlib.Path, started: list[Processes]
) -> None:
    """One that hangs in a collective of JAX cannot end itself: here it is stopped outright."""
    run = Processes(repository, tmp_path, ["work"] * 2)
    started.append(run)
    run.wait_until_joined()
    run.all[0].send_signal(signal.SIGSTOP)
    run.all[1].kill()
    assert run.end() == [-signal.SIGKILL, -signal.SIGKILL]
    assert "process 1 of 2" in run.texts()[0]


def test_a_mistake_that_one_finds_is_told_by_all(
    repository: pathlib.Path, tmp_path: pathlib.Path, started: list[Processes]
) -> None:
    run = Processes(repository, tmp_path, ["work", "user_error", "work"])
    started.append(run)
    assert run.end() == [2, 2, 2]
    first, second, third = run.texts()
    assert "flan-train: the disk is full\n  where: MODEL_DIR\n  to do: make room" in second
    for text in (first, third):
        assert f"process 1 of 3 ({socket.gethostname()}) stopped: the disk is full" in text
    assert "stopped" not in second


def test_a_mistake_that_all_find_is_told_once_by_each(
    repository: pathlib.Path, tmp_path: pathlib.Path, started: list[Processes]
) -> None:
    run = Processes(repository, tmp_path, ["user_error", "user_error"])
    started.append(run)
    assert run.end() == [2, 2]
    for text in run.texts():
        assert text.count("the disk is full") == 1


def test_an_error_of_one_process_is_told_with_its_trace_there(
    repository: pathlib.Path, tmp_path: pathlib.Path, started: list[Processes]
) -> None:
    run = Processes(repository, tmp_path, ["bug", "work"])
    started.append(run)
    assert run.end() == [1, 1]
    first, second = run.texts()
    assert "Traceback" in first
    assert "ZeroDivisionError: of all things" in second
    assert "process 0 of 2" in second
    assert "Traceback" not in second


def test_all_wait_for_the_last_one(
    repository: pathlib.Path, tmp_path: pathlib.Path, started: list[Processes]
) -> None:
    run = Processes(repository, tmp_path, ["slow", "quick", "quick"])
    started.append(run)
    assert run.end() == [0, 0, 0]
    assert [text.split("\n")[:2] for text in run.texts()] == [["joined", "came to its end"]] * 3


def test_a_missing_process_is_named_and_all_exit_with_2(
    repository: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Through the command line, before JAX or any data is touched."""
    words = ["--gin_file=t5x_configs/recipes/quickstart.gin", "--num_processes=4"]
    port = free_port()
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "flan_train.cli", "train", *words),
                *(f"--coordinator=127.0.0.1:{port}", f"--process_id={index}"),
                *("--start_timeout=15", f"--gin.MODEL_DIR='{tmp_path / 'run'}'"),
            ],
            cwd=repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 2)
    ]
    for process in processes:
        said = process.communicate(timeout=120)
        assert process.returncode == 2, said
        assert said[0] == ""
        assert "flan-train: processes 1, 3 of 4 have not come within 15 s" in said[1]
        assert f"there are: 0 ({socket.gethostname()}), 2 (" in said[1]
    assert not (tmp_path / "run").exists()
