"""What comes before the first update: everything that can be wrong is found here, nothing written.

Order matters: settings and checkpoints are looked at before the data are prepared, which can take
hours, and the run directory is made after that.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
from typing import Any

from flan_train import (
    checkpoints,
    errors,
    evaluate,
    mixtures,
    prepare,
    prepared,
    scores,
    select,
    sharding,
    vocabulary,
)
from flan_train.models.t5 import T5Config

# Where the checkpoint to resume from and this launch may differ without anything being wrong.
_FREE_MODEL_FIELDS = ("dropout_rate", "dtype", "scan_layers", "remat_policy")
_FREE_SETTINGS = {
    "optimizer": "OptimizerConfig.{}",
    "loss": "LossConfig.{}",
    "batch_size": "BATCH_SIZE",
    "num_microbatches": "NUM_MICROBATCHES",
    "evaluation": "EvalConfig.{}",
    "selection": "SelectConfig.{}",
}
_UNKNOWN = object()


def check_scalars(
    model_dir: str | os.PathLike[str],
    train_steps: int,
    batch_size: int,
    num_microbatches: int,
    seed: int,
    initial_checkpoint_path: str | os.PathLike[str] | None,
    log_period: int,
) -> None:
    """Raises UserError for a setting of another type or out of its range."""
    errors.check_text("MODEL_DIR", model_dir)
    errors.check_text("INITIAL_CHECKPOINT_PATH", initial_checkpoint_path, optional=True)
    for name, value in (
        ("TRAIN_STEPS", train_steps),
        ("BATCH_SIZE", batch_size),
        ("NUM_MICROBATCHES", num_microbatches),
        ("LOG_PERIOD", log_period),
    ):
        errors.check_number(name, value, whole=True, minimum=1)
    errors.check_number("RANDOM_SEED", seed, whole=True, minimum=0, below=2**32)


def check_settings(
    model: T5Config,
    data: prepare.DataConfig,
    evaluation: evaluate.EvalConfig,
    selection: select.SelectConfig,
) -> None:
    """Raises UserError for names or a vocabulary that cannot be used, without reading the data."""
    for suite in selection.suites:
        if suite not in evaluation.suites:
            raise errors.unknown_name(
                "suite to select by", suite, evaluation.suites, where="SelectConfig.suites"
            )
    if selection.metric not in scores.EXAMPLE_SCORES:
        raise errors.unknown_name(
            "metric", selection.metric, scores.EXAMPLE_SCORES, where="SelectConfig.metric"
        )
    words = vocabulary.load_vocabulary(data.vocabulary, data.data_dir)
    vocabulary.check_model_vocabulary(words, model.vocab_size)
    for name in (data.mixture_or_task_name, *evaluation.suites):
        # Names that the user's own modules register are known only where those are imported.
        if not data.modules:
            mixtures.check_sources(name, data.data_dir, data.allow_missing)


def make_partitioner(
    config: sharding.ShardingConfig, batch_size: int, num_microbatches: int
) -> sharding.Partitioner:
    """Returns the partitioner over all devices; raises UserError if the batch does not divide."""
    partitioner = sharding.Partitioner(sharding.make_mesh(config), config.preset)
    partitioner.check_batch_size(batch_size, num_microbatches)
    return partitioner


def find_start(
    saved: checkpoints.Checkpoints,
    train_steps: int,
    initial_checkpoint_path: str | None,
    resume: bool,
    abstract_params: Any,
) -> int | None:
    """Returns the step to resume from, or None to start anew.

    Raises:
      UserError: TRAIN_STEPS lies behind the checkpoint, a checkpoint is of another model or is
        missing, or there is one and `resume` is False.
    """
    latest = saved.latest_step()
    if latest is None:
        if initial_checkpoint_path:
            checkpoints.check_params(initial_checkpoint_path, abstract_params)
        return None
    if not resume:
        raise errors.UserError(
            f"MODEL_DIR has a checkpoint of step {latest}",
            where=str(saved.folder),
            expected="a run directory without checkpoints, as --no-resume was given",
            fix="name another MODEL_DIR, or resume",
        )
    if latest > train_steps:
        raise errors.UserError(
            f"TRAIN_STEPS is {train_steps}, but MODEL_DIR's newest checkpoint is of step {latest}",
            where=str(saved.path(latest)),
            expected=f"TRAIN_STEPS of at least {latest}: it counts all steps of the run, those "
            "before a resume included",
            fix="raise TRAIN_STEPS, or name another MODEL_DIR",
        )
    checkpoints.check_params(saved.path(latest), abstract_params)
    return latest


def check_same_run(
    saved: checkpoints.Checkpoints, step: int, meta: dict[str, Any], seed: int
) -> list[str]:
    """Returns the settings that differ, harmlessly, from the checkpoint's, a line each.

    A checkpoint of a version that did not keep a setting is taken not to differ in it.

    Raises:
      UserError: the data, the seed or a setting that the parameters depend on is another one.
    """
    before = checkpoints.read_meta(saved.path(step))
    fresh = (
        f"set it back; or start a new MODEL_DIR with INITIAL_CHECKPOINT_PATH = '{saved.path(step)}'"
    )
    if before["manifest_hash"] != meta["manifest_hash"]:
        raise errors.UserError(
            f"the data are not those that the checkpoint of step {step} was trained on",
            where=f"{saved.path(step)}; then: {_data_text(before)}; now: {_data_text(meta)}",
            expected="the same examples, shares and vocabulary: the position in them is resumed",
            fix=fresh,
        )
    if before["seed"] != seed:
        raise errors.UserError(
            f"RANDOM_SEED is {seed}, but the checkpoint of step {step} was trained with "
            f"{before['seed']}",
            where=str(saved.path(step)),
            expected="the same seed: the order of the data follows from it",
            fix=fresh,
        )
    changed = []
    for name, value in meta["model"].items():
        old = before["model"].get(name)
        if old == value:
            continue
        if name not in _FREE_MODEL_FIELDS:
            raise errors.UserError(
                f"T5Config.{name} is {value!r}, but the checkpoint of step {step} was trained with "
                f"{old!r}",
                where=str(saved.path(step)),
                expected="the same model",
                fix=fresh,
            )
        changed.append(f"T5Config.{name}: {old!r} before, {value!r} now")
    for section, title in _FREE_SETTINGS.items():
        old_part, new_part = before.get(section), meta[section]
        if not isinstance(new_part, dict):
            old_part, new_part = {section: old_part}, {section: new_part}
        for name, value in new_part.items():
            old = (old_part or {}).get(name, _UNKNOWN)
            if section in before and old is not _UNKNOWN and old != value:
                changed.append(f"{title.format(name)}: {old!r} before, {value!r} now")
    return changed


def suite_data(
    data: prepare.DataConfig, suite: str, evaluation: evaluate.EvalConfig
) -> prepare.DataConfig:
    """Returns the settings that a suite is prepared with."""
    return dataclasses.replace(
        data, mixture_or_task_name=suite, examples_per_task=evaluation.examples_per_task
    )


def prepared_split(
    data: prepare.DataConfig, split: str, *, verify: bool = False
) -> prepared.PreparedDataset:
    """Returns a prepared split; with modules of the user's, a process of its own prepares it.

    They may import SeqIO, and with it TensorFlow, which would stay in this process for the run.

    Args:
      data: what to prepare.
      split: "train", "validation" or "test".
      verify: compare the contents of every file that is reused; makes damaged ones again.
    """
    if not data.modules:
        return prepare.prepare(data, split, verify=verify)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        path = pool.submit(_prepare_path, data, split, verify).result()
    return prepared.open_prepared(path, data_dir=data.data_dir)


def _prepare_path(data: prepare.DataConfig, split: str, verify: bool) -> str:
    return str(prepare.prepare(data, split, verify=verify).path)


def _data_text(meta: dict[str, Any]) -> str:
    data = meta["data"]
    return ", ".join(
        f"{name} {data.get(name)}"
        for name in ("mixture_or_task_name", "feature_lengths", "vocabulary", "seed")
    )
