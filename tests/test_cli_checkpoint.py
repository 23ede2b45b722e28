"""`flan-train checkpoint`: what it lists, finds damaged, removes and copies."""

from __future__ import annotations

import itertools
import json
import pathlib
import shutil
import threading
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flan_train import checkpoint_care, checkpoints
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from flan_train.cli import main
from tests import synthetic_run

SUITE = "quickstart_unseen"
META = {"model": {}, "selection": {"suites": [SUITE], "metric": "exact_match", "protocol": "apart"}}
RATES = {2: 0.2, 4: 0.6, 6: 0.5, 8: 0.3, 9: 0.4}


def params(step: int) -> dict[str, Any]:
    return {"kernel": jnp.full((8, 4), step, jnp.float32), "scale": jnp.arange(3.0)}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of five checkpoints, evaluated (step 4 is best), of which 6 was selected."""
    run = tmp_path_factory.mktemp("runs") / "run"
    # Kept are all, for they are best; then the settings are others.
    saved = Checkpoints(run, CheckpointConfig(keep=None))
    for step in (2, 4, 6, 8):
        saved.save(step, params(step), {"count": jnp.int32(step)}, {"epoch": 0}, META)
    saved.close()
    saved = Checkpoints(run, CheckpointConfig(period=2, keep=1, keep_every=8, keep_best=2))
    saved.protect([2, 4, 6])
    saved.save(9, params(9), {"count": jnp.int32(9)}, {"epoch": 0}, META)
    saved.close()
    examples = [
        (step, synthetic_run.examples_of(("t", "f", "direct", False), right))
        for step, rate in RATES.items()
        for right in [[place < 10 * rate for place in range(10)]]
    ]
    for step, rows in examples:
        synthetic_run.write_examples(run, SUITE, step, rows, split="validation")
    chosen = {"step": 6, "metric": "exact_match", "score": 0.5}
    (run / "selected.json").write_text(json.dumps(chosen))
    return run


@pytest.fixture
def run(original: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(original, tmp_path / "run"))


def facts(run: pathlib.Path, *words: str, code: int = 0) -> Any:
    file = run.parent / "facts.json"
    assert main(["checkpoint", words[0], str(run), *words[1:], "--json", str(file)]) == code
    return json.loads(file.read_text())


def steps(run: pathlib.Path) -> list[int]:
    return Checkpoints(run, CheckpointConfig()).steps()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["checkpoint", *words]) == 2
    return capsys.readouterr().err


def test_the_rules_while_training(original: pathlib.Path) -> None:
    assert steps(original) == [2, 4, 6, 8, 9]


def test_list(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run / "checkpoints" / "9", run / "checkpoints" / "12.damaged")
    shutil.copytree(run / "checkpoints" / "9", run / "checkpoints" / "11")
    shutil.rmtree(run / "checkpoints" / "11" / "opt_state")
    (run / "checkpoints" / "13.orbax-checkpoint-tmp").mkdir()
    rows = {row["folder"]: row for row in facts(run, "list")}
    shown = capsys.readouterr().out
    kept = {name: row["kept"] for name, row in rows.items() if row["state"] == "whole"}
    assert kept == {
        "2": [],
        "4": ["best"],
        "6": ["best", "selected"],
        "8": ["every"],
        "9": ["newest"],
    }
    assert {name: row["state"] for name, row in rows.items() if name not in kept} == {
        "11": "torn",
        "12.damaged": "damaged",
        "13.orbax-checkpoint-tmp": "unfinished",
    }
    assert rows["11"]["missing"] == ["opt_state"]
    folder = run / "checkpoints" / "4"
    assert rows["4"]["bytes"] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    for text in ("best, selected", "torn: no opt_state", "KiB", "2 "):
        assert text in shown


def test_list_where_nothing_is_known_of_the_best(run: pathlib.Path) -> None:
    shutil.rmtree(run / "eval" / SUITE)
    rows = {row["step"]: row["kept"] for row in facts(run, "list")}
    assert rows == {2: [], 4: [], 6: ["selected"], 8: ["every"], 9: ["newest"]}


def test_verify(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = facts(run, "verify")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 9]
    assert all(row["state"] == "whole" for row in rows)
    assert {row["arrays"] for row in rows} == {3}
    assert {row["bytes"] for row in rows} == {4 * (32 + 3 + 1)}
    capsys.readouterr()
    shutil.rmtree(run / "checkpoints" / "4" / "params")
    shutil.copytree(run / "checkpoints" / "2" / "params", run / "checkpoints" / "4" / "params")
    shutil.rmtree(run / "checkpoints" / "8" / "opt_state" / "d")
    (run / "checkpoints" / "9" / "_CHECKPOINT_METADATA").unlink()
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    rows = {row["step"]: row for row in facts(run, "verify", code=2)}
    told = capsys.readouterr()
    assert rows[4]["state"] == rows[8]["state"] == "damaged"
    assert rows[4]["damaged"] == ["params/kernel"]
    assert rows[8]["damaged"] == ["opt_state"]
    assert rows[9]["state"] == "torn"
    assert rows[6]["state"] == "whole"
    assert "3 of 5 checkpoints are damaged" in told.err
    assert "4: params/kernel" in told.err
    assert "9: no _CHECKPOINT_METADATA" in told.err
    assert "step 9: torn: no _CHECKPOINT_METADATA" in told.out
    assert "step 6: whole, 3 arrays" in told.out
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before
    assert [row["step"] for row in facts(run, "verify", "--step=6")] == [6]
    assert facts(run, "verify", "--step=9", code=2)[0]["state"] == "torn"
    file = run / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    del meta["checksums"]
    file.write_text(json.dumps(meta))
    (row,) = facts(run, "verify", "--step=6", code=2)
    assert row["state"] == "no checksums"
    assert row["what"] == "none was kept of meta, data, params, opt_state"


def test_prune(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(p.stat().st_size for p in (run / "checkpoints" / "2").rglob("*") if p.is_file())
    done = facts(run, "prune", "--dry_run")
    assert done["removed"] == [{"step": 2, "bytes": size}]
    assert done["bytes"] == size
    assert f"1 checkpoints, {size:,} bytes would be removed" in capsys.readouterr().out
    assert steps(run) == [2, 4, 6, 8, 9]
    facts(run, "prune")
    assert steps(run) == [4, 6, 8, 9]
    done = facts(run, "prune", "--keep=2", "--keep_every=5", "--keep_best=0")
    assert done["kept"] == {"6": ["selected"], "8": ["newest"], "9": ["newest"]}
    assert "step 6 stays: selected" in capsys.readouterr().out
    assert steps(run) == [6, 8, 9]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["6", "8", "9"]


def damage(run: pathlib.Path, *which: int) -> None:
    """Gives checkpoints parameters of another step; their files are whole."""
    for step in which:
        shutil.rmtree(run / "checkpoints" / str(step) / "params")
        other = run / "checkpoints" / ("2" if step > 2 else "4") / "params"
        shutil.copytree(other, run / "checkpoints" / str(step) / "params")


def test_prune_keeps_checkpoints_that_are_what_was_saved(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "selected.json").unlink()
    damage(run, 6, 8, 9)
    done = facts(run, "prune", "--keep=1", "--keep_every=100", "--keep_best=0")
    assert done["kept"] == {
        "4": ["newest"],
        "6": ["damaged"],
        "8": ["damaged"],
        "9": ["damaged"],
    }
    assert [row["step"] for row in done["removed"]] == [2]
    assert "step 9 stays: damaged" in capsys.readouterr().out
    assert facts(run, "verify", "--step=4")[0]["state"] == "whole"


def test_prune_removes_nothing_where_all_are_damaged(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run, 4, 6, 8, 9)
    damage(run, 2)  # its own parameters are in the others
    (run / "checkpoints" / "2" / "params" / "_METADATA").write_text("{")
    message = refused(capsys, "prune", str(run), "--keep=1", "--keep_every=100")
    assert "none of the run's checkpoints is what was saved" in message
    assert "checkpoint verify" in message
    assert steps(run) == [2, 4, 6, 8, 9]


def test_a_folder_of_another_step_is_no_newest_checkpoint(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = run / "checkpoints" / "99"
    message = refused(capsys, "copy", str(run), "--step=4", f"--to={to}")
    assert "checkpoint of step 4 cannot be called 99" in message
    assert not to.exists()
    shutil.copytree(run / "checkpoints" / "4", to)
    rows = {row["folder"]: row for row in facts(run, "list")}
    assert (rows["99"]["state"], rows["99"]["kept"]) == ("damaged", [])
    done = facts(run, "prune", "--keep=1", "--keep_every=100", "--keep_best=0")
    assert done["kept"] == {"6": ["selected"], "9": ["newest"], "99": ["damaged"]}


def test_prune_beside_a_run(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run / "checkpoints" / "10.orbax-checkpoint-tmp"
    trains = Checkpoints(run, CheckpointConfig(keep=None))
    trains.save(11, params(11), {"count": jnp.int32(11)}, {"epoch": 0}, META)
    left.mkdir()
    for words in ([], ["--dry_run"]):
        message = refused(capsys, "prune", str(run), "--keep=1", *words)
        assert "another process writes checkpoints of this run" in message
    assert left.is_dir()
    trains.close()
    assert steps(run) == [2, 4, 6, 8, 9, 11]
    facts(run, "prune", "--keep=9")
    assert not left.exists()
    assert not (run / "checkpoints.lock").exists()


def test_list_beside_a_run_that_saves(run: pathlib.Path) -> None:
    """Folders are renamed and removed while they are looked at."""
    folder, done = run / "checkpoints", threading.Event()

    def saves() -> None:
        for number in itertools.cycle(range(100, 120)):
            if done.is_set():
                return
            unfinished = folder / f"{number}.orbax-checkpoint-tmp"
            shutil.copytree(folder / "2", unfinished)
            unfinished.rename(folder / str(number))
            (folder / str(number)).rename(folder / f"{number}.removing")
            shutil.rmtree(folder / f"{number}.removing")

    thread = threading.Thread(target=saves)
    thread.start()
    try:
        for _ in range(60):
            rows = checkpoint_care.listed(run)
            assert {2, 4, 6, 8, 9} <= {row["step"] for row in rows if row["state"] == "whole"}
    finally:
        done.set()
        thread.join()


def test_prune_removes_what_saves_that_failed_have_left(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run / "checkpoints"
    left = ["10.orbax-checkpoint-tmp", "12.orbax-checkpoint-tmp-3", "2.removing"]
    aside = ["13.damaged", "14.torn-2"]
    for name in (*left, *aside):
        (folder / name).mkdir()
        (folder / name / "file").write_text("12345")
    done = facts(run, "prune", "--keep=9", "--dry_run")
    assert done["leftovers"] == [{"folder": name, "bytes": 5} for name in left]
    assert (done["removed"], done["bytes"]) == ([], 15)
    assert f"{left[0]}, unfinished, would be removed: 5 bytes" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} >= set(left)
    facts(run, "prune", "--keep=9")
    assert f"{left[1]}, unfinished, removed: 5 bytes" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"2", "4", "6", "8", "9", *aside}


def test_prune_says_what_it_cannot_remove(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints" / "2.removing").write_text("in the way of its new name")
    message = refused(capsys, "prune", str(run))
    assert "the checkpoint 2 cannot be removed: Not a directory" in message
    assert str(run / "checkpoints" / "2") in message
    assert steps(run) == [2, 4, 6, 8, 9]


def test_prune_does_not_guess(run: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--keep=0"], "--keep cannot be 0"),
        (["--keep_every=0"], "--keep_every cannot be 0"),
        (["--keep_best=-1"], "--keep_best cannot be -1"),
    ):
        assert told in refused(capsys, "prune", str(run), *words)
    (run / "eval" / SUITE / "4.json").write_text("{")
    message = refused(capsys, "prune", str(run))
    assert "which checkpoints are best cannot be told" in message
    assert "--keep_best=0" in message
    (run / "selected.json").write_text("{")
    assert "not a selection" in refused(capsys, "prune", str(run), "--keep_best=0")
    assert steps(run) == [2, 4, 6, 8, 9]


def test_copy(
    run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step, number, name in (("selected", 6, "mine"), ("latest", 9, "7"), ("4", 4, "a/b/c")):
        to = tmp_path / "copies" / name
        done = facts(run, "copy", f"--step={step}", f"--to={to}")
        assert done["step"] == number
        assert done["arrays"] == 3
        found, meta = checkpoints.load_params(to)
        np.testing.assert_array_equal(found["kernel"], params(number)["kernel"])
        assert meta["step"] == number
    shown = capsys.readouterr().out
    assert "step 6: 3 arrays" in shown
    assert "exists already" in refused(capsys, "copy", str(run), f"--to={tmp_path / 'copies'}")
    to = tmp_path / "new"
    assert "no checkpoint of step 5" in refused(capsys, "copy", str(run), "--step=5", f"--to={to}")
    assert "--step cannot be 'x'" in refused(capsys, "copy", str(run), "--step=x", f"--to={to}")
    (run / "checkpoints" / "9" / "_CHECKPOINT_METADATA").unlink()
    torn = refused(capsys, "copy", str(run), "--step=9", f"--to={to}")
    assert "the checkpoint is incomplete (no _CHECKPOINT_METADATA)" in torn
    shutil.rmtree(run / "checkpoints" / "6" / "opt_state" / "d")
    assert "the copy is not what was saved" in refused(capsys, "copy", str(run), f"--to={to}")
    assert not to.exists()
    assert not list(tmp_path.glob(".new*"))
    (tmp_path / "file").write_text("")
    blocked = refused(capsys, "copy", str(run), "--step=4", f"--to={tmp_path / 'file' / 'x'}")
    assert "file is not a folder" in blocked


def test_what_is_no_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("list", "verify", "prune"):
        assert "has no checkpoints" in refused(capsys, action, str(tmp_path / "nowhere"))
    (tmp_path / "checkpoints").mkdir()
    assert main(["checkpoint", "list", str(tmp_path)]) == 0
    assert "no checkpoints" in capsys.readouterr().out
    assert "no checkpoint of step 3" in refused(capsys, "verify", str(tmp_path), "--step=3")
    assert "reads no gin settings" in refused(capsys, "list", str(tmp_path), "--gin.X=1")
