"""Folders that are made beside their destination, and what killed processes leave of them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from flan_train import unfinished
from flan_train.convert.destination import written_whole
from flan_train.convert.slices import ParamsWriter


def left_by(destination: pathlib.Path, process: int, *, hours: float = 0) -> pathlib.Path:
    """Makes the folder that a process would have left so long ago."""
    folder = destination.with_name(f".{destination.name}.writing-{process}")
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("some")
    then = (folder / "sub" / "file").stat().st_mtime - 3600 * hours
    for path in (folder / "sub" / "file", folder / "sub", folder):
        os.utime(path, (then, then))
    return folder


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_a_killed_process_has_left_goes(tmp_path: pathlib.Path) -> None:
    destination, ended = tmp_path / "made[1]", ended_process()
    own = left_by(destination, os.getpid())
    old = left_by(destination, ended, hours=2)
    running = left_by(destination, os.getppid(), hours=2)
    others = left_by(tmp_path / "other", ended, hours=2)
    odd = destination.with_name(f".{destination.name}.writing-x")
    odd.mkdir()
    assert unfinished.beside(destination, "writing") == own
    assert not own.exists()
    assert not old.exists()
    assert running.exists()  # perhaps on another machine, too
    assert others.exists()
    assert odd.exists()
    young = left_by(destination, ended)
    unfinished.beside(destination, "writing")
    assert young.exists()


def test_the_same_number_again_is_no_obstacle(tmp_path: pathlib.Path) -> None:
    """In containers a process has the number that the one before had."""
    left_by(tmp_path / "one", os.getpid())
    with written_whole(tmp_path / "one") as folder:
        (folder / "file").write_text("new")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["file"]
    left_by(tmp_path / "two", os.getpid())
    with ParamsWriter(tmp_path / "two", {}) as writer:
        writer.commit({})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
