"""What comes before the first update: everything that can be wrong is found here, nothing written.

Order matters: settings and checkpoints are looked at before the data are prepared, which can take
hours, and the run directory is made after that.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from flan_train import (
    agreement,
    checkpoint_folder,
    checkpoint_mirror,
    checkpoints,
    errors,
    evaluate,
    mixtures,
    packing,
    prepare,
    prepared,
    select,
    sharding,
    suites,
    vocabulary,
)
from flan_train.models.t5 import T5Config

# Where the checkpoint to resume from and this launch may differ without anything being wrong.
_FREE_MODEL_FIELDS = ("dropout_rate", "dtype", "scan_layers", "remat_policy", "attention")
_FREE_SETTINGS = {
    "optimizer": "OptimizerConfig.{}",
    "loss": "LossConfig.{}",
    "guard": "GuardConfig.{}",
    "batch_size": "BATCH_SIZE",
    "num_microbatches": "NUM_MICROBATCHES",
    "evaluation": "EvalConfig.{}",
    "selection": "SelectConfig.{}",
}
_UNKNOWN = object()
_SHOWN = 10


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
    errors.check_local(
        "MODEL_DIR",
        model_dir,
        "train into a local folder, and set CHECKPOINTS_COPIED_TO to the URL: each checkpoint is "
        "copied there as it is written",
    )
    errors.check_text("INITIAL_CHECKPOINT_PATH", initial_checkpoint_path, optional=True)
    for name, value in (
        ("TRAIN_STEPS", train_steps),
        ("BATCH_SIZE", batch_size),
        ("NUM_MICROBATCHES", num_microbatches),
        ("LOG_PERIOD", log_period),
    ):
        errors.check_number(name, value, whole=True, minimum=1)
    errors.check_number("RANDOM_SEED", seed, whole=True, minimum=0, below=2**32)


def known_failure(error: Exception) -> errors.UserError | None:
    """Returns what a user can do about an error of the compiler or the runtime; None if nothing."""
    text = str(error)
    line = (text.splitlines() or [""])[0][:300]
    if "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return errors.UserError(
            f"the memory of a device does not suffice: {line}",
            where="BATCH_SIZE, NUM_MICROBATCHES, REMAT_POLICY, SHARDING_PRESET, NUM_PARTITIONS",
            expected="an update that fits",
            fix="try more microbatches, REMAT_POLICY = 'full', or a preset that splits more; "
            "flan-train plan tells beforehand what a device needs",
        )
    if "No such compile option" in text:
        return errors.UserError(
            f"this version of the compiler lacks an option: {line}",
            where="sharding.ShardingConfig.cut_products = False",
            expected="the version of libtpu that constraints.txt names",
            fix="install that version, or set sharding.ShardingConfig.cut_products = True",
        )
    return None


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
    needed = [split for split in suites.SPLITS_OF[selection.protocol] if split]
    suites.check_splits(evaluation.suites, needed, "EVAL_SUITES, SELECT_PROTOCOL")
    if evaluation.suites:
        select.check_metric(
            selection.metric, selection.suites or evaluation.suites, evaluation.suites
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
    strict: bool = False,
) -> int | None:
    """Returns the newest step, which is where to resume if it is whole; None to start anew.

    All processes call this, and get the same step or an error in each of them. No array is
    read: `Checkpoints.newest_restorable` tells whether that checkpoint is whole.

    Raises:
      UserError: TRAIN_STEPS lies behind the checkpoint, a checkpoint is of another model or is
        missing, there is one and `resume` is False, there are some and none can be used, another
        run writes them, or not all processes see the same ones.
      DamagedCheckpoint: `strict`, and the newest one is seen to be damaged at first sight.
    """
    latest = max(saved.agreed_steps(), default=None)
    agreement.together(
        lambda: _check_start(
            saved, latest, train_steps, initial_checkpoint_path, resume, abstract_params, strict
        ),
        checkpoints.DamagedCheckpoint,
    )
    return latest


def _check_start(
    saved: checkpoints.Checkpoints,
    latest: int | None,
    train_steps: int,
    initial_checkpoint_path: str | None,
    resume: bool,
    abstract_params: Any,
    strict: bool,
) -> None:
    checkpoint_mirror.check_copies(saved.folder, saved.config.copied_to, latest)
    if latest is None:
        checkpoint_folder.check_some_usable(saved.folder, [])
        if initial_checkpoint_path:
            checkpoints.check_params(initial_checkpoint_path, abstract_params)
        return
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
    try:
        checkpoints.check_params(saved.path(latest), abstract_params)
    except checkpoints.DamagedCheckpoint:
        if strict:
            raise
        # Else it is dealt with where an earlier one can be taken instead.


def rest_of_run(found: checkpoints.Found, train_steps: int, batch_size: int) -> tuple[int, int]:
    """Returns the epoch in which a run goes on, and the sequences from its start to the run's end.

    Args:
      found: the checkpoint that it goes on from.
      train_steps: updates in all.
      batch_size: packed sequences of a batch.
    """
    position = found.restored.data
    rest = (train_steps - found.step) * batch_size
    # What was passed over after a loss spike moves the end on; renderings are as before that.
    passed_over = int(position.get("spikes", {}).get("passed_over", 0))
    return int(position["epoch"]), max(0, int(position["sequence"]) + rest - passed_over)


def check_same_run(
    saved: checkpoints.Checkpoints, found: checkpoints.Found, meta: dict[str, Any], seed: int
) -> list[str]:
    """Returns the settings that differ, harmlessly, from the checkpoint's, a line each.

    A checkpoint of a version that did not keep a setting is taken not to differ in it.

    Raises:
      UserError: the data, the seed or a setting that the parameters depend on is another one.
    """
    step, before = found.step, found.restored.meta
    fresh = (
        f"set it back; or start a new MODEL_DIR with INITIAL_CHECKPOINT_PATH = '{saved.path(step)}'"
    )
    if before["manifest_hash"] != meta["manifest_hash"]:
        raise errors.UserError(
            f"the data are not those that the checkpoint of step {step} was trained on",
            where=f"{saved.path(step)}; then: {_data_text(before)}; now: {_data_text(meta)}",
            expected="the same examples, shares, vocabulary and RENDERINGS: the position among the "
            "examples is resumed",
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
        old_part, new_part = before.get(section), meta.get(section)
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
    """Returns the settings that a suite is prepared with: one rendering, lengths of its own."""
    return dataclasses.replace(
        data,
        mixture_or_task_name=suite,
        feature_lengths=evaluation.feature_lengths or data.feature_lengths,
        examples_per_task=evaluation.examples_per_task,
        renderings=1,
    )


def prepared_suites(
    data: prepare.DataConfig, evaluation: evaluate.EvalConfig, split: str | None
) -> dict[str, prepared.PreparedDataset]:
    """Returns one split of each suite, prepared; nothing where there is no such split (None)."""
    return {
        suite: prepared_split(suite_data(data, suite, evaluation), split)
        for suite in evaluation.suites
        if split is not None
    }


def prepared_split(
    data: prepare.DataConfig,
    split: str,
    *,
    sequences: int | None = None,
    resumed: tuple[int, int] | None = None,
    verify: bool = False,
    engine: prepare.Engine | None = None,
) -> prepared.PreparedDataset:
    """Returns a prepared split; with modules of the user's, a process of its own prepares it.

    They may import SeqIO, and with it TensorFlow, which would stay in this process for the run.

    Args:
      data: what to prepare.
      split: "train", "validation" or "test".
      sequences: packed sequences that a run takes (steps times batch size): the tasks that come
        round again are rendered for each pass, see `DataConfig.renderings`. None: once.
      resumed: where such a run goes on, see `packing.passes_needed`.
      verify: compare the contents of every file that is reused; makes damaged ones again.
      engine: what renders the tasks, see `prepare.prepare`.
    """
    if not data.modules:
        return _prepared(data, split, sequences, resumed, verify, engine)
    spawn = multiprocessing.get_context("spawn")
    alive, held = spawn.Pipe(duplex=False)
    pool = concurrent.futures.ProcessPoolExecutor(
        1, mp_context=spawn, initializer=_end_with, initargs=(alive,)
    )
    with pool, alive, held:  # `held` is closed first, and so a run that is stopped need not wait
        arguments = (data, split, sequences, resumed, verify, engine)
        path = pool.submit(_prepared_path, *arguments).result()
    return prepared.open_prepared(path, data_dir=data.data_dir)


def _end_with(alive: Connection) -> None:
    """Ends this process when the other end of the pipe is closed, whatever it is doing."""

    def wait() -> None:
        with contextlib.suppress(EOFError, OSError):
            alive.recv()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _prepared_path(*arguments: Any) -> str:
    return str(_prepared(*arguments).path)


def _prepared(
    data: prepare.DataConfig,
    split: str,
    sequences: int | None,
    resumed: tuple[int, int] | None,
    verify: bool,
    engine: prepare.Engine | None,
) -> prepared.PreparedDataset:
    made = prepare.prepare(data, split, verify=verify, engine=engine)
    if sequences is None or data.renderings == 1:
        return made
    asked = dict.fromkeys(made.task_names, 1)
    while True:
        # A further rendering may have fewer examples than the first: then one more is needed.
        needed = packing.passes_needed(made, data.lengths, sequences, resumed)
        passes = {
            task: max(before, min(needed.get(task, 1), data.renderings))
            for task, before in asked.items()
        }
        if passes == asked:
            return made
        made = prepare.prepare(data, split, verify=verify, passes=passes, engine=engine)
        asked = passes


def check_passes(summary: Mapping[str, Any], limit: float | None) -> None:
    """Raises UserError when the run goes through a task more often than it may.

    Args:
      summary: what `run_record.mixture_summary` returned.
      limit: the most passes over a task; None for any number.
    """
    often = [task for task in summary["tasks"] if limit is not None and task["passes"] > limit]
    if not often:
        return
    often.sort(key=lambda task: -task["passes"])
    listed = "".join(
        f"\n    {task['task']}: {task['rows']:,} examples, {task['passes']:,.1f} times"
        for task in often[:_SHOWN]
    )
    more = f"\n    and {len(often) - _SHOWN:,} more" if len(often) > _SHOWN else ""
    raise errors.UserError(
        f"the run goes through {len(often):,} of {len(summary['tasks']):,} tasks more than "
        f"{limit:g} times",
        where=f"TRAIN_STEPS, BATCH_SIZE; {listed}{more}",
        expected=f"at most {limit:g} passes over a task (MAX_PASSES)",
        fix="train for fewer steps, add tasks or examples, or allow it: --gin.MAX_PASSES=None",
    )


def _data_text(meta: dict[str, Any]) -> str:
    data = meta["data"]
    return ", ".join(
        f"{name} {data.get(name)}"
        for name in ("mixture_or_task_name", "feature_lengths", "vocabulary", "seed", "renderings")
    )
