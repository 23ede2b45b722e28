"""What is found before a launch: settings that cannot be, and data that others prepare."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flan_train import errors, launch
from flan_train.checkpoints import CheckpointConfig
from flan_train.losses import LossConfig
from flan_train.optimizers import OptimizerConfig
from flan_train.prepare import DataConfig
from flan_train.sharding import ShardingConfig

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
    errors.check_writable("MODEL_DIR", tmp_path / "new" / "run")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UserError, match="file is not a folder"):
        errors.check_writable("MODEL_DIR", tmp_path / "file" / "run")


SCALARS: dict[str, Any] = {
    "model_dir": "run",
    "train_steps": 10,
    "batch_size": 8,
    "num_microbatches": 1,
    "seed": 0,
    "initial_checkpoint_path": None,
    "log_period": 10,
}


def scalars(**changes: Any) -> None:
    launch.check_scalars(**SCALARS | changes)


NOT_COUNTS = ("x", None, True, 4.5, 0, -1)
NOT_POSITIVE = ("a", None, True, -1.0, 0, float("nan"), float("inf"))
REFUSED: list[tuple[Callable[..., Any], str, str, tuple[Any, ...]]] = [
    (scalars, "model_dir", "MODEL_DIR", (5, None, "", " ")),
    (scalars, "initial_checkpoint_path", "INITIAL_CHECKPOINT_PATH", (3, "")),
    (scalars, "train_steps", "TRAIN_STEPS", NOT_COUNTS),
    (scalars, "batch_size", "BATCH_SIZE", NOT_COUNTS),
    (scalars, "num_microbatches", "NUM_MICROBATCHES", NOT_COUNTS),
    (scalars, "log_period", "LOG_PERIOD", NOT_COUNTS),
    (scalars, "seed", "RANDOM_SEED", ("x", None, True, 1.5, -1, 2**32)),
    (ShardingConfig, "preset", "SHARDING_PRESET", (None, 3, "")),
    (ShardingConfig, "num_partitions", "NUM_PARTITIONS", NOT_COUNTS),
    (OptimizerConfig, "learning_rate", "LEARNING_RATE", NOT_POSITIVE),
    (OptimizerConfig, "warmup_steps", "WARMUP_STEPS", ("x", None, True, 1.5, -5)),
    (OptimizerConfig, "decay_exponent", "OptimizerConfig.decay_exponent", NOT_POSITIVE),
    (OptimizerConfig, "clip_threshold", "OptimizerConfig.clip_threshold", NOT_POSITIVE),
    (OptimizerConfig, "epsilon_gradient", "OptimizerConfig.epsilon_gradient", NOT_POSITIVE),
    (OptimizerConfig, "epsilon_scale", "OptimizerConfig.epsilon_scale", NOT_POSITIVE),
    (
        OptimizerConfig,
        "min_dim_size_to_factor",
        "OptimizerConfig.min_dim_size_to_factor",
        NOT_COUNTS,
    ),
    (
        OptimizerConfig,
        "multiply_by_parameter_scale",
        "OptimizerConfig.multiply_by_parameter_scale",
        (1, None, "True"),
    ),
    (LossConfig, "z_loss", "Z_LOSS", ("x", None, True, -1e-4, float("inf"))),
    (LossConfig, "label_smoothing", "LABEL_SMOOTHING", ("x", None, True, -0.1, 1.0, 2)),
    (CheckpointConfig, "period", "CHECKPOINT_PERIOD", NOT_COUNTS),
    (CheckpointConfig, "keep", "CHECKPOINTS_TO_KEEP", ("x", True, 1.5, 0, -1)),
    (CheckpointConfig, "keep_every", "CHECKPOINT_KEEP_EVERY", ("x", True, 1.5, 0, -1)),
    (CheckpointConfig, "keep_best", "CHECKPOINTS_BEST", ("x", True, 1.5, None, -1)),
]


@pytest.mark.parametrize(
    ("make", "field", "name", "value"),
    [(make, field, name, value) for make, field, name, values in REFUSED for value in values],
)
def test_settings_of_another_type_or_out_of_range(
    make: Callable[..., Any], field: str, name: str, value: Any
) -> None:
    with pytest.raises(errors.UserError) as caught:
        make(**{field: value})
    assert caught.value.what == f"{name} cannot be {value!r}"
    assert caught.value.expected


def test_settings_at_their_limits() -> None:
    scalars()
    scalars(model_dir=pathlib.Path("run"), seed=2**32 - 1, initial_checkpoint_path="given")
    assert CheckpointConfig(period=1, keep=None).keep is None
    OptimizerConfig(learning_rate=1, warmup_steps=0)
    LossConfig(z_loss=0, label_smoothing=0.999)


def test_the_message_says_what_was_expected() -> None:
    for make, wanted in (
        (lambda: LossConfig(label_smoothing=1.0), "a number of at least 0 and below 1"),
        (lambda: CheckpointConfig(keep=0), "a whole number of at least 1, or None"),
        (lambda: OptimizerConfig(learning_rate=0), "a number above 0"),
    ):
        with pytest.raises(errors.UserError) as caught:
            make()
        assert caught.value.expected == wanted


def test_a_task_that_comes_round_too_often_is_refused() -> None:
    tasks = [
        {"task": f"task_{number}", "rows": 100, "passes": passes}
        for number, passes in enumerate([0.4, 2.0, 2.1, 7.5, *[3.0] * 10])
    ]
    launch.check_passes({"tasks": tasks}, None)
    launch.check_passes({"tasks": tasks[:2]}, 2)
    with pytest.raises(errors.UserError) as caught:
        launch.check_passes({"tasks": tasks}, 2)
    said = str(caught.value)
    assert "12 of 14 tasks more than 2 times" in said
    assert "task_3: 100 examples, 7.5 times" in said
    assert "task_1:" not in said
    assert "and 2 more" in said
    assert "MAX_PASSES=None" in said


def test_memory_that_runs_out_is_told_with_what_helps() -> None:
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jnp.zeros(2**50, jnp.int8))
    known = launch.known_failure(caught.value)
    assert known is not None
    assert "does not suffice" in known.what
    assert "microbatches" in known.fix
    assert launch.known_failure(RuntimeError("INVALID_ARGUMENT: something else")) is None


def test_an_option_that_the_compiler_lacks_is_told_with_the_setting() -> None:
    step = jax.jit(lambda x: x + 1).lower(1.0)
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        step.compile(compiler_options={"xla_there_is_none": 1})
    known = launch.known_failure(caught.value)
    assert known is not None
    assert "cut_products" in known.fix
