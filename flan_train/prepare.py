"""Renders and tokenises every task of a mixture once, into a prepared dataset on disk.

Each task is a folder named by everything that decides its bytes, so a second run makes only what
is new or changed, an interrupted one goes on where it stopped, and mixtures share their tasks.
Tasks run in parallel processes; the bytes do not depend on how many.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import gin

from flan_train import mixtures, shards, tasks
from flan_train.errors import UserError
from flan_train.mixtures import rates
from flan_train.prepare_progress import Progress
from flan_train.prepared import PreparedDataset, open_prepared, write_mixture
from flan_train.rendering import SUMMARY, Plan, TaskJob, check_bad_rows, render_task
from flan_train.vocabulary import Vocabulary, load_vocabulary

# Starting processes takes a second or two: below so many rows one process is faster.
_FEW_ROWS = 20_000


@gin.register(module="flan_train.prepare")
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is prepared, and how.

    Attributes:
      mixture_or_task_name: a mixture or task of ours, or any that SeqIO knows once `modules` are
        imported.
      feature_lengths: limits in tokens, EOS included, {"inputs": ..., "targets": ...}.
      vocabulary: "quickstart", "t5" or the path of a SentencePiece model.
      data_dir: the data folder; None for FLAN_DATA_DIR.
      prepared_dir: where prepared datasets are kept; any number of runs can share it. None for
        FLAN_PREPARED_DIR, or else .cache/flan-train/prepared in the home folder.
      seed: of templates, options and exemplars.
      allow_missing: go on without the tasks whose source is missing (the manifest lists them).
      max_bad_rows: bad rows of a task that may be left out; they are listed in the manifest.
      num_workers: processes; None for one a core.
      examples_per_task: only so many of each task, for evaluation suites; None for all.
      modules: Python modules to import first, which register tasks and mixtures.
    """

    mixture_or_task_name: str
    feature_lengths: Mapping[str, int]
    vocabulary: str = "t5"
    data_dir: str | None = None
    prepared_dir: str | None = None
    seed: int = 0
    allow_missing: bool = False
    max_bad_rows: int = 0
    num_workers: int | None = None
    examples_per_task: int | None = None
    modules: Sequence[str] = ()

    def __post_init__(self) -> None:
        lengths = self.feature_lengths
        if set(lengths) != {"inputs", "targets"} or any(
            not isinstance(length, int) or length < 2 for length in lengths.values()
        ):
            raise UserError(
                f"feature lengths cannot be {dict(lengths)}",
                where="TASK_FEATURE_LENGTHS",
                expected='{"inputs": N, "targets": M}, whole numbers of at least 2',
                fix='for example {"inputs": 1024, "targets": 256}',
            )
        for name in ("num_workers", "examples_per_task"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(
                    f"{name} cannot be {value}",
                    where=f"DataConfig.{name}",
                    expected="at least 1, or None",
                )

    @property
    def root(self) -> pathlib.Path:
        """The folder that `prepared_dir` stands for."""
        named = self.prepared_dir or os.environ.get("FLAN_PREPARED_DIR")
        return pathlib.Path(named or pathlib.Path.home() / ".cache" / "flan-train" / "prepared")

    @property
    def lengths(self) -> tuple[int, int]:
        """Limits of inputs and targets."""
        return self.feature_lengths["inputs"], self.feature_lengths["targets"]


def needs_seqio(config: DataConfig) -> bool:
    """Returns whether preparing may take SeqIO and TensorFlow: the name is not known here.

    A process that trains must not import them, nor modules of the user's that do: it lets a
    process of its own prepare then. Without modules an unknown name is a mistake, not theirs.
    """
    return bool(config.modules) and not _is_ours(config.mixture_or_task_name)


def _is_ours(name: str) -> bool:
    return mixtures.find(name) is not None or name in tasks.names()


def import_modules(modules: Sequence[str]) -> None:
    """Imports the user's modules.

    Raises:
      UserError: there is no such module.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise
            raise UserError(
                f"there is no Python module '{name}'",
                where="DataConfig.modules",
                expected="a module that can be imported here",
                fix="set PYTHONPATH to the folder that holds it",
            ) from None


def prepare(config: DataConfig, split: str = "train", progress: bool = True) -> PreparedDataset:
    """Returns the prepared dataset of a mixture, made now as far as it does not exist.

    Idempotent: finished tasks are reused, damaged ones made again.

    Args:
      config: what to prepare.
      split: "train", "validation" or "test".
      progress: show bars on the terminal.

    Raises:
      UserError: an unknown name, missing sources (all are listed), a bad row, an empty mixture, a
        vocabulary that cannot be read, a disk that is full.
    """
    plan = _plan(config, split)
    root = config.root
    with shards.explained_disk_errors(root):
        for folder in (root / "tasks", root / "mixtures"):
            folder.mkdir(parents=True, exist_ok=True)
            shards.remove_leftovers(folder)
    summaries = _render(plan, config, progress)
    shares = plan.shares({job.task: summaries[job.task]["examples"] for job in plan.jobs})
    if not any(share > 0 for share in shares.values()):
        raise UserError(
            f"the mixture '{config.mixture_or_task_name}' is empty: no example is left",
            where=f"split {split}; " + "; ".join(_drops(summaries[j.task]) for j in plan.jobs[:5]),
            expected="at least one example",
            fix="raise TASK_FEATURE_LENGTHS, or choose another split or mixture",
        )
    members = [
        (job.folder.name, summaries[job.task], shares.get(job.task, 0.0)) for job in plan.jobs
    ]
    header = _header(config, split, plan)
    with shards.explained_disk_errors(root):
        return open_prepared(write_mixture(root, header, members))


def _plan(config: DataConfig, split: str) -> Plan:
    name, data_dir = config.mixture_or_task_name, config.data_dir
    if needs_seqio(config):
        import_modules(config.modules)
    if needs_seqio(config):  # still: the modules registered it with SeqIO alone
        from flan_train import foreign

        return foreign.plan(
            name,
            split,
            vocabulary=load_vocabulary(config.vocabulary, data_dir),
            data_dir=data_dir,
            modules=config.modules,
            allow_missing=config.allow_missing,
            make_job=functools.partial(_job, config, split),
        )
    sources = mixtures.check_sources(name, data_dir, config.allow_missing)
    vocabulary = load_vocabulary(config.vocabulary, data_dir)
    jobs = []
    for task in sources.present:
        definition = tasks.get(task)
        source = definition.source_fingerprint(split, data_dir)
        jobs.append(_job(config, split, vocabulary, task, source, definition.template_hash()))
    mixture = mixtures.get(name)
    return Plan(
        tuple(jobs), sources.missing, lambda counts: rates.shares(mixture, counts), vocabulary
    )


def _job(
    config: DataConfig,
    split: str,
    vocabulary: Vocabulary,
    task: str,
    source_fingerprint: str,
    template_hash: str,
) -> TaskJob:
    return TaskJob(
        task=task,
        split=split,
        root=config.root,
        data_dir=config.data_dir,
        vocabulary=config.vocabulary,
        vocabulary_sha256=vocabulary.sha256,
        vocabulary_size=vocabulary.size,
        lengths=config.lengths,
        seed=config.seed,
        examples=config.examples_per_task,
        max_bad_rows=config.max_bad_rows,
        source_fingerprint=source_fingerprint,
        template_hash=template_hash,
        modules=tuple(config.modules),
    )


def _header(config: DataConfig, split: str, plan: Plan) -> dict[str, Any]:
    vocabulary = plan.vocabulary
    return {
        "name": config.mixture_or_task_name,
        "split": split,
        "feature_lengths": dict(config.feature_lengths),
        "seed": config.seed,
        "examples_per_task": config.examples_per_task,
        "vocabulary": {
            "name": vocabulary.name,
            "path": str(vocabulary.path.resolve()),
            "extra_ids": vocabulary.extra_ids,
            "size": vocabulary.size,
            "sha256": vocabulary.sha256,
        },
        "missing": dict(plan.missing),
        "libraries": {
            name: importlib.metadata.version(name) for name in ("numpy", "sentencepiece")
        },
    }


def _drops(summary: Mapping[str, Any]) -> str:
    reasons = {**summary["drops"], "bad rows": len(summary["bad_rows"])}
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    return f"{summary['task']}: {listed or 'no rows'}"


# --- doing the jobs -------------------------------------------------------------------------------


def _render(plan: Plan, config: DataConfig, progress: bool) -> dict[str, dict[str, Any]]:
    """Returns the task.json of every job, by task; renders those that are not there whole."""
    summaries: dict[str, dict[str, Any]] = {}
    pending: list[TaskJob] = []
    for job in plan.jobs:
        if shards.is_whole(job.folder, SUMMARY):
            summaries[job.task] = shards.read_summary(job.folder / SUMMARY)
            # Another run may have allowed more of them.
            check_bad_rows(job.task, summaries[job.task]["bad_rows"], config.max_bad_rows)
        else:
            pending.append(job)
    if pending:
        workers = _number_of_workers(pending, config) if plan.parallel else 1
        with Progress(config.mixture_or_task_name, len(pending), enabled=progress) as shown:
            if workers == 1:
                done = _in_this_process(pending, plan.render, shown)
            else:
                done = _in_processes(pending, workers, shown)
            for task, summary in done:
                summaries[task] = summary
    return summaries


def _number_of_workers(pending: Sequence[TaskJob], config: DataConfig) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(config.num_workers or cores or 1, len(pending))
    if workers == 1 or config.num_workers:
        return workers
    rows = 0
    for job in pending:
        rows += tasks.get(job.task).num_examples(job.split, job.data_dir)
        if rows >= _FEW_ROWS:
            return workers
    return 1


def _in_this_process(
    pending: Sequence[TaskJob], render: Callable[..., dict[str, Any]], shown: Progress
) -> Iterator[tuple[str, dict[str, Any]]]:
    for job in pending:
        shown.start(job.task)
        yield job.task, render(job, lambda rows, task=job.task: shown.advance(task, rows))
        shown.finish(job.task)


# Set in a worker process when it starts.
_events: Any = None


def _start_worker(events: Any) -> None:
    global _events
    _events = events


def _work(job: TaskJob) -> dict[str, Any]:
    import_modules(job.modules)
    _events.put((job.task, "start", 0))
    summary = render_task(job, lambda rows: _events.put((job.task, "rows", rows)))
    _events.put((job.task, "finish", 0))
    return summary


def _in_processes(
    pending: Sequence[TaskJob], workers: int, shown: Progress
) -> Iterator[tuple[str, dict[str, Any]]]:
    # Never a fork: the threads of JAX and TensorFlow do not survive one.
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(events,)
    )
    try:
        with shown.listening(events):
            futures = {pool.submit(_work, job): job.task for job in pending}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
    except BrokenProcessPool:
        raise UserError(
            "a process that prepared a task was ended from outside",
            where=f"one of {workers} worker processes",
            expected="memory for all of them",
            fix="set num_workers lower; what is finished is kept",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(OSError):
            events.close()
