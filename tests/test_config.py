"""Gin files resolve to what is expected, and every mistake in one is a message that helps."""

from __future__ import annotations

import pathlib

import gin
import pytest

from flan_train import config
from flan_train.errors import UserError
from tests.golden import make_configs

QUICKSTART = "t5x_configs/recipes/quickstart.gin"


@pytest.fixture(autouse=True)
def _clean() -> None:
    gin.clear_config()


@pytest.mark.parametrize("recipe", make_configs.recipes())
def test_every_recipe_resolves_to_its_golden_file(recipe: str, repository: pathlib.Path) -> None:
    golden = repository / "tests" / "golden" / "configs" / f"{recipe}.txt"
    assert make_configs.resolved(recipe) == golden.read_text("utf-8"), (
        "the recipe changed; if on purpose: python tests/golden/make_configs.py"
    )


@pytest.mark.parametrize(
    ("size", "batch", "steps"),
    [("small", 64, 98000), ("base", 64, 84000), ("large", 64, 64000), ("xl", 64, 38000),
     ("xxl", 64, 14000)],
)  # fmt: skip
def test_flan_t5_recipes_hold_the_papers_numbers(size: str, batch: int, steps: int) -> None:
    resolved = config.resolve([f"t5x_configs/recipes/flan_t5_{size}.gin"])
    flat = resolved.flat(make_configs.ROOT)
    assert flat["batch_size"] == batch
    assert flat["train_steps"] == steps
    assert flat["optimizer.learning_rate"] == 5e-4
    assert flat["optimizer.warmup_steps"] == 0
    assert flat["model.dropout_rate"] == 0.05
    assert flat["data.feature_lengths.inputs"] == 1024
    assert flat["data.feature_lengths.targets"] == 256


def test_a_setting_on_the_command_line_wins() -> None:
    resolved = config.resolve([QUICKSTART], ["TRAIN_STEPS = 7", "T5Config.embed_dim = 64"])
    flat = resolved.flat(make_configs.ROOT)
    assert flat["train_steps"] == 7
    assert flat["model.embed_dim"] == 64


def test_a_parameter_set_by_hand_makes_no_mistake_of_the_macro_it_had() -> None:
    resolved = config.resolve([QUICKSTART], ["train.train.batch_size = 8"])
    assert resolved.flat(make_configs.ROOT)["batch_size"] == 8


def test_a_gin_file_that_is_no_text_is_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.gin"
    path.write_bytes(b"caf\xe9 = 1\n")
    assert str(path) in _message([str(path)], [])


def _message(files: list[str], bindings: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        config.resolve(files, bindings).arguments(make_configs.ROOT)
    return str(caught.value)


def test_a_misspelt_macro_names_file_line_and_the_nearest(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.gin"
    path.write_text(f"include '{QUICKSTART}'\n\nDROPUT_RATE = 0.1\n", "utf-8")
    message = _message([str(path)], [])
    assert "nothing reads the setting 'DROPUT_RATE'" in message
    assert f"{path}, line 3" in message
    assert "DROPOUT_RATE" in message


def test_a_misspelt_parameter_names_file_line_and_the_nearest(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.gin"
    path.write_text(f"include '{QUICKSTART}'\nt5.T5Config.embed_dimm = 64\n", "utf-8")
    message = _message([str(path)], [])
    assert "no parameter 'embed_dimm'" in message
    assert f"{path}, line 2" in message
    assert "embed_dim" in message
    assert "In call to configurable" not in message


def test_a_misspelt_configurable_names_the_nearest() -> None:
    message = _message([QUICKSTART], ["OptimizerConfg.learning_rate = 1.0"])
    assert "nothing configurable is called 'OptimizerConfg'" in message
    assert "OptimizerConfig" in message
    assert "--gin.OptimizerConfg" in message


def test_a_binding_that_nothing_reaches_is_refused() -> None:
    message = _message([QUICKSTART], ["elsewhere/T5Config.embed_dim = 64"])
    assert "nothing uses the binding" in message
    assert "embed_dim" in message
    assert "In call to configurable" not in message


def test_an_unset_macro_says_how_to_set_it() -> None:
    message = _message(["t5x_configs/recipes/cot_small_demo.gin"], [])
    assert "MODEL_DIR is not set" in message
    assert "--gin.MODEL_DIR=VALUE" in message


def test_a_forgotten_quote_is_explained() -> None:
    message = _message([QUICKSTART], ["MODEL_DIR = runs/mine"])
    assert "--gin.MODEL_DIR" in message
    assert "quotes" in message


def test_a_missing_gin_file_names_the_nearest() -> None:
    message = _message(["t5x_configs/recipes/quikstart.gin"], [])
    assert "no gin file" in message
    assert QUICKSTART in message


def test_a_launch_file_for_t5x_is_known() -> None:
    message = _message(["t5x_configs/t5x/flan_t5_base_finetune.gin"], [])
    assert "the gin file is one of T5X's" in message
    assert "dynamic_registration" in message
    assert "docs/migrating_from_t5x.md" in message


def test_files_that_include_each_other_are_refused(tmp_path: pathlib.Path) -> None:
    first, second = tmp_path / "first.gin", tmp_path / "second.gin"
    first.write_text(f"include '{second}'\n", "utf-8")
    second.write_text(f"include '{first}'\n", "utf-8")
    assert "in a circle" in _message([str(first)], [])


def test_a_missing_include_names_the_line_that_asks_for_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.gin"
    path.write_text("include 'nowhere.gin'\n", "utf-8")
    message = _message([str(path)], [])
    assert "nowhere.gin" in message
    assert f"{path}, line 1" in message


def test_a_root_without_its_arguments_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.gin"
    path.write_text("train.train.model_dir = 'x'\n", "utf-8")
    message = _message([str(path)], [])
    assert "is not told its model" in message


def test_a_refused_value_is_one_message() -> None:
    message = _message([QUICKSTART], ["T5Config.embed_dim = -1"])
    assert "embed_dim" in message
    assert "In call to configurable" not in message
