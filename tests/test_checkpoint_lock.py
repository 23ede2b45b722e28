"""One process writes a run's checkpoints: others are told who it is, and it leaves nothing."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest

from flan_train import checkpoint_lock, errors
from flan_train.checkpoint_lock import Lock
from flan_train.checkpoints import CheckpointConfig, Checkpoints

HOLDS = """
import pathlib, sys, time
from flan_train.checkpoint_lock import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
lock.take()
print("holds", flush=True)
time.sleep(600)
"""


def save(run: Checkpoints, step: int) -> None:
    run.save(step, {"kernel": jnp.full(3, step)}, {"count": jnp.int32(step)}, {"epoch": 0}, {})


def test_another_process_is_told_who_holds_it(
    tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    folder = tmp_path / "checkpoints"
    Lock(folder).check_free()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "holds\n"
        for refused in (Lock(folder).check_free, Lock(folder).take):
            with pytest.raises(errors.UserError, match="another process writes") as told:
                refused()
            assert f"process {other.pid} on " in told.value.where
        run = Checkpoints(tmp_path, CheckpointConfig())
        with pytest.raises(errors.UserError, match="another process writes"):
            run.agreed_steps()
        with pytest.raises(errors.UserError, match="another process writes"):
            save(run, 1)
        run.close()
        other.send_signal(signal.SIGKILL)
    # What it held is free, though its file is still there.
    assert (tmp_path / "checkpoints.lock").is_file()
    Lock(folder).check_free()
    run = Checkpoints(tmp_path, CheckpointConfig())
    save(run, 1)
    run.wait()
    assert f"process {os.getpid()} " in (tmp_path / "checkpoints.lock").read_text()
    assert run.agreed_steps() == [1]
    run.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]


def test_taken_again_when_its_file_was_removed(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "checkpoints"
    lock = Lock(folder)
    lock.take()
    lock.take()
    (tmp_path / "checkpoints.lock").unlink()
    lock.take()
    with pytest.raises(errors.UserError, match="another process writes"):
        Lock(folder).check_free()
    lock.release()
    lock.release()
    with checkpoint_lock.held(folder), pytest.raises(errors.UserError):
        Lock(folder).take()
    assert not list(tmp_path.iterdir())


def test_what_is_to_be_removed_is_removed_without_room_for_the_lock(tmp_path: pathlib.Path) -> None:
    with checkpoint_lock.held(tmp_path / "absent" / "checkpoints"):
        pass
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "absent" / "checkpoints").take()
