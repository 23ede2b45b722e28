"""Runs that are asked to stop: nothing is lost, and what follows is what would have followed."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import checkpoints, errors, interruption, progress, train
from flan_train.checkpoints import CheckpointConfig
from flan_train.evaluate import EvalConfig
from flan_train.loss_guard import GuardConfig
from tests import small_run, stopping
from tests.resealed import reseal
from tests.small_run import TASK
from tests.test_train import final_arrays, log_lines

STEPS = 16
# Losses of these sixteen updates: the eleventh is 6.2 % above the one before, the others are up to
# 3.3 % above.
FACTOR = 1.045
SKIP = GuardConfig(FACTOR, "skip", window=1)
REWIND = GuardConfig(FACTOR, "rewind", window=1)


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_run.compiled_once(tmp_path_factory.getbasetemp() / "programs"):
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Lines of the log and checkpoints fall apart; nothing is evaluated."""
    return small_run.settings(tmp_path_factory.mktemp("prepared")) | {
        "evaluation": EvalConfig(),
        "train_steps": STEPS,
        "checkpoint": CheckpointConfig(period=4, keep=1),
        "log_period": 3,
    }


@pytest.fixture(scope="module")
def undisturbed(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pathlib.Path]:
    """Whole runs: without a guard, and with each."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for name, guard in (("none", GuardConfig()), ("skip", SKIP), ("rewind", REWIND)):
        found[name] = folder / name
        train.train(str(found[name]), **settings | {"guard": guard})
    return found


def skipped(folder: pathlib.Path) -> list[dict[str, Any]]:
    file = folder / "skipped.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize(("name", "guard"), [("none", None), ("skip", SKIP), ("rewind", REWIND)])
def test_a_run_that_is_stopped_anywhere_goes_on_bit_for_bit(
    undisturbed: dict[str, pathlib.Path],
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
    name: str,
    guard: GuardConfig | None,
) -> None:
    folder = tmp_path / "run"
    settings = settings | {"guard": guard or GuardConfig()}
    log, stops = folder / "log.jsonl", []
    for _ in range(2):
        before = stopping.lines(log)
        with (
            pytest.raises(interruption.Interruption) as caught,
            stopping.signalled(lambda before=before: stopping.lines(log) > before),  # type: ignore[misc]
        ):
            train.train(str(folder), **settings)
        stops.append(caught.value.step)
        assert caught.value.exit_code == 0
        assert stops[-1] == checkpoints.Checkpoints(folder, CheckpointConfig()).latest_step()
    assert 0 < stops[0] <= stops[1] <= STEPS
    train.train(str(folder), **settings)
    assert log_lines(folder) == log_lines(undisturbed[name])
    assert skipped(folder) == skipped(undisturbed[name])
    expected = final_arrays(undisturbed[name], STEPS)
    jax.tree.map(np.testing.assert_array_equal, final_arrays(folder, STEPS), expected)


def test_a_spike_is_skipped_and_told(undisturbed: dict[str, pathlib.Path]) -> None:
    (entry,) = skipped(undisturbed["skip"])
    assert (entry["step"], entry["action"]) == (11, "skip")
    assert entry["loss"] > FACTOR * entry["median_loss"]
    assert {one["task"] for one in entry["examples"]} == {TASK}
    lines = log_lines(undisturbed["skip"])
    assert {line["step"]: line["skipped_updates"] for line in lines} == {
        step: int(step == 12) for step in (3, 4, 6, 8, 9, 12, 15, 16)
    }
    # Until then it is a run as without a guard, whose lines say nothing of one.
    plain = log_lines(undisturbed["none"])
    assert "skipped_updates" not in plain[0]
    for ours, theirs in zip(lines[:5], plain[:5], strict=True):
        assert ours == pytest.approx(theirs | {"skipped_updates": 0}, abs=1e-5)
    # Of the tokens all are counted, of the loss those that were learnt from.
    assert lines[5]["useful_tokens"] == plain[5]["useful_tokens"]
    assert lines[5]["loss"] < plain[5]["loss"]


def test_a_spike_is_passed_over(undisturbed: dict[str, pathlib.Path]) -> None:
    (entry,) = skipped(undisturbed["rewind"])
    assert (entry["step"], entry["action"], entry["to"], entry["batches"]) == (11, "rewind", 8, 3)
    folder = undisturbed["rewind"]
    assert [line["step"] for line in log_lines(folder)] == [3, 4, 6, 8, 9, 12, 15, 16]
    kept = checkpoints.read_position(folder / "checkpoints" / str(STEPS))
    assert kept["spikes"] == {"anchor": STEPS, "rewinds": 1, "passed_over": 3 * 8}
    plain = checkpoints.read_position(undisturbed["none"] / "checkpoints" / str(STEPS))
    assert plain.keys() == {"epoch", "sequence"}


@pytest.mark.parametrize(
    ("guard", "what"), [(SKIP, "1 in a row, at step 11"), (REWIND, "2 in all, at step ")]
)
def test_too_many_spikes_end_the_run(
    settings: dict[str, Any], tmp_path: pathlib.Path, guard: GuardConfig, what: str
) -> None:
    change = {"guard": dataclasses.replace(guard, limit=1), "train_steps": 60}
    with pytest.raises(errors.UserError, match=f"too many loss spikes: {what}") as caught:
        train.train(str(tmp_path), **settings | change)
    assert f"flan-train inspect {tmp_path / 'skipped.jsonl'}" in caught.value.fix
    assert len(skipped(tmp_path)) == 1


def test_spikes_of_a_checkpoint_that_cannot_be_read(
    undisturbed: dict[str, pathlib.Path], settings: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    folder = pathlib.Path(shutil.copytree(undisturbed["rewind"], tmp_path / "run"))
    item = folder / "checkpoints" / str(STEPS)
    data = json.loads((item / "data" / "metadata").read_text())
    (item / "data" / "metadata").write_text(json.dumps({**data, "spikes": {"anchor": 8}}))
    reseal(item)
    with pytest.raises(errors.UserError, match="holds of loss spikes cannot be read"):
        train.train(str(folder), **settings | {"guard": REWIND})


def test_an_evaluation_is_stopped_between_batches(
    settings: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    suite = EvalConfig((TASK,), period=100, examples_per_task=40, batch_size=4)
    settings = settings | {"evaluation": suite, "train_steps": 2}
    partial = folder / "eval" / TASK / "2.jsonl.partial"
    with (
        pytest.raises(interruption.Interruption) as caught,
        stopping.signalled(lambda: stopping.lines(partial) > 4, signal.SIGINT),
    ):
        train.train(str(folder), **settings)
    assert (caught.value.exit_code, caught.value.step) == (130, 2)
    done = stopping.lines(partial)
    assert 4 < done <= 40
    begun = partial.read_text()
    train.train(str(folder), **settings)
    finished = (folder / "eval" / TASK / "2.jsonl").read_text()
    assert len(finished.splitlines()) == 40
    for line in begun.splitlines()[1:]:
        assert line in finished


def test_preparing_is_stopped_at_once(settings: dict[str, Any], tmp_path: pathlib.Path) -> None:
    data = dataclasses.replace(
        settings["data"],
        mixture_or_task_name="quickstart",
        examples_per_task=None,
        prepared_dir=str(tmp_path / "prepared"),
    )
    tasks = tmp_path / "prepared" / "tasks"
    with (
        pytest.raises(interruption.Interruption) as caught,
        stopping.signalled(lambda: tasks.is_dir() and any(tasks.iterdir())),
    ):
        train.train(str(tmp_path / "run"), **settings | {"data": data})
    assert caught.value.step is None
    assert not (tmp_path / "run").exists()


def test_preparing_with_modules_is_stopped_at_once(
    settings: dict[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    text = f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(600)\n"
    (tmp_path / "sleeps_when_imported.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    data = dataclasses.replace(
        settings["data"],
        mixture_or_task_name="a_task_of_theirs",
        modules=("sleeps_when_imported",),
        prepared_dir=str(tmp_path / "prepared"),
    )
    with pytest.raises(interruption.Interruption), stopping.signalled(begun.exists):
        train.train(str(tmp_path / "run"), **settings | {"data": data})


def test_the_open_line_of_a_checkpoint_that_cannot_be_read() -> None:
    window = progress.Window((8, 4))
    assert window.state() == {}
    window.add({"loss": 0.1, "weight": 3.0, "encoder_tokens": 5.0, "decoder_tokens": 3.0})
    kept = json.loads(json.dumps(window.state()))
    assert progress.Window.restored((8, 4), kept) == window
    for broken in ({**kept, "sums": None}, {**kept, "places": [1]}, {"steps": 1}):
        with pytest.raises(errors.UserError, match="holds of the log cannot be read"):
            progress.Window.restored((8, 4), broken)


@pytest.mark.parametrize("code", [0, pytest.param(75, marks=pytest.mark.slow)])
def test_the_command_ends_well_and_says_how_to_go_on(
    repository: pathlib.Path, tmp_path: pathlib.Path, code: int
) -> None:
    run = tmp_path / "a run"
    words = [
        "train",
        "--gin_file=t5x_configs/recipes/quickstart.gin",
        f"--gin.MODEL_DIR='{run}'",
        f"--gin.PREPARED_DIR='{tmp_path / 'prepared'}'",
        f"--gin.MIXTURE_OR_TASK_NAME='{TASK}'",
        "--gin.EVAL_SUITES=()",
        "--gin.MAX_PASSES=None",
        "--gin.LOG_PERIOD=1",
        "--gin.t5.T5Config.embed_dim=16",
        "--gin.t5.T5Config.num_encoder_layers=1",
        "--gin.t5.T5Config.num_decoder_layers=1",
        "--gin.BATCH_SIZE=8",
        *([f"--exit_code_if_stopped={code}"] if code else []),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "flan_train.cli", *words, "--no-resume"],
        cwd=repository,
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not stopping.lines(run / "log.jsonl") and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        out, err = process.communicate()
    assert process.returncode == code, err
    step = checkpoints.Checkpoints(run, CheckpointConfig()).latest_step()
    assert step
    assert f"stopped by SIGTERM: everything up to step {step:,} is in {run}" in out
    assert shlex.split(out.splitlines()[-1]) == ["flan-train", *words]
