"""What each verb of `flan-train` does, once its command line has been read."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import gin
from rich.console import Console

from flan_train import hosts, launch, run_record
from flan_train.config import ResolvedConfig
from flan_train.errors import UserError
from flan_train.prepare import DataConfig
from flan_train.prepared import PreparedDataset
from flan_train.suites import SPLITS_OF

TRAIN = "flan_train.train.train"
PREPARE = "flan_train.verbs.prepare_mixture"


def new_console() -> Console:
    """Returns the console that a verb prints to."""
    return Console(highlight=False, soft_wrap=True)


def train(
    resolved: ResolvedConfig,
    *,
    dry_run: bool,
    resume: bool,
    strict: bool = False,
    profile: bool = False,
    command: str = "flan-train train ...",
    stopped_code: int = 0,
) -> int:
    """Runs the main job of a resolved configuration, or prints what it would do.

    SIGTERM and the keyboard stop it in order; then `command` is named as what goes on, and the exit
    code is `stopped_code`, or where that is 0 the signal's own.
    """
    import jax

    from flan_train import goodput, host_memory, interruption, report
    from flan_train import train as training

    console = new_console()
    arguments = resolved.arguments(TRAIN)
    arguments |= {"resume": resume, "strict": strict}
    # Of this launch, not of the configuration, which fills in their defaults.
    for name in ("profile", "launched"):
        arguments.pop(name, None)
    if dry_run:
        console.print("[bold]Resolved configuration[/]")
        console.print(resolved.text(TRAIN), end="", markup=False)
        training.dry_run(**arguments, console=console)
        return 0
    model_dir = arguments["model_dir"]
    if jax.default_backend() == "cpu":
        host_memory.keep_freed()
    try:
        with interruption.handled():
            training.train(**arguments, profile=profile, launched=goodput.process_began())
    except interruption.Interruption as stopped:
        if stopped.is_told:
            for line in stopped.advice(model_dir, command):
                console.print(line, markup=False)
        return stopped_code or stopped.exit_code
    except jax.errors.JaxRuntimeError as error:
        if (known := launch.known_failure(error)) is None:
            raise
        raise known from error
    if not hosts.is_first():
        return 0
    page = report.write_report(model_dir)
    report.summary(model_dir, console)
    _next_steps(pathlib.Path(model_dir), page, console)
    return 0


def _next_steps(model_dir: pathlib.Path, page: pathlib.Path, console: Console) -> None:
    """Prints where everything is, and the commands one would want now."""
    selected = model_dir / "selected.json"
    mixture = json.loads((model_dir / "mixture.json").read_text("utf-8"))["mixture"]
    places = {"report": page, "log": model_dir / "log.jsonl", "scores": model_dir / "eval"}
    steps = [
        ("look at what it learned", f"open {page} in a browser"),
        (
            "follow the curves",
            f"pip install tensorboard; tensorboard --logdir {model_dir / 'metrics'}",
        ),
        ("read rendered prompts", f"flan-train inspect {mixture} --examples 3"),
    ]
    if selected.is_file():
        step = json.loads(selected.read_text("utf-8"))["step"]
        chosen = model_dir / "checkpoints" / str(step)
        places = {"chosen checkpoint": chosen, **places}
        export = f"flan-train convert flan-to-hf --from={chosen} --to={model_dir / 'hf'}"
        steps.append(("take the chosen checkpoint to Hugging Face", export))
    if mixture == "quickstart":
        steps += [
            (
                "train on real chain-of-thought rows (the README says which files)",
                "FLAN_DATA_DIR=DIR flan-train train "
                "--gin_file=t5x_configs/recipes/cot_small_demo.gin --gin.MODEL_DIR=\"'runs/cot'\"",
            ),
            (
                "see what a full-size run needs",
                "flan-train train --gin_file=t5x_configs/recipes/flan_t5_xl.gin --dry_run",
            ),
        ]
    console.print()
    for label, path in places.items():
        console.print(f"{label:>18}  {path}", markup=False)
    console.print()
    console.print("What to do next", style="bold")
    for what, command in steps:
        console.print(f"  {what}:\n    {command}", markup=False)


@gin.register(module="flan_train.verbs")
def prepare_mixture(data: DataConfig, split: str = "train") -> PreparedDataset:
    """Returns one split of a mixture, prepared on disk (the root of the verb `prepare`)."""
    return launch.prepared_split(data, split, verify=True)


def prepare(
    resolved: ResolvedConfig,
    *,
    dry_run: bool,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
    staging: str | None = None,
) -> int:
    """Prepares what a configuration trains on; a recipe for `train` includes its suites.

    With a runner of Apache Beam's, its workers render; see `beam_runner.run_jobs_with_beam`.
    """
    console = new_console()
    engine = None
    if runner:
        from flan_train import beam_runner

        beam_runner.check_options(runner, runner_options)  # a mistake is told before any work
        engine = functools.partial(
            beam_runner.run_jobs_with_beam, runner=runner, options=runner_options, staging=staging
        )
        if dry_run:
            where = staging or "a folder in PREPARED_DIR"
            words = " ".join(runner_options) or "none"
            console.print(
                f"would render through Apache Beam: {runner}, options: {words}, staging: {where}",
                markup=False,
            )
    jobs: list[tuple[DataConfig, str, int | None]] = []
    if _binds(resolved, PREPARE):
        arguments = resolved.arguments(PREPARE)
        jobs.append((arguments["data"], arguments["split"], None))
    else:
        arguments = resolved.arguments(TRAIN)
        data, evaluation = arguments["data"], arguments["evaluation"]
        # What the run will find: a task that it comes round to again is rendered for each pass.
        jobs.append((data, "train", arguments["batch_size"] * arguments["train_steps"]))
        for suite in evaluation.suites:
            part = launch.suite_data(data, suite, evaluation)
            splits = SPLITS_OF[arguments["selection"].protocol]
            jobs += [(part, split, None) for split in splits if split]
    for data, split, sequences in jobs:
        if dry_run:
            console.print(
                f"would prepare {data.mixture_or_task_name} [{split}]: {data}", markup=False
            )
            continue
        prepared = launch.prepared_split(
            data, split, sequences=sequences, verify=True, engine=engine
        )
        members = prepared.manifest["tasks"]
        tokens = {
            side: sum(task["tokens"][side] for task in members) for side in data.feature_lengths
        }
        further = sum(len(task["renderings"]) for task in members)
        console.print(
            f"{data.mixture_or_task_name} ({split}): {prepared.manifest['examples']:,} examples of "
            f"{len(prepared.task_names)} tasks, {tokens['inputs']:,} input and "
            f"{tokens['targets']:,} target tokens"
            + (f"; {further:,} further renderings for later passes" if further else "")
            + f"\n  {prepared.path}",
            markup=False,
        )
        for line in run_record.describe_absent(prepared.manifest):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _binds(resolved: ResolvedConfig, root: str) -> bool:
    return any(selector == root for _, selector, _ in resolved.origins)


def select(
    model_dir: str,
    *,
    suites: Sequence[str],
    metric: str | None,
    protocol: str | None,
    json_path: str | None,
    dry_run: bool,
) -> int:
    """Chooses a run's checkpoint and says why; by default as it was chosen before."""
    from flan_train import select as selecting
    from flan_train import select_text

    console = new_console()
    before = selecting.read_selected(model_dir) if pathlib.Path(model_dir).is_dir() else None
    before = before or {}
    config = selecting.SelectConfig(
        suites=tuple(suites) or tuple(before.get("suites", ())),
        metric=metric or before.get("metric", "exact_match"),
        protocol=protocol or before.get("protocol", "apart"),
    )
    chosen = selecting.select(model_dir, config, write=not dry_run)
    for line in select_text.lines(model_dir, chosen):
        console.print(line, markup=False)
    written = pathlib.Path(model_dir) / "selected.json"
    console.print(f"{written} was not written" if dry_run else str(written), markup=False)
    write_json(json_path, chosen)
    return 0


def convert(direction: str, source: str, destination: str, *, dry_run: bool, **flags: Any) -> int:
    """Exchanges a checkpoint with Hugging Face or T5X; `flags` are those of the direction."""
    from flan_train import checkpoint_names, storage, storage_transfer
    from flan_train.convert import hf, hf_files, t5x

    actions: dict[str, Callable[..., str]] = {
        "hf-to-flan": hf.hf_to_flan,
        "flan-to-hf": hf.flan_to_hf,
        "t5x-to-flan": t5x.t5x_to_flan,
        "flan-to-t5x": t5x.flan_to_t5x,
    }
    with contextlib.ExitStack() as stack:
        if storage.is_remote(source):
            # "selected" and "latest" are looked up in the store; T5X's folder is read where it is.
            there = checkpoint_names.find(source)
            source = str(there)
            if direction != "t5x-to-flan":
                source = str(stack.enter_context(storage_transfer.fetched(there)))
        within = direction == "flan-to-t5x" and not t5x.is_step_folder(destination)
        made = stack.enter_context(storage_transfer.delivered(destination, within=within))
        if direction == "flan-to-hf" and storage.is_remote(destination):
            flags.setdefault("shard_gb", hf_files.STORE_SHARD_GB)
        summary = actions[direction](source, made, dry_run=dry_run, **flags)
        summary = summary.replace(str(made), str(destination))
    new_console().print(summary, markup=False)
    return 0


def report(model_dirs: Sequence[str], *, out: str | None, dry_run: bool) -> int:
    """Writes the page of a run, or of several side by side, and prints the summary."""
    from flan_train import report as reporting

    console = new_console()
    if not dry_run:
        console.print(str(reporting.write_report(model_dirs, out)), markup=False)
    reporting.summary(model_dirs, console)
    return 0


def write_json(path: str | None, value: Any) -> None:
    """Writes what `--json` asks for; nothing where it was not given.

    Raises:
      UserError: the file cannot be written.
    """
    if path is None:
        return
    try:
        pathlib.Path(path).write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}", where="--json", expected=str(error)) from error
