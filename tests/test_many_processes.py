"""Processes of two devices each on this machine, over loopback: they train as one process does."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import pytest

from flan_train import train
from tests import killed_run, small_run
from tests.killed_run import UNOPTIMISED
from tests.test_host_meeting import free_port
from tests.test_train import log_lines

CLOSE = 1e-5
STEPS = 6
# That a process is lost is known at once; the others then have ten seconds to end by themselves.
SECONDS_TO_END = 60.0


class Processes:
    """The processes of one launch."""

    def __init__(self, folder: pathlib.Path, name: str, commands: Sequence[Sequence[str]]) -> None:
        flags = f"--xla_force_host_platform_device_count=2 {UNOPTIMISED}"
        self.said = [folder / f"{name}-{index}.txt" for index in range(len(commands))]
        self.all = [
            subprocess.Popen(
                [sys.executable, *command],
                cwd=pathlib.Path(__file__).parent.parent,
                env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                stdout=self.said[index].open("w"),
                stderr=subprocess.STDOUT,
            )
            for index, command in enumerate(commands)
        ]

    def texts(self) -> list[str]:
        return [path.read_text() for path in self.said]

    def end(self, timeout: float = 600) -> list[int]:
        """Returns the exit codes, once all have ended."""
        deadline = time.monotonic() + timeout
        return [process.wait(max(0.0, deadline - time.monotonic())) for process in self.all]

    def succeed(self) -> None:
        assert self.end() == [0] * len(self.all), self.texts()

    def kill(self) -> None:
        for process in self.all:
            process.kill()
            process.wait()


class Launcher:
    """Starts processes, and ends what a test leaves of them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._started: list[Processes] = []

    def start(self, commands: Sequence[Sequence[str]]) -> Processes:
        self._started.append(Processes(self.folder, f"launch-{len(self._started)}", commands))
        return self._started[-1]

    def train(self, count: int, steps: int, *more: str, run: str = "run") -> Processes:
        """Trains in so many processes, up to a step."""
        where = [self.folder / run, self.folder / f"{run}-prepared"]
        words = [*where, steps, self.folder / f"{run}-programs", 1, *more]
        address = f"127.0.0.1:{free_port()}"
        return self.start(
            [
                ["-m", "tests.distributed_run", *map(str, (address, count, index, *words))]
                for index in range(count)
            ]
        )

    def end(self) -> None:
        for processes in self._started:
            processes.kill()


@pytest.fixture
def launcher(tmp_path: pathlib.Path) -> Iterator[Launcher]:
    made = Launcher(tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The run of one process, this one, that those of several are compared with."""
    folder = tmp_path_factory.mktemp("alone")
    with small_run.compiled_once(folder / "programs"):
        settings = small_run.settings(folder / "prepared")
        train.train(str(folder / "run"), **settings | {"train_steps": STEPS})
    return folder / "run"


def same_run(run: pathlib.Path, alone: pathlib.Path) -> None:
    """Losses, scores and choice are those of one process, and each was written once."""
    lines, expected = log_lines(run), log_lines(alone)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line, other in zip(lines, expected, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=CLOSE)
        for name in ("tokens", "useful_tokens", "fill_encoder", "fill_decoder"):
            assert line[name] == other[name]
    chosen = [json.loads((each / "selected.json").read_text()) for each in (run, alone)]
    assert chosen[0]["step"] == chosen[1]["step"]
    results = {path.relative_to(alone / "eval") for path in (alone / "eval").glob("*/*.json*")}
    assert results == {path.relative_to(run / "eval") for path in (run / "eval").glob("*/*.json*")}
    for path in results:
        told = [(each / "eval" / path).read_text() for each in (run, alone)]
        if path.suffix == ".jsonl":
            assert told[0] == told[1]
        else:
            assert json.loads(told[0])["mean"] == json.loads(told[1])["mean"]
    assert killed_run.complete(run) == killed_run.complete(alone)


def test_two_processes_train_as_one(launcher: Launcher, tmp_path: pathlib.Path) -> None:
    processes = launcher.train(2, 3, "no_suites")
    launcher.train(1, 3, "no_suites", run="alone").succeed()
    processes.succeed()
    lines, expected = log_lines(tmp_path / "run"), log_lines(tmp_path / "alone")
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line, other in zip(lines, expected, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=CLOSE)
        assert line["useful_tokens"] == other["useful_tokens"]
    assert killed_run.complete(tmp_path / "run") == killed_run.complete(tmp_path / "alone")
    first, second = processes.texts()
    assert "on 4 devices" in first
    assert "step" not in second


@pytest.mark.slow
def test_two_processes_train_evaluate_and_select_as_one(
    launcher: Launcher, alone: pathlib.Path
) -> None:
    processes = launcher.train(2, STEPS)
    processes.succeed()
    same_run(launcher.folder / "run", alone)
    first, second = processes.texts()
    assert "on 4 devices" in first
    assert "done: step 6" in first
    for told in ("step", "gone", "removed", "prepared"):
        assert told not in second.lower(), second


def kill_one(processes: Processes, lost: int) -> None:
    """Kills one, sees all end in time and each name it."""
    processes.all[lost].kill()
    codes = processes.end(SECONDS_TO_END)
    assert codes[lost] == -signal.SIGKILL
    assert all(codes), codes
    name = f"process {lost} of {len(codes)} ({socket.gethostname()}) is lost"
    for text in processes.texts():
        assert text.count(f"flan-train: {name}") == 1, text


@pytest.mark.slow
@pytest.mark.parametrize(("count", "lost"), [(2, 0), (2, 1), (4, 2)])
def test_one_is_killed_and_the_run_goes_on(
    launcher: Launcher, alone: pathlib.Path, count: int, lost: int
) -> None:
    run = launcher.folder / "run"
    processes = launcher.train(count, STEPS)
    # After its second update a checkpoint is written, and before its third suites are evaluated.
    while not (run / "checkpoints" / "2").is_dir():
        assert all(process.poll() is None for process in processes.all), processes.texts()
        time.sleep(0.02)
    kill_one(processes, lost)
    assert not (run / "selected.json").exists()
    again = launcher.train(count, STEPS)
    again.succeed()
    assert "resuming from the checkpoint of step" in again.texts()[0]
    same_run(run, alone)


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_by_two_processes_as_by_one(
    launcher: Launcher, alone: pathlib.Path
) -> None:
    """By the command line, from flags to tables."""
    found = []
    for count in (1, 2):
        out = launcher.folder / f"by-{count}"
        port = free_port()
        words = [
            *("-m", "flan_train.cli", "eval", f"--checkpoint={alone / 'checkpoints' / 'selected'}"),
            *(f"--suite={small_run.TASK}", "--split=test", f"--json={out}.json"),
            *("--gin.SHARDING_PRESET='fsdp_tensor'", "--gin.NUM_PARTITIONS=2"),
            *(f"--gin.OUTPUT_DIR='{out}'", f"--num_processes={count}"),
        ]
        processes = launcher.start(
            [
                [*words, f"--coordinator=127.0.0.1:{port}", f"--process_id={index}"]
                for index in range(count)
            ]
        )
        processes.succeed()
        first, *others = processes.texts()
        assert "exact_match" in first or "Exact match" in first
        assert not any("xact" in text for text in others)
        (result,) = json.loads(pathlib.Path(f"{out}.json").read_text())
        (written,) = out.glob("*/*.jsonl")
        found.append((result["mean"], result["examples"], written.read_text()))
    assert found[0] == found[1]
