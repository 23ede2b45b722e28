"""Saving where the disk is full, may not be written, or is emptied by somebody else."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train import errors
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from tests import test_full_disk

META = {"model": {"embed_dim": 16}}


def params(seed: int) -> dict[str, Any]:
    values = np.random.default_rng(seed).normal(size=(64, 256)).astype(np.float32)
    return {"kernel": jnp.asarray(values)}


def state(seed: int) -> dict[str, Any]:
    return {"count": jnp.int32(seed)}


def save(run: Checkpoints, *steps: int) -> None:
    for step in steps:
        run.save(step, params(step), state(step), {"epoch": step}, META)
    run.wait()


def assert_whole(run: Checkpoints, step: int) -> None:
    found = run.restore(step, *jax.eval_shape(lambda: (params(step), state(step))))
    np.testing.assert_array_equal(found.params["kernel"], params(step)["kernel"])
    assert found.opt_state["count"] == step
    assert found.data == {"epoch": step}


def test_a_folder_that_is_emptied_or_removed_is_made_again(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Checkpoints(tmp_path, CheckpointConfig())
    save(run, 1, 2)
    for path in run.folder.iterdir():
        shutil.rmtree(path)
    with caplog.at_level(logging.WARNING):
        save(run, 3)
    assert "the checkpoints of steps 1, 2 are gone" in caplog.text
    assert run.steps() == [3]
    assert_whole(run, 3)
    caplog.clear()
    shutil.rmtree(tmp_path)
    with caplog.at_level(logging.WARNING):
        save(run, 4)
        save(run, 5)
    assert caplog.text.count("are gone") == 1
    assert run.steps() == [4, 5]
    # Its number was in Orbax's list when it was removed.
    shutil.rmtree(run.path(5))
    save(run, 5)
    assert_whole(run, 5)
    run.close()
    assert sorted(path.name for path in run.folder.iterdir()) == ["4", "5"]


def test_a_folder_removed_while_it_is_written_to_ends_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Checkpoints(tmp_path, CheckpointConfig())
    save(run, 1)
    lost = 0
    with caplog.at_level(logging.WARNING):
        for step in range(2, 12, 2):
            run.save(step, params(step), state(step), {"epoch": step}, META)
            shutil.rmtree(run.folder, ignore_errors=True)
            run.wait()
            lost += step not in run.steps()
            save(run, step + 1)
            assert_whole(run, step + 1)
    assert lost
    run.close()
    assert not list(run.folder.glob("*tmp*"))


def run_child(repository: pathlib.Path, code: str, *given: str) -> Any:
    """Returns what a child process prints as JSON in its last line."""
    child = subprocess.run(
        [sys.executable, "-c", code, *given],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])


# A limit on the size of a file is what a full disk is to whoever writes one.
FULL = """
import json, pathlib, resource, sys
from flan_train import errors
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from tests.test_checkpoints_disk import assert_whole, save

run = Checkpoints(sys.argv[1], CheckpointConfig())
save(run, 1)
said = []
for number, limit in enumerate([0, 100, 2_000, 30_000, 60_000]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(run, 2)
    except errors.UserError as error:
        said.append([error.what, error.where, error.fix])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert run.steps() == [1], limit
    left = [path.name for path in run.folder.iterdir()]
    assert left == ["1"], (limit, left)
    assert_whole(run, 1)
save(run, 2)
assert_whole(run, 2)
run.close()
print(json.dumps(said))
"""


def test_a_full_disk(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    said = run_child(repository, FULL, str(tmp_path))
    assert len(said) == 5
    for what, where, fix in said:
        assert what.startswith("the checkpoint of step 2 cannot be written: ")
        assert "File too large" in what
        assert where == str(tmp_path / "checkpoints")
        assert "run the same command again: it goes on at step 1" in fix


# The disk has room for so many KiB; of what the second save writes, much is under way when the$
# first write fails.
FULL_TMPFS = """
import json, pathlib, subprocess, sys
from flan_train import errors
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from tests.test_checkpoints_disk import META, params, state

disk, sizes = map(json.loads, sys.argv[1:])
arrays = {str(number): params(number) for number in range(300)}
said = []
for size in sizes:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], check=True)
    run = Checkpoints(disk, CheckpointConfig())
    run.save(1, params(1), state(1), {"epoch": 1}, META)
    run.wait()
    try:
        run.save(2, arrays, state(2), {"epoch": 2}, META)
        run.wait()
    except errors.UserError as error:
        said.append([error.what, [path.name for path in run.folder.iterdir()]])
    run.close()
    subprocess.run(["umount", "--lazy", disk], check=True)
print(json.dumps(said))
"""


def test_a_full_disk_with_much_under_way(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    if not test_full_disk.may_mount():
        pytest.skip("this user may not mount a tmpfs in a namespace of its own")
    sizes = [3_000, 8_000, 13_000]
    # No traceback of a thread's is on the terminal beside the message.
    said = test_full_disk.run_child(
        repository, ["unshare", "--mount"], FULL_TMPFS, str(tmp_path), sizes
    )
    what = "the checkpoint of step 2 cannot be written: No space left on device"
    assert said == [[what, ["1"]]] * len(sizes)


FORBIDDEN = """
import json, os, sys
from flan_train import errors
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from tests.test_checkpoints_disk import save

run = Checkpoints(sys.argv[1], CheckpointConfig())
save(run, 1)
run.folder.chmod(0o555)
if os.geteuid() == 0:
    os.seteuid(65534)  # nothing is forbidden to root
try:
    save(run, 2)
except errors.UserError as error:
    print(json.dumps([error.what, error.fix, run.steps()]))
"""


def test_a_folder_that_may_not_be_written_in_the_middle_of_a_run(
    tmp_path_factory: pytest.TempPathFactory, repository: pathlib.Path
) -> None:
    folder = tmp_path_factory.mktemp("forbidden")
    # Other users come to it: pytest makes its folders for their owner alone.
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(0o755)
    what, fix, steps = run_child(repository, FORBIDDEN, str(folder))
    assert what.startswith("the checkpoint of step 2 cannot be written: ")
    assert "ermission denied" in what
    assert "goes on at step 1" in fix
    assert steps == [1]


def test_a_file_where_the_folder_should_be(tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    run = Checkpoints(tmp_path, CheckpointConfig())
    with pytest.raises(errors.UserError, match="of step 1 cannot be written") as told:
        save(run, 1)
    assert "starts anew, for there is no checkpoint" in told.value.fix
    run.close()
