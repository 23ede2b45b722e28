"""Preparing with modules of the user's, apart from the training process."""

from __future__ import annotations

import pathlib
import sys

import pytest

from flan_train import errors, launch
from flan_train.prepare import DataConfig

MODULE = """
from flan_train import mixtures
mixtures.add(mixtures.MixtureDefinition("mine", (mixtures.Member("quickstart_addition_direct"),)))
"""


def test_modules_of_the_user_are_imported_by_another_process(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registers_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = DataConfig(
        "mine",
        {"inputs": 64, "targets": 16},
        "quickstart",
        prepared_dir=str(tmp_path / "prepared"),
        examples_per_task=10,
        modules=("registers_mine",),
    )
    found = launch.prepared_split(data, "train")
    assert found.task_names == ["quickstart_addition_direct"]
    assert len(found) == 10
    assert "registers_mine" not in sys.modules


def test_their_mistakes_come_back_as_messages(tmp_path: pathlib.Path) -> None:
    data = DataConfig(
        "mine",
        {"inputs": 64, "targets": 16},
        "quickstart",
        prepared_dir=str(tmp_path / "prepared"),
        modules=("no_such_module_of_mine",),
    )
    with pytest.raises(errors.UserError, match="no Python module 'no_such_module_of_mine'"):
        launch.prepared_split(data, "train")


def test_a_run_directory_inside_a_file(tmp_path: pathlib.Path) -> None:
    launch.check_folder(tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="file is not a folder"):
        launch.check_folder(tmp_path / "file" / "run")
