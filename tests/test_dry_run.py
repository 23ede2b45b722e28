"""What a launch would do, found out without doing it."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from typing import Any

import pytest
from rich.console import Console

from flan_train import dry_run as dry
from flan_train import errors
from flan_train.checkpoints import CheckpointConfig
from flan_train.evaluate import EvalConfig
from flan_train.losses import LossConfig
from flan_train.models.t5 import T5Config, count_params
from flan_train.optimizers import OptimizerConfig
from flan_train.prepare import DataConfig
from flan_train.select import SelectConfig
from flan_train.sharding import ShardingConfig
from tests import cot_folder

MODEL = T5Config(
    vocab_size=896,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activation="relu",
    tie_embeddings=True,
)
XXL = T5Config(
    embed_dim=4096,
    num_heads=64,
    mlp_dim=10240,
    num_encoder_layers=24,
    num_decoder_layers=24,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
    dtype="bfloat16",
    remat_policy="full",
)


def look(tmp_path: pathlib.Path, **changes: Any) -> tuple[dict[str, Any], str]:
    settings: dict[str, Any] = {
        "model_dir": str(tmp_path / "run"),
        "model": MODEL,
        "data": DataConfig(
            "quickstart_addition_direct",
            {"inputs": 32, "targets": 16},
            "quickstart",
            prepared_dir=str(tmp_path / "prepared"),
        ),
        "optimizer": OptimizerConfig(),
        "loss": LossConfig(),
        "sharding": ShardingConfig("fsdp_tensor", 2),
        "checkpoint": CheckpointConfig(),
        "evaluation": EvalConfig(("quickstart_addition_direct",)),
        "selection": SelectConfig(),
        "train_steps": 100,
        "batch_size": 8,
    }
    text = io.StringIO()
    result = dry.dry_run(**settings | changes, console=Console(file=text, width=120))
    assert not list(tmp_path.iterdir())
    return result, text.getvalue()


def test_says_what_would_happen_and_writes_nothing(tmp_path: pathlib.Path) -> None:
    result, text = look(tmp_path)
    assert result["parameters"] == count_params(MODEL)
    assert result["mesh"] == {"dcn": 1, "data": 1, "fsdp": 4, "tensor": 2}
    assert result["steps"] == 100
    assert result["tokens_per_step"] == 8 * 48
    assert result["start"] is None
    assert result["problems"] == []
    assert result["tasks"][0]["task"] == "quickstart_addition_direct"
    assert result["tasks"][0]["rows"] > 100
    memory = result["memory"]
    assert memory["method"] == "the step compiled for cpu"
    # Eight devices share the parameters; the small norms are whole along `tensor`.
    assert 4 * count_params(MODEL) / 8 <= memory["parameters"] < 4 * count_params(MODEL) / 7
    assert memory["total"] > 2 * memory["parameters"] + memory["optimizer"]
    for shown in (f"{result['parameters']:,}", "random parameters", "MiB", "of 384 places"):
        assert shown in text


def test_a_run_that_repeats_its_data_too_often_is_a_problem(tmp_path: pathlib.Path) -> None:
    result, text = look(tmp_path, train_steps=1_000, max_passes=2)
    assert len(result["problems"]) == 1
    assert "1 of 1 tasks more than 2 times" in text
    assert "quickstart_addition_direct: 2,000 examples, 4.0 times" in text
    assert look(tmp_path, train_steps=1_000)[0]["problems"] == []


def test_a_large_recipe_can_be_looked_at_on_a_small_machine(tmp_path: pathlib.Path) -> None:
    result, text = look(
        tmp_path,
        model=XXL,
        sharding=ShardingConfig("fsdp_tensor", 64),
        batch_size=64,
        initial_checkpoint_path=str(tmp_path / "xxl"),
    )
    assert 11.0e9 < result["parameters"] < 11.2e9
    assert result["devices"] == 64
    assert result["memory"]["method"] == "arithmetic, a rough estimate"
    assert "GiB by arithmetic, a rough estimate:" in text
    assert result["memory"]["parameters"] == pytest.approx(4 * result["parameters"] / 64, rel=0.01)
    assert "(assumed; this machine has 8)" in text
    problems = "\n".join(result["problems"])
    assert "8 devices cannot be divided into groups of 64" in problems
    assert "there is no checkpoint" in problems
    assert "model's vocabulary of 32,128" in problems
    assert text.count("would stop") == len(result["problems"]) == 3


def test_unknown_names_are_problems_not_tracebacks(tmp_path: pathlib.Path) -> None:
    data = DataConfig("quickstrat", {"inputs": 32, "targets": 16}, "quickstart")
    result, text = look(tmp_path, data=data, sharding=ShardingConfig("tensr"))
    assert result["memory"] is None
    assert result["tasks"] == []
    assert "did you mean quickstart" in text
    assert "unknown sharding preset 'tensr'" in text


def test_devices_that_are_not_here_are_compiled_for_all_the_same(tmp_path: pathlib.Path) -> None:
    model = dataclasses.replace(MODEL, num_heads=16, embed_dim=32)
    result, text = look(
        tmp_path, model=model, sharding=ShardingConfig("fsdp_tensor", 16), batch_size=16
    )
    assert result["devices"] == 16
    assert result["memory"]["method"] == "the step compiled for cpu"
    assert result["memory"]["activations"] > 0
    assert "(assumed; this machine has 8)" in text


def test_what_it_was_compiled_for(tmp_path: pathlib.Path) -> None:
    result, _ = look(tmp_path, model=dataclasses.replace(MODEL, dtype="bfloat16"))
    wanted = "compiled for cpu (which keeps some bfloat16 as float32: accelerators need less)"
    assert wanted in result["memory"]["method"]


def test_members_that_are_there_are_shown_though_a_source_is_missing(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: pathlib.Path
) -> None:
    folder = cot_folder.write_cot_folder(tmp_path_factory.mktemp("data"), leave_out=("gsm8k",))
    data = DataConfig("cot", {"inputs": 32, "targets": 16}, "quickstart", data_dir=folder)
    result, text = look(tmp_path, data=data)
    names = [task["task"] for task in result["tasks"]]
    assert "cot_aqua_zs" in names
    assert "cot_gsm8k_zs" not in names
    assert sum(task["share"] for task in result["tasks"]) == pytest.approx(1.0)
    assert set(result["missing"]) == {f"cot_gsm8k_{form}" for form in ("zs", "fs", "inv")}
    assert "cot_aqua_zs" in text
    assert "left out: cot_gsm8k_" in text
    assert "the shares above hold without them" in text
    assert "would stop: a source of the mixture 'cot' is missing" in text


def test_of_many_tasks_the_largest_are_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry, "MOST_TASKS", 5)
    mixture = DataConfig("quickstart", {"inputs": 32, "targets": 16}, "quickstart")
    result, text = look(tmp_path, data=mixture)
    others = len(result["tasks"]) - 5
    rows = sum(task["rows"] for task in result["tasks"][:others])
    assert f"and {others} more" in text
    assert f"{rows:,}" in text
    assert sum(task["task"] in text for task in result["tasks"]) == 5


def test_settings_that_are_wrong_everywhere_are_raised(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UserError, match="BATCH_SIZE cannot be 'x'"):
        look(tmp_path, batch_size="x")


def test_activations_by_policy() -> None:
    sizes = [
        dry.activation_bytes(
            dataclasses.replace(XXL, remat_policy=policy), 1, (1024, 256), tensor=1
        )
        for policy in ("full", "dots", "none")
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    full = dataclasses.replace(XXL, remat_policy="full")
    one, two = (dry.activation_bytes(full, rows, (1024, 256)) for rows in (1, 2))
    assert two == pytest.approx(2 * one, rel=1e-6)
    assert dry.activation_bytes(full, 1, (1024, 256), tensor=8) < one
