"""Names of checkpoints: "selected" and "latest" wherever a path is taken, and what can be wrong."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from flan_train.checkpoint_names import checked_folder, complete_steps, find, read_selected
from flan_train.errors import UserError
from tests import synthetic_run


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    for step in (100, 200, 1000):
        synthetic_run.write_suite_checkpoint(tmp_path / "run", step)
    return tmp_path / "run"


def select(run: pathlib.Path, step: object) -> None:
    chosen = {"step": step, "metric": "exact_match", "score": 0.5}
    (run / "selected.json").write_text(json.dumps(chosen), "utf-8")


def test_the_selected_and_the_latest_step(run, monkeypatch):
    select(run, 200)
    for written in (run / "checkpoints" / "selected", run / "selected"):
        assert find(written) == checked_folder(str(written)) == run / "checkpoints" / "200"
    for written in (run / "checkpoints" / "latest", run / "latest"):
        assert find(written) == run / "checkpoints" / "1000"
    # One that is still being written, or torn, is not the latest.
    (run / "checkpoints" / "2000").mkdir()
    assert complete_steps(run / "checkpoints") == [100, 200, 1000]
    assert find(run / "latest").name == "1000"
    monkeypatch.chdir(run)
    assert find("checkpoints/selected") == find("selected") == run / "checkpoints" / "200"


def test_other_paths_stay_as_they_are(run, tmp_path):
    for path in (run / "checkpoints" / "200", run, tmp_path / "nowhere", tmp_path / "selected"):
        assert find(path) == path
    # A folder that is really called so comes first: converted parameters, say.
    real = run / "checkpoints" / "selected"
    shutil.copytree(run / "checkpoints" / "100", real)
    select(run, 200)
    assert find(real) == real
    with pytest.raises(UserError, match="there is no checkpoint"):
        checked_folder(tmp_path / "selected")


def test_nothing_selected_yet(run):
    with pytest.raises(UserError, match="no checkpoint of the run has been selected yet") as caught:
        find(run / "checkpoints" / "selected")
    assert f"flan-train select {run}" in str(caught.value)
    assert str(run / "checkpoints" / "1000") in str(caught.value)


def test_a_selected_step_that_is_gone(run):
    select(run, 300)
    with pytest.raises(UserError, match="of step 300, is not there any more") as caught:
        find(run / "selected")
    assert "a step that is there: 100, 200, 1000" in str(caught.value)
    assert f"flan-train select {run} chooses among those that are left" in str(caught.value)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    with pytest.raises(UserError, match="copy it back"):
        find(run / "selected")
    with pytest.raises(UserError, match="no complete checkpoint yet"):
        find(run / "latest")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"step": 3}', '{"step": "3", "metric": 1, "score": 1}']
)
def test_a_selection_that_cannot_be_read(run, content):
    (run / "selected.json").write_text(content, "utf-8")
    with pytest.raises(UserError, match="not a selection") as caught:
        find(run / "checkpoints" / "selected")
    assert "selected.json" in str(caught.value)
    assert "delete it" in str(caught.value)


def test_a_run_directory_is_no_checkpoint_but_its_selected_one_is_named(run):
    for path in (run, run / "checkpoints"):
        with pytest.raises(UserError, match="is not a checkpoint") as caught:
            checked_folder(path)
        assert str(run / "checkpoints" / "1000") in str(caught.value)
    assert read_selected(run) is None
    select(run, 200)
    with pytest.raises(UserError, match="is not a checkpoint") as caught:
        checked_folder(run)
    assert str(run / "checkpoints" / "selected") in str(caught.value)
