"""Saved on one mesh, gone on with on another: the same next loss, the same examples.

Other presets, other numbers of devices, other numbers of processes.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from tests import elastic_steps, killed_run, small_run
from tests.killed_run import UNOPTIMISED
from tests.test_train import log_lines

CLOSE = 1e-5


def devices(count: int) -> dict[str, str]:
    """The environment of a process with so many devices."""
    flags = f"--xla_force_host_platform_device_count={count} {UNOPTIMISED}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def steps(
    repository: pathlib.Path, verb: str, folder: pathlib.Path, count: int
) -> list[tuple[str, str, float, str]]:
    """Runs `elastic_steps` on so many devices."""
    words = ["-m", "tests.elastic_steps", verb, str(folder / "runs"), str(folder / "prepared")]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=repository,
        env=devices(count),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]


def compare(
    saved: list[tuple[str, str, float, str]], restored: list[tuple[str, str, float, str]]
) -> float:
    """Returns the greatest difference of a loss; the examples must be the same in every case."""
    expected = {source: (loss, seen) for source, _, loss, seen in saved}
    assert restored
    for source, mesh, _, seen in restored:
        assert seen == expected[source][1], (source, mesh)
    return max(abs(loss - expected[source][0]) for source, _, loss, _ in restored)


def test_from_one_device_to_a_mesh_of_eight(
    repository: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    saved = steps(repository, "save", tmp_path, 1)
    # In this process, which has eight.
    with small_run.compiled_once(tmp_path / "programs"):
        restored = elastic_steps.restore(
            tmp_path / "runs", tmp_path / "prepared", ("8-fsdp_tensor-2",)
        )
    assert len(restored) == 1
    assert compare(saved, restored) < CLOSE


@pytest.mark.slow
def test_every_mesh_to_every_mesh(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    counts = (1, 2, 4, 8)
    saved = [each for count in counts for each in steps(repository, "save", tmp_path, count)]
    restored = [each for count in counts for each in steps(repository, "restore", tmp_path, count)]
    assert len(saved) == 1 + 4 + 5 + 5
    assert len(restored) == len(saved) ** 2
    assert len({seen for *_, seen in saved}) == 1
    assert compare(saved, restored) < CLOSE


def train_with(
    repository: pathlib.Path, folder: pathlib.Path, run: str, processes: int, train_steps: int
) -> None:
    """Trains in so many processes of two devices each, up to a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = []
    for number in range(processes):
        words = [address, processes, number, folder / run, folder / "prepared", train_steps]
        said = (folder / f"{run}-{processes}-{train_steps}-{number}.txt").open("w+")
        command = [sys.executable, "-m", "tests.distributed_run", *map(str, words)]
        hosts.append(
            (
                subprocess.Popen(
                    [*command, str(folder / "programs")],
                    cwd=repository,
                    env=devices(2),
                    stdout=said,
                    stderr=subprocess.STDOUT,
                ),
                said,
            )
        )
    try:
        for process, said in hosts:
            code = process.wait(timeout=600)
            said.seek(0)
            assert code == 0, said.read()
    finally:
        for process, said in hosts:
            process.kill()
            process.wait()
            said.close()


@pytest.mark.slow
def test_one_process_then_two_then_one(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    train_with(repository, tmp_path, "alone", 1, 6)
    for processes, train_steps in ((1, 2), (2, 4), (1, 6)):
        train_with(repository, tmp_path, "moved", processes, train_steps)
    alone, moved = (
        {line["step"]: line for line in log_lines(tmp_path / name)} for name in ("alone", "moved")
    )
    assert set(alone) == set(moved)
    for step, line in alone.items():
        for name in ("tokens", "useful_tokens", "fill_encoder", "fill_decoder"):
            assert moved[step][name] == line[name], (step, name)
        assert moved[step]["loss"] == pytest.approx(line["loss"], abs=CLOSE), step
    assert killed_run.complete(tmp_path / "moved")[-1] == 6
    chosen = [
        json.loads((tmp_path / name / "selected.json").read_text())["metric"]
        for name in ("alone", "moved")
    ]
    assert chosen[0] == chosen[1]
