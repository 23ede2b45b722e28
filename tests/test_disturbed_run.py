"""What may happen to a run's folder: a full disk, a read-only one, emptied, a damaged checkpoint.

Afterwards the same command ends with the numbers of a run that nothing has happened to.
"""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flan_train import checkpoint_names, checkpoints, train
from flan_train.checkpoints import CheckpointConfig
from flan_train.errors import UserError
from tests import killed_run, small_run
from tests.test_full_disk import environment, may_mount

STEPS = 6


def settings(prepared: pathlib.Path) -> dict[str, Any]:
    """Every step is saved and kept."""
    return small_run.settings(prepared) | {"checkpoint": CheckpointConfig(period=1, keep=None)}


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    folder = tmp_path_factory.getbasetemp() / "programs"
    with small_run.compiled_once(folder):
        yield folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def whole(prepared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train.train(str(folder), **settings(prepared))
    return folder


def ended_after(whole: pathlib.Path, step: int, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a run as it was when a step had been saved, and not yet evaluated."""
    run = pathlib.Path(shutil.copytree(whole, folder))
    (run / "selected.json").unlink()
    for path in (run / checkpoints.FOLDER).iterdir():
        if int(path.name) > step:
            shutil.rmtree(path)
    for path in (run / "eval").glob("*/*"):
        if int(path.name.split(".")[0]) >= step or path.parent.name.endswith("_test"):
            path.unlink()
    return run


def damage(checkpoint: pathlib.Path) -> None:
    """Flips one bit of the largest file."""
    files = [path for path in (checkpoint / "params").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 4
    largest.write_bytes(raw)


def in_namespace(repository: pathlib.Path, code: str, *given: object) -> Any:
    """Returns what a child process that may mount prints as JSON in its last line."""
    if not may_mount():
        pytest.skip("this user may not mount a tmpfs in a namespace of its own")
    words = [json.dumps(each) for each in given]
    child = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, *words],
        cwd=repository,
        env=environment(repository),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stderr
    assert "Traceback" not in child.stderr, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


def same(one: pathlib.Path, two: pathlib.Path, without: tuple[str, ...] = ()) -> bool:
    """Whether two runs came to the same, to the bit; names that begin so are left out."""
    contents = [
        {k: v for k, v in killed_run.content(run).items() if not k.startswith(without)}
        for run in (one, two)
    ]
    return bool(contents[0]) and not killed_run.differing_bits(*contents)


def test_the_newest_checkpoint_is_damaged(
    whole: pathlib.Path,
    prepared: pathlib.Path,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = ended_after(whole, 5, tmp_path / "run")
    damage(run / checkpoints.FOLDER / "5")
    before = killed_run.complete(run)
    with pytest.raises(UserError, match="of step 5 is damaged, and --strict was given"):
        train.train(str(run), **settings(prepared), strict=True)
    assert killed_run.complete(run) == before
    with caplog.at_level(logging.ERROR):
        train.train(str(run), **settings(prepared))
    assert "THE CHECKPOINT OF STEP 5 IS DAMAGED" in caplog.text
    assert "goes on from the checkpoint of step 4" in " ".join(caplog.text.split())
    assert (run / checkpoints.FOLDER / "5.damaged").is_dir()
    assert same(run, whole)


def test_the_folder_is_emptied_under_the_run(
    whole: pathlib.Path, prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    folder = run / checkpoints.FOLDER
    emptied: list[int] = []

    def empty() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            steps = checkpoint_names.complete_steps(folder)
            if 2 in steps:
                for path in folder.iterdir():
                    shutil.rmtree(path, ignore_errors=True)
                emptied.extend(steps)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=empty)
    thread.start()
    train.train(str(run), **settings(prepared))
    thread.join()
    assert 2 in emptied
    left = killed_run.complete(run)
    assert STEPS in left
    assert not set(left) & {1, 2}
    gone = tuple(f"checkpoint {step}," for step in range(1, STEPS + 1) if step not in left)
    # What was chosen among the checkpoints that are left may be another one.
    others = ("selected.json", f"eval {small_run.TASK}_test")
    assert same(run, whole, (*gone, *others))


# Trains on disks of several sizes, makes room and gives the same command again.
ON_SMALL_DISKS = """
import json, pathlib, subprocess, sys
from flan_train import train
from flan_train.errors import UserError
from tests import killed_run, small_run
from tests.test_disturbed_run import same, settings

disk, prepared, programs, whole, sizes = map(json.loads, sys.argv[1:])
said = []
with small_run.compiled_once(pathlib.Path(programs)):
    for size in sizes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
        run = pathlib.Path(disk) / "run"
        try:
            train.train(str(run), **settings(pathlib.Path(prepared)))
            said.append(None)
        except UserError as error:
            newest = max(killed_run.complete(run), default=0)
            said.append([error.what, error.where, error.fix, newest])
        left = [path.name for path in run.glob("checkpoints/*") if not path.name.isdecimal()]
        assert not left, (size, left)
        subprocess.run(["mount", "-o", "remount,size=64m", "tmpfs", disk], check=True)
        train.train(str(run), **settings(pathlib.Path(prepared)))
        assert same(run, pathlib.Path(whole)), size
        assert not killed_run.leftovers(run), size
        subprocess.run(["umount", "--lazy", disk], check=True)
print(json.dumps(said))
"""


def train_on_small_disks(
    repository: pathlib.Path,
    tmp_path: pathlib.Path,
    sizes: list[int],
    *given: pathlib.Path,
) -> Any:
    """Returns what was said on each disk of so many KiB: what, where, fix, newest step."""
    disk = tmp_path / "disk"
    disk.mkdir()
    return in_namespace(repository, ON_SMALL_DISKS, str(disk), *map(str, given), sizes)


def test_the_disk_is_full_in_a_save(
    whole: pathlib.Path,
    prepared: pathlib.Path,
    programs: pathlib.Path,
    tmp_path: pathlib.Path,
    repository: pathlib.Path,
) -> None:
    said = train_on_small_disks(repository, tmp_path, [1500], prepared, programs, whole)
    (what, where, fix, newest) = said[0]
    assert what.startswith(f"the checkpoint of step {newest + 1} cannot be written: ")
    assert "No space left on device" in what
    assert where.endswith("checkpoints")
    assert f"run the same command again: it goes on at step {newest}" in fix


@pytest.mark.slow
def test_the_disk_is_full_at_any_moment(
    whole: pathlib.Path,
    prepared: pathlib.Path,
    programs: pathlib.Path,
    tmp_path: pathlib.Path,
    repository: pathlib.Path,
) -> None:
    sizes = [4, 12, 24, 40, 100, 500, 900, 1300, 1700, 2100]
    said = train_on_small_disks(repository, tmp_path, sizes, prepared, programs, whole)
    refused = [each for each in said if each]
    assert len(refused) >= len(sizes) // 2
    assert all("No space left on device" in what for what, *_ in refused)


READ_ONLY = """
import json, subprocess, sys
disk, command = map(json.loads, sys.argv[1:])
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], check=True)
command = [sys.executable, "-m", "flan_train.cli", *command]
done = subprocess.run(command, capture_output=True, text=True, timeout=200)
print(json.dumps([done.returncode, done.stdout, done.stderr]))
"""


def test_a_read_only_run_directory(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    job = killed_run.Job(tmp_path / "job", tmp_path / "programs")
    job.run = tmp_path / "disk" / "run"
    job.run.parent.mkdir()
    disk, words = str(job.run.parent), job.command()[3:]
    code, _, error = in_namespace(repository, READ_ONLY, disk, words)
    assert code == 2, error
    assert "Traceback" not in error
    assert f"MODEL_DIR cannot be made: {job.run.parent} cannot be written to" in error
    assert "name another folder" in error
    assert not job.store.exists()  # found out before anything is prepared
