"""Renders and tokenises every task of a mixture once, into a prepared dataset on disk.

Each task is a folder named by everything that decides its bytes, so a second run makes only what
is new or changed, an interrupted one goes on where it stopped, and mixtures share their tasks.
Tasks run in parallel processes; the bytes do not depend on how many.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import importlib
import importlib.metadata
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from flan_train import mixtures, shards, tasks
from flan_train.data_config import DataConfig
from flan_train.errors import UserError
from flan_train.mixtures import rates
from flan_train.prepare_progress import Progress
from flan_train.prepared import PreparedDataset, open_prepared, write_mixture
from flan_train.rendering import SUMMARY, Plan, TaskJob, check_bad_rows, render_task
from flan_train.vocabulary import Vocabulary, load_vocabulary

__all__ = ["DataConfig", "import_modules", "needs_seqio", "prepare"]

# Starting processes takes a second or two: below so many rows one process is faster.
_FEW_ROWS = 20_000


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


def prepare(
    config: DataConfig, split: str = "train", progress: bool = True, verify: bool = False
) -> PreparedDataset:
    """Returns the prepared dataset of a mixture, made now as far as it does not exist.

    Idempotent: finished tasks are reused, damaged ones made again. A task is damaged when a file
    has another size or content than was written; the tokens, nearly all of the bytes, are compared
    by size unless `verify`, since each example is checked when it is read (sha256 goes through
    about 1 GB a second).

    Args:
      config: what to prepare.
      split: "train", "validation" or "test".
      progress: show bars on the terminal.
      verify: compare the contents of every file that is reused.

    Raises:
      UserError: an unknown name, missing sources or tasks without examples (all are listed), a bad
        row, an empty mixture, a vocabulary that cannot be read, a disk that is full.
    """
    plan = _plan(config, split)
    root = config.root
    with shards.explained_disk_errors(root):
        for folder in (root / "tasks", root / "mixtures"):
            folder.mkdir(parents=True, exist_ok=True)
            shards.remove_leftovers(folder)
    summaries = _render(plan, config, progress, verify)
    empty = {
        job.task: _drops(summaries[job.task])
        for job in plan.jobs
        if not summaries[job.task]["examples"]
    }
    shares = plan.shares({job.task: summaries[job.task]["examples"] for job in plan.jobs})
    _check_empty(config, split, empty, summaries, any(shares.values()))
    members = [
        (job.folder.name, summaries[job.task], shares.get(job.task, 0.0)) for job in plan.jobs
    ]
    header = {**_header(config, split, plan), "empty": empty}
    with shards.explained_disk_errors(root):
        return open_prepared(write_mixture(root, header, members), data_dir=config.data_dir)


def _check_empty(
    config: DataConfig,
    split: str,
    empty: Mapping[str, str],
    summaries: Mapping[str, Mapping[str, Any]],
    any_share: bool,
) -> None:
    """Raises UserError when tasks without examples stop this split.

    One whose rows were all left out is as good as missing. A validation or test split that never
    had a row is none: a small dataset may be dealt out so.
    """
    listed = "".join(f"\n    {task}: {why}" for task, why in empty.items())
    if not any_share:
        raise UserError(
            f"the mixture '{config.mixture_or_task_name}' is empty: no example is left",
            where=f"split {split}:{listed}",
            expected="at least one example",
            fix="raise TASK_FEATURE_LENGTHS, or choose another split or mixture",
        )
    wrong = [
        task
        for task in empty
        if split == "train" or summaries[task]["drops"] or summaries[task]["bad_rows"]
    ]
    if wrong and not config.allow_missing:
        raise UserError(
            f"of the mixture '{config.mixture_or_task_name}' {len(wrong)} of {len(summaries)} "
            "tasks have no example",
            where=f"split {split}:" + "".join(f"\n    {task}: {empty[task]}" for task in wrong),
            expected="at least one example of each task",
            fix="mend the files, or raise TASK_FEATURE_LENGTHS; or go on without these tasks: "
            "ALLOW_MISSING = True",
        )


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
    """Returns why a task has no examples: "3 targets too long, 1 bad row: not UTF-8"."""
    reasons = collections.Counter(summary["drops"])
    reasons.update(f"bad row: {row['reason']}" for row in summary["bad_rows"])
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "no rows"


# --- doing the jobs -------------------------------------------------------------------------------


def _render(
    plan: Plan, config: DataConfig, progress: bool, verify: bool
) -> dict[str, dict[str, Any]]:
    """Returns the task.json of every job, by task; renders those that are not there whole."""
    summaries: dict[str, dict[str, Any]] = {}
    pending: list[TaskJob] = []
    for job in plan.jobs:
        if shards.is_whole(job.folder, SUMMARY, verify=verify):
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


def _start_worker(events: Any, started: Any) -> None:
    global _events
    _events = events
    started.set()


def _work(job: TaskJob) -> dict[str, Any] | None:
    """Returns the task.json, or None where this process does not have the task as it was meant."""
    import_modules(job.modules)
    if job.task not in tasks.names() or tasks.get(job.task).template_hash() != job.template_hash:
        return None
    _events.put((job.task, "start", 0))
    summary = render_task(job, lambda rows: _events.put((job.task, "rows", rows)))
    _events.put((job.task, "finish", 0))
    return summary


def _in_processes(
    pending: Sequence[TaskJob], workers: int, shown: Progress
) -> Iterator[tuple[str, dict[str, Any]]]:
    # Never a fork: the threads of JAX and TensorFlow do not survive one.
    context = multiprocessing.get_context("spawn")
    events, started = context.Queue(), context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(events, started)
    )
    unknown: list[TaskJob] = []
    try:
        with shown.listening(events):
            futures = {pool.submit(_work, job): job for job in pending}
            for future in concurrent.futures.as_completed(futures):
                job, summary = futures[future], future.result()
                if summary is None:
                    unknown.append(job)
                else:
                    yield job.task, summary
    except BrokenProcessPool:
        raise _broken(workers, started.is_set()) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        with contextlib.suppress(OSError):
            events.close()
    # Added by the running script and not by one of `modules`: only this process has them.
    yield from _in_this_process(unknown, render_task, shown)


def _broken(workers: int, started: bool) -> UserError:
    if started:
        return UserError(
            "a process that prepared a task was ended from outside",
            where=f"one of {workers} worker processes",
            expected="memory for all of them",
            fix="set num_workers lower; what is finished is kept",
        )
    # A new process runs the script's top level before anything else.
    return UserError(
        "the processes that prepare tasks could not start",
        where=f"the script that called prepare: {sys.argv[0] or 'read from standard input'}",
        expected='a script file whose work is done only under `if __name__ == "__main__":`; each '
        "new process runs the rest of it first",
        fix="add that line; put tasks of your own into a module named in `modules`; or set "
        "num_workers = 1",
    )
