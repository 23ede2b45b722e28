"""Preparing that is killed at random moments, with all its workers, and started again."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from flan_train import shards
from flan_train.prepared import MANIFEST, open_prepared
from flan_train.rendering import PART_ROWS, SUMMARY
from tests.test_prepare import contents

# A task of two parts, and small ones beside it.
TASKS = f"""
from flan_train import mixtures, tasks
from tests.toy_tasks import counting, toy

sizes = {{"big": {PART_ROWS} + 3000, "b": 3000, "c": 2000, "d": 2000, "e": 1000}}
if "kill_big" not in tasks.names():
    for name, rows in sizes.items():
        tasks.add(toy(f"kill_{{name}}", counting(rows)))
    members = tuple(mixtures.Member(f"kill_{{name}}") for name in sizes)
    mixtures.add(mixtures.MixtureDefinition("kill", members))
"""
SCRIPT = """
import sys
if __name__ == "__main__":
    import kill_tasks
    from flan_train.prepare import DataConfig, prepare
    lengths = {"inputs": 64, "targets": 64}
    config = DataConfig("kill", lengths, "quickstart", prepared_dir=sys.argv[1],
                        modules=("kill_tasks",), num_workers=2)
    prepare(config, verify=True)
"""


class Preparing:
    """`prepare` of one mixture into a store, in processes of its own."""

    def __init__(self, folder: pathlib.Path, repository: pathlib.Path) -> None:
        self.folder = folder
        self._environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{repository}"}
        (folder / "kill_tasks.py").write_text(TASKS)
        (folder / "script.py").write_text(SCRIPT)

    def start(self, store: pathlib.Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.folder / "script.py"), str(store)],
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, store: pathlib.Path) -> None:
        process = self.start(store)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said


def begun(process: subprocess.Popen[str], store: pathlib.Path, before: set[pathlib.Path]) -> bool:
    """Waits until a process writes to a store; returns whether it lives."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if {*store.rglob(".tmp-*")} - before:
            return True
        time.sleep(0.005)
    return process.poll() is None


def nothing_half_done(store: pathlib.Path, whole: dict[str, str]) -> int:
    """Checks all that passes for whole in a store; returns how much that is."""
    kinds = ("tasks/*@*", "tasks/.parts-*/*", "mixtures/*@*")
    folders = [path for kind in kinds for path in store.glob(kind) if path.name[0] != "."]
    for folder in folders:
        mixture = folder.parent.name == "mixtures"
        assert shards.is_whole(folder, MANIFEST if mixture else SUMMARY, verify=True)
        if mixture:
            open_prepared(folder, verify=True)
    found = {name: sha for name, sha in contents(store).items() if "/." not in name}
    assert found.items() <= whole.items()
    return len(folders)


def kill_and_start_again(folder: pathlib.Path, repository: pathlib.Path, kills: int) -> None:
    preparing = Preparing(folder, repository)
    preparing.finish(folder / "undisturbed")
    whole = contents(folder / "undisturbed")
    assert len(whole) == 5 * 7 + 4
    assert not list((folder / "undisturbed").rglob(".*"))
    store = folder / "killed"
    draw = random.Random(2022)
    unfinished = largest = done = 0
    took = 4.0  # seconds from the first file to the last, before one has been through undisturbed
    # A few kills may all miss the middle of things; a dozen do not.
    while done < kills or (done < 12 and not (unfinished and largest)):
        before = {*store.rglob(".tmp-*")}
        process = preparing.start(store)
        alive = begun(process, store, before)
        first = time.monotonic()
        if alive:
            try:
                process.wait(timeout=draw.uniform(0, took))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        if process.returncode == 0:
            # Faster than its end: there is nothing left to be killed at.
            took = min(took, time.monotonic() - first)
            assert contents(store) == whole
            shutil.rmtree(store)
            continue
        assert process.returncode == -signal.SIGKILL, said
        done += 1
        kept = nothing_half_done(store, whole)
        largest = max(largest, kept)
        unfinished += bool(list(store.rglob(".tmp-*")))
    # It was killed in the middle of things, and it got somewhere all the same.
    assert unfinished
    assert largest
    preparing.finish(store)
    assert contents(store) == whole
    assert not list(store.rglob(".*"))


def test_killed_and_started_again(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    kill_and_start_again(tmp_path, repository, kills=3)


@pytest.mark.slow
def test_killed_thirty_times(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    kill_and_start_again(tmp_path, repository, kills=30)
