"""What a launch refuses and says before, and what it stops at once."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from flan_train import checkpoints, cli, errors, train
from flan_train.checkpoints import CheckpointConfig
from flan_train.evaluate import EvalConfig
from flan_train.losses import LossConfig
from flan_train.select import SelectConfig
from flan_train.sharding import ShardingConfig
from tests import cot_folder, small_run
from tests.small_run import MODEL


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Everything but the run directory."""
    return small_run.settings(tmp_path_factory.mktemp("prepared"))


def test_what_is_lost_of_the_data_is_said(
    settings: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = cot_folder.write_cot_folder(tmp_path_factory.mktemp("data"), 20, leave_out=("gsm8k",))
    data = dataclasses.replace(
        settings["data"],
        mixture_or_task_name="cot",
        data_dir=folder,
        allow_missing=True,
        feature_lengths={"inputs": 64, "targets": 48},
    )
    change = {"data": data, "evaluation": EvalConfig(), "train_steps": 1}
    train.train(str(tmp_path / "run"), **settings | change)
    shown = capsys.readouterr().out
    mixture = json.loads((tmp_path / "run" / "mixture.json").read_text())
    rows = sum(task["rows"] for task in mixture["tasks"])
    assert f"training data: {rows:,} examples of " in shown
    assert "packed sequence" in shown
    for form in ("zs", "fs", "inv"):
        assert f"cot_gsm8k_{form}" in shown
    assert shown.count("gsm8k_train.tsv is missing") == 1
    cut, fewer = (
        sum(task[name] for task in mixture["tasks"]) for name in ("inputs_cut", "fewer_shots")
    )
    assert cut
    assert fewer
    assert f"{cut:,} with their inputs cut to the limit" in shown
    assert f"{fewer:,} with fewer exemplars" in shown
    assert "mixture.json" in shown


def test_an_update_that_blows_up_is_stopped_before_it_is_saved(
    settings: dict[str, Any],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = pathlib.Path(settings["data"].prepared_dir)
    monkeypatch.chdir(folder.parent)
    change = {
        "data": dataclasses.replace(settings["data"], prepared_dir=folder.name),
        "optimizer": dataclasses.replace(settings["optimizer"], learning_rate=1e38),
        "checkpoint": CheckpointConfig(period=1),
        "evaluation": EvalConfig(),
    }
    with pytest.raises(errors.UserError) as caught:
        train.train(str(tmp_path / "run"), **settings | change)
    message = str(caught.value)
    assert "the norm of the updated parameters is not finite at step 1" in message
    assert "there is no checkpoint yet" in message
    assert "LEARNING_RATE" in message
    assert "LOSS_SPIKE_FACTOR" not in message  # it judges losses and gradients
    assert checkpoints.Checkpoints(tmp_path / "run", CheckpointConfig()).steps() == []
    # The batch is shown from anywhere, though PREPARED_DIR was relative.
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert cli.main(["inspect", str(tmp_path / "run" / "not_finite.json")]) == 0
    assert f"{small_run.TASK}/" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": dataclasses.replace(MODEL, vocab_size=512)}, "model's vocabulary of 512"),
        ({"train_steps": 0}, "TRAIN_STEPS cannot be 0"),
        ({"log_period": 0}, "LOG_PERIOD cannot be 0"),
        ({"model_dir": ""}, "MODEL_DIR cannot be ''"),
        ({"batch_size": 6}, "batch of 6 sequences does not divide"),
        ({"sharding": ShardingConfig("fsdp_tensor", 4)}, "'heads' of size 2"),
        ({"sharding": ShardingConfig("zero")}, "unknown sharding preset 'zero'"),
        ({"selection": SelectConfig(("quickstart_additon_direct",))}, "unknown suite to select by"),
        ({"selection": SelectConfig(metric="exact_mach")}, "unknown metric 'exact_mach'"),
        ({"initial_checkpoint_path": "/nowhere/at/all"}, "there is no checkpoint /nowhere/at/all"),
        ({"evaluation": EvalConfig(("quickstart_additon_direct",))}, "did you mean"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    settings: dict[str, Any], tmp_path: pathlib.Path, change: dict[str, Any], message: str
) -> None:
    data = dataclasses.replace(settings["data"], prepared_dir=str(tmp_path / "prepared"))
    with pytest.raises(errors.UserError, match=message):
        train.train(**settings | {"model_dir": str(tmp_path / "run"), "data": data} | change)
    assert not list(tmp_path.iterdir())


def test_a_step_that_does_not_compile_leaves_no_run_directory(
    settings: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    loss = LossConfig()
    object.__setattr__(loss, "label_smoothing", 1.0)  # which LossConfig would refuse
    with pytest.raises(ValueError, match=r"math domain error|positive"):
        train.train(str(tmp_path / "run"), **settings | {"loss": loss})
    assert not list(tmp_path.iterdir())


def test_missing_data_are_found_before_anything_is_written(
    settings: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    for folder in (tmp_path / "no_data", tmp_path):
        data = dataclasses.replace(
            settings["data"],
            mixture_or_task_name="cot_gsm8k_zs",
            data_dir=str(folder),
            prepared_dir=str(tmp_path / "prepared"),
        )
        with pytest.raises(errors.UserError):
            train.train(str(tmp_path / "run"), **settings | {"data": data})
        assert not list(tmp_path.iterdir())


def test_a_model_dir_that_cannot_be_made(settings: dict[str, Any], tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="MODEL_DIR cannot be made"):
        train.train(str(tmp_path / "file" / "run"), **settings)
    # As a file system that turns out to be full or read-only only when it is written to.
    (tmp_path / "run" / "config.gin").mkdir(parents=True)
    with pytest.raises(errors.UserError, match="MODEL_DIR cannot be written"):
        train.train(str(tmp_path / "run"), **settings)


def test_the_training_process_imports_no_tensorflow(repository: pathlib.Path) -> None:
    code = "import sys, flan_train.train; print([m for m in sys.modules if '.' not in m])"
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "'jax'" in output
    for name in ("tensorflow", "seqio", "torch", "tensorflow_datasets", "transformers"):
        assert f"'{name}'" not in output
