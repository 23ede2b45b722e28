"""The whole job on a real, small mixture: run directory, exact resume, and everything refused."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from flan_train import checkpoints, errors, train
from flan_train.checkpoints import CheckpointConfig
from flan_train.evaluate import EvalConfig
from flan_train.losses import LossConfig
from flan_train.models.t5 import T5Config
from flan_train.optimizers import OptimizerConfig
from flan_train.select import SelectConfig
from flan_train.sharding import ShardingConfig
from tests import small_run
from tests.resealed import reseal
from tests.small_run import MODEL, TASK


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with small_run.compiled_once(tmp_path_factory.getbasetemp() / "programs"):
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything but the run directory."""
    return small_run.settings(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def whole_run(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, train.TrainResult]:
    """A run of six steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train.train(str(folder), **settings)


@pytest.fixture
def run_copy(
    whole_run: tuple[pathlib.Path, train.TrainResult], tmp_path: pathlib.Path
) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(whole_run[0], tmp_path / "copy"))


def log_lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    clock = ("time", "useful_tokens_per_second", "step_seconds", "input_wait", "goodput")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def final_arrays(folder: pathlib.Path, step: int) -> Any:
    return checkpoints.load_params(folder / "checkpoints" / str(step))[0]


def files_of(folder: pathlib.Path) -> dict[str, float]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_run_directory(
    whole_run: tuple[pathlib.Path, train.TrainResult], settings: dict[str, Any]
) -> None:
    folder, result = whole_run
    lines = log_lines(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert result.final_loss == lines[-1]["loss"]
    assert result.steps == 6
    assert all(line["tokens"] == 8 * 80 for line in lines)
    assert all(0.5 < line["fill_encoder"] <= 1 for line in lines)
    assert {"prepare", "compile", "train", "evaluate", "save"} <= result.seconds.keys()
    selected = json.loads((folder / "selected.json").read_text())
    assert selected == result.selected
    assert {candidate["step"] for candidate in selected["candidates"]} >= {selected["step"], 6}
    # keep=1, yet the chosen checkpoint is there.
    kept = {int(path.name) for path in (folder / "checkpoints").iterdir()}
    assert kept == {selected["step"], 6}
    for suite, steps in ((TASK, (3, 6)), (f"{TASK}_test", (selected["step"],))):
        for step in steps:
            scored = json.loads((folder / "eval" / suite / f"{step}.json").read_text())
            assert scored["checkpoint"] == f"checkpoints/{step}"
            assert scored["metrics"][TASK]["n"] > 0
    mixture = json.loads((folder / "mixture.json").read_text())
    assert mixture["mixture"] == TASK
    assert mixture["tasks"][0]["rows"] == 100
    assert mixture["tasks"][0]["share"] == 1.0
    # 48 sequences are more than one pass over 100 short examples.
    passes = 48 / mixture["packing"]["sequences"]
    assert mixture["tasks"][0]["passes"] == pytest.approx(passes, abs=1e-3)
    assert mixture["tasks"][0]["renderings"] >= passes > 1
    assert mixture["renderings"] == 16
    assert mixture["packing"]["examples"] == 100
    assert mixture["packing"]["lower_bound"] <= mixture["packing"]["sequences"]
    assert 0.5 < mixture["packing"]["fill_encoder"] <= 1
    entry = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert 0 <= entry["input_wait"] <= 1
    assert sum(entry["goodput"].values()) == pytest.approx(1)
    assert {"steps", "compilation", "evaluation", "saves", "other"} <= entry["goodput"].keys()
    assert "learning_rate" in (folder / "config.gin").read_text()
    assert list((folder / "metrics").glob("events.*"))
    meta = checkpoints.read_meta(folder / "checkpoints" / "6")
    assert meta["step"] == 6
    assert T5Config(**meta["model"]) == settings["model"]
    assert meta["data"]["vocabulary"] == "quickstart"
    assert meta["config_hash"]
    assert meta["manifest_hash"]


def test_a_profiled_launch_leaves_a_trace_and_the_same_run(
    whole_run: tuple[pathlib.Path, train.TrainResult],
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launched = time.monotonic() - 100
    train.train(str(tmp_path), **settings, profile=True, launched=launched)
    assert log_lines(tmp_path) == log_lines(whole_run[0])
    (path,) = (tmp_path / "profile").rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    assert sorted(map(int, steps)) == [3, 4, 5]
    said = capsys.readouterr().out
    assert f"trace of steps 3-5 in {tmp_path / 'profile'}" in said.replace("\n", "")
    # Of this launch, with what came before the call: after each evaluation, and at the end.
    assert said.count("goodput of this launch: steps ") == 3
    shares = [json.loads(line)["goodput"] for line in (tmp_path / "log.jsonl").open()]
    assert all(sum(each.values()) == pytest.approx(1) for each in shares)
    assert all(each["start"] > 0.3 for each in shares)


def test_a_resumed_run_is_bit_identical_to_an_undisturbed_one(
    whole_run: tuple[pathlib.Path, train.TrainResult],
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "resumed"
    first = train.train(str(folder), **settings | {"train_steps": 3})
    assert first.steps == 3
    mixtures = [json.loads((run / "mixture.json").read_text()) for run in (folder, whole_run[0])]
    few, more = (mixture["tasks"][0]["renderings"] for mixture in mixtures)
    assert few < more  # what is added for the rest of the run changes nothing before it
    # What a killed process leaves: steps beyond the checkpoint, and half a line.
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "loss": 123.0}\n{"step": 5, "lo')
    capsys.readouterr()
    train.train(str(folder), **settings)
    shown = " ".join(capsys.readouterr().out.split())
    assert "resuming from the checkpoint of step 3" in shown
    assert "the run goes through 1 task up to " in shown
    assert f"in up to {more} renderings with templates and exemplars drawn for each" in shown
    assert log_lines(folder) == log_lines(whole_run[0])
    jax.tree.map(
        np.testing.assert_array_equal, final_arrays(folder, 6), final_arrays(whole_run[0], 6)
    )
    for step in (3, 6):
        one, two = (
            json.loads((run / "eval" / TASK / f"{step}.json").read_text())["metrics"]
            for run in (folder, whole_run[0])
        )
        assert one == two
    chosen = [json.loads((f / "selected.json").read_text()) for f in (folder, whole_run[0])]
    assert chosen[0]["step"] == chosen[1]["step"]
    assert chosen[0]["score"] == chosen[1]["score"]


def test_another_mesh_goes_on_with_the_same_losses(
    whole_run: tuple[pathlib.Path, train.TrainResult],
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
) -> None:
    folder = tmp_path / "moved"
    # Lines of the log end at checkpoints; beyond that they are as long as log_period says.
    train.train(str(folder), **settings | {"train_steps": 3, "log_period": 10})
    assert [line["step"] for line in log_lines(folder)] == [2, 3]
    moved = {"sharding": ShardingConfig("fsdp"), "train_steps": 4, "evaluation": EvalConfig()}
    train.train(str(folder), **settings | moved)
    before, after = log_lines(whole_run[0])[3], log_lines(folder)[-1]
    assert after["step"] == before["step"] == 4
    assert after["useful_tokens"] == before["useful_tokens"]
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)


def test_nothing_left_to_train(
    run_copy: pathlib.Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = log_lines(run_copy)
    # The run was ended before its last evaluation was complete.
    missing = run_copy / "eval" / TASK / "6.json"
    wanted = json.loads(missing.read_text())["metrics"]
    missing.unlink()
    (run_copy / "selected.json").unlink()
    result = train.train(str(run_copy), **settings)
    assert "nothing is left to train" in capsys.readouterr().out
    assert result.final_loss is None
    assert result.steps == 6
    assert "compile" not in result.seconds
    assert log_lines(run_copy) == before
    assert json.loads(missing.read_text())["metrics"] == wanted
    assert (run_copy / "selected.json").is_file()


def test_without_suites_nothing_is_selected(
    run_copy: pathlib.Path, settings: dict[str, Any]
) -> None:
    (run_copy / "selected.json").unlink()
    result = train.train(str(run_copy), **settings | {"evaluation": EvalConfig()})
    assert result.selected is None
    assert not (run_copy / "selected.json").exists()


def test_starting_from_parameters(
    whole_run: tuple[pathlib.Path, train.TrainResult],
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = whole_run[0] / "checkpoints" / "latest"
    folder = tmp_path / "continued"
    short = {"train_steps": 1, "evaluation": EvalConfig()}
    train.train(str(folder), **settings | short | {"initial_checkpoint_path": str(given)})
    shown = " ".join(capsys.readouterr().out.split())
    assert f"starting from {given.with_name('6')}" in shown
    assert log_lines(folder)[0]["loss"] < log_lines(whole_run[0])[0]["loss"] - 0.1
    # Once the run has checkpoints of its own, the initial one is not looked at again.
    again = {"initial_checkpoint_path": str(tmp_path / "gone"), "train_steps": 2}
    train.train(str(folder), **settings | short | again)
    assert [line["step"] for line in log_lines(folder)] == [1, 2]


def test_a_loss_that_is_not_finite_names_step_tasks_examples_and_checkpoint(
    whole_run: tuple[pathlib.Path, train.TrainResult],
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
) -> None:
    params = final_arrays(whole_run[0], 6)
    params["decoder"]["decoder_norm"]["scale"][3] = np.nan
    checkpoints.save_params(tmp_path / "poisoned", params, {"model": {}})
    folder = tmp_path / "run"
    start = {"initial_checkpoint_path": str(tmp_path / "poisoned"), "log_period": 10}
    # Periods longer than the run: the flag is looked at once, and still names the first step.
    start |= {"checkpoint": CheckpointConfig(period=100), "evaluation": EvalConfig()}
    with pytest.raises(errors.UserError) as caught:
        train.train(str(folder), **settings | start)
    message = str(caught.value)
    assert "not finite at step 1" in message
    assert f"tasks {TASK} (" in message
    assert f"examples {TASK}/" in message
    assert "there is no checkpoint yet" in message
    written = json.loads((folder / "not_finite.json").read_text())
    assert written["step"] == 1
    assert {example["task"] for example in written["examples"]} == {TASK}
    assert f"({len(written['examples'])})" in message
    assert not (folder / "log.jsonl").read_text()

    # The same in the middle of a run: the checkpoint before is named.
    later = pathlib.Path(shutil.copytree(whole_run[0], tmp_path / "later"))
    arrays = later / "checkpoints" / "6" / "params"
    shutil.rmtree(arrays)
    shutil.copytree(tmp_path / "poisoned" / "params", arrays)
    reseal(later / "checkpoints" / "6")  # else the damage would be seen
    with pytest.raises(errors.UserError) as caught:
        train.train(str(later), **settings | {"train_steps": 12, "evaluation": EvalConfig()})
    assert "not finite at step 7" in str(caught.value)
    assert f"was finite is {later / 'checkpoints' / '6'}" in str(caught.value)
    assert "launching again unchanged fails at the same step" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_steps": 5}, "TRAIN_STEPS is 5, but MODEL_DIR's newest checkpoint is of step 6"),
        ({"resume": False}, "MODEL_DIR has a checkpoint of step 6"),
        ({"seed": 6, "train_steps": 7}, "RANDOM_SEED is 6"),
        (
            {"model": dataclasses.replace(MODEL, mlp_dim=48)},
            r"wi/kernel: \[1, 16, 32\] in the checkpoint, \[1, 16, 48\] in this model",
        ),
        (
            {"model": dataclasses.replace(MODEL, relative_max_distance=64), "train_steps": 7},
            "T5Config.relative_max_distance is 64, but the checkpoint of step 6 was trained with",
        ),
        (
            {"optimizer": OptimizerConfig(learning_rate=0.01), "train_steps": 7},
            "of another optimizer",
        ),
    ],
)
def test_a_run_that_cannot_be_resumed_is_left_as_it_is(
    run_copy: pathlib.Path, settings: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    before = files_of(run_copy)
    with pytest.raises(errors.UserError, match=message):
        train.train(str(run_copy), **settings | change)
    assert files_of(run_copy) == before


def test_a_damaged_newest_checkpoint_is_trained_again(
    whole_run: tuple[pathlib.Path, train.TrainResult],
    run_copy: pathlib.Path,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = run_copy / "checkpoints"
    earlier = [step for step in sorted(int(path.name) for path in folder.iterdir()) if step < 6]
    assert earlier
    largest = max(
        (path for path in (folder / "6" / "params").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(raw)
    before = files_of(run_copy)
    with pytest.raises(errors.UserError, match="step 6 is damaged, and --strict was given"):
        train.train(str(run_copy), **settings, strict=True)
    start = {"initial_checkpoint_path": str(folder / "6"), "train_steps": 1}
    with pytest.raises(errors.UserError, match="params"):
        train.train(str(run_copy.parent / "other"), **settings | start)
    assert files_of(run_copy) == before
    train.train(str(run_copy), **settings)
    assert f"goes on from the checkpoint of step {earlier[-1]}" in caplog.text
    assert (folder / "6.damaged").is_dir()
    assert log_lines(run_copy) == log_lines(whole_run[0])
    jax.tree.map(
        np.testing.assert_array_equal, final_arrays(run_copy, 6), final_arrays(whole_run[0], 6)
    )
    chosen = [json.loads((run / "selected.json").read_text()) for run in (run_copy, whole_run[0])]
    assert chosen[0] == chosen[1]


def test_other_data_cannot_be_resumed_with(
    run_copy: pathlib.Path, settings: dict[str, Any]
) -> None:
    before = files_of(run_copy)
    other = dataclasses.replace(settings["data"], seed=1)
    with pytest.raises(errors.UserError, match="the data are not those") as caught:
        train.train(str(run_copy), **settings | {"data": other, "train_steps": 7})
    assert "INITIAL_CHECKPOINT_PATH" in str(caught.value)
    assert files_of(run_copy) == before


def test_other_lengths_cannot_be_resumed_with(
    run_copy: pathlib.Path, settings: dict[str, Any]
) -> None:
    """The ids are the same; what is packed together, and so every batch, is not."""
    before = files_of(run_copy)
    other = dataclasses.replace(settings["data"], feature_lengths={"inputs": 80, "targets": 16})
    with pytest.raises(errors.UserError, match="the data are not those") as caught:
        train.train(str(run_copy), **settings | {"data": other, "train_steps": 7})
    for lengths in ("{'inputs': 64, 'targets': 16}", "{'inputs': 80, 'targets': 16}"):
        assert f"feature_lengths {lengths}" in str(caught.value)
    assert files_of(run_copy) == before


def test_another_limit_of_renderings_cannot_be_resumed_with(
    run_copy: pathlib.Path, settings: dict[str, Any]
) -> None:
    before = files_of(run_copy)
    other = dataclasses.replace(settings["data"], renderings=2)
    with pytest.raises(errors.UserError, match="the data are not those") as caught:
        train.train(str(run_copy), **settings | {"data": other, "train_steps": 7})
    for number in (16, 2):
        assert f"renderings {number}" in caught.value.where
    assert files_of(run_copy) == before


def test_settings_that_may_change_are_told(
    run_copy: pathlib.Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"model": dataclasses.replace(MODEL, dropout_rate=0.0), "evaluation": EvalConfig()}
    train.train(str(run_copy), **settings | other)
    assert "T5Config.dropout_rate: 0.1 before, 0.0 now" in capsys.readouterr().out


def test_every_other_setting_that_changed_is_told(
    run_copy: pathlib.Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    meta = checkpoints.read_meta(run_copy / "checkpoints" / "6")
    assert OptimizerConfig(**meta["optimizer"]) == settings["optimizer"]
    assert EvalConfig(**meta["evaluation"]) == settings["evaluation"]
    assert SelectConfig(**meta["selection"]) == settings["selection"]
    other = {
        "optimizer": dataclasses.replace(settings["optimizer"], learning_rate=0.02),
        "loss": LossConfig(label_smoothing=0.1),
        "batch_size": 16,
        "num_microbatches": 2,
        "evaluation": dataclasses.replace(settings["evaluation"], suites=(), examples_per_task=4),
    }
    train.train(str(run_copy), **settings | other)
    told = [line for line in capsys.readouterr().out.splitlines() if "other than before" in line]
    assert [line.removeprefix("other than before: ") for line in told] == [
        "OptimizerConfig.learning_rate: 0.01 before, 0.02 now",
        "LossConfig.label_smoothing: 0.0 before, 0.1 now",
        "BATCH_SIZE: 8 before, 16 now",
        "NUM_MICROBATCHES: 1 before, 2 now",
        f"EvalConfig.suites: ['{TASK}'] before, [] now",
        "EvalConfig.examples_per_task: 8 before, 4 now",
    ]


def test_a_checkpoint_that_kept_fewer_settings_resumes(
    run_copy: pathlib.Path, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_copy / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(file.read_text())
    kept = ("optimizer", "loss", "batch_size", "num_microbatches", "evaluation", "selection")
    for name in kept:
        del meta[name]
    file.write_text(json.dumps(meta))
    reseal(run_copy / "checkpoints" / "6")
    train.train(str(run_copy), **settings | {"batch_size": 16, "evaluation": EvalConfig()})
    assert "other than before" not in capsys.readouterr().out
