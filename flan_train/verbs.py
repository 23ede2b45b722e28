"""What each verb of `flan-train` does, once its command line has been read."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
from rich.console import Console
from rich.table import Table

from flan_train.config import ResolvedConfig
from flan_train.errors import UserError
from flan_train.evaluate import EvalConfig
from flan_train.prepare import DataConfig
from flan_train.prepared import PreparedDataset
from flan_train.sharding import ShardingConfig

TRAIN = "flan_train.train.train"
PREPARE = "flan_train.verbs.prepare_mixture"
EVALUATE = "flan_train.verbs.evaluate_checkpoint"


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def train(resolved: ResolvedConfig, *, dry_run: bool, resume: bool) -> int:
    """Runs the main job of a resolved configuration, or prints what it would do."""
    from flan_train import report
    from flan_train import train as training

    console = _console()
    arguments = resolved.arguments(TRAIN)
    arguments["resume"] = resume
    if dry_run:
        console.print("[bold]Resolved configuration[/]")
        console.print(resolved.text(TRAIN), end="", markup=False)
        training.dry_run(**arguments, console=console)
        return 0
    training.train(**arguments)
    model_dir = arguments["model_dir"]
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
        ("follow the curves", f"tensorboard --logdir {model_dir / 'metrics'}"),
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
    from flan_train import prepare as preparing

    return preparing.prepare(data, split)


def prepare(resolved: ResolvedConfig, *, dry_run: bool) -> int:
    """Prepares what a configuration trains on; a recipe for `train` includes its suites."""
    console = _console()
    jobs: list[tuple[DataConfig, str]] = []
    if _binds(resolved, PREPARE):
        arguments = resolved.arguments(PREPARE)
        jobs.append((arguments["data"], arguments["split"]))
    else:
        arguments = resolved.arguments(TRAIN)
        data, evaluation = arguments["data"], arguments["evaluation"]
        jobs.append((data, "train"))
        for suite in evaluation.suites:
            part = dataclasses.replace(
                data,
                mixture_or_task_name=suite,
                examples_per_task=evaluation.examples_per_task,
            )
            jobs += [(part, "validation"), (part, "test")]
    for data, split in jobs:
        if dry_run:
            console.print(
                f"would prepare {data.mixture_or_task_name} [{split}]: {data}", markup=False
            )
            continue
        prepared = prepare_mixture(data, split)
        tokens = prepared.lengths.sum(axis=0, dtype=int)
        console.print(
            f"{data.mixture_or_task_name} ({split}): {len(prepared.lengths):,} examples of "
            f"{len(prepared.task_names)} tasks, {tokens[0]:,} input and {tokens[1]:,} target "
            f"tokens\n  {prepared.path}",
            markup=False,
        )
    return 0


def _binds(resolved: ResolvedConfig, root: str) -> bool:
    return any(selector == root for _, selector, _ in resolved.origins)


@gin.register(module="flan_train.verbs")
def evaluate_checkpoint(
    checkpoint: str,
    data: DataConfig,
    evaluation: EvalConfig,
    sharding: ShardingConfig,
    split: str = "validation",
    output_dir: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Returns the result of each suite for one checkpoint (the root of the verb `eval`).

    Args:
      checkpoint: a run's `checkpoints/<step>`, or a folder that `convert` wrote.
      data: vocabulary, lengths and folders; its mixture is replaced by each suite.
      evaluation: suites, batch size, examples per task.
      sharding: the mesh to decode on.
      split: "validation" or "test".
      output_dir: where `<suite>/<step>.json` goes; None for `eval` of the checkpoint's run.

    Raises:
      UserError: no such checkpoint, no suite named, or a vocabulary of another size.
    """
    from flan_train import checkpoints, prepare, vocabulary
    from flan_train import evaluate as evaluating
    from flan_train import sharding as meshes
    from flan_train.models import t5

    if not evaluation.suites:
        raise UserError(
            "no suite to evaluate",
            where="--suite, or EVAL_SUITES",
            expected="at least one suite",
            fix="for example --suite=quickstart_held_out",
        )
    path = pathlib.Path(checkpoint)
    meta = checkpoints.read_meta(path)
    model = t5.T5Config(**meta["model"])
    words = vocabulary.load_vocabulary(data.vocabulary, data.data_dir)
    vocabulary.check_model_vocabulary(words, model.vocab_size)
    partitioner = meshes.Partitioner(meshes.make_mesh(sharding), sharding.preset)
    abstract = t5.abstract_params(model)
    shardings = partitioner.param_shardings(t5.param_axes(model), abstract)
    params, _ = checkpoints.load_params(path, _laid_out(abstract, shardings))
    of_a_run = path.parent.name == checkpoints.FOLDER
    step = int(meta.get("step", 0))
    folder = pathlib.Path(output_dir) if output_dir else _eval_folder(path, of_a_run)
    results = {}
    for suite in evaluation.suites:
        part = dataclasses.replace(
            data, mixture_or_task_name=suite, examples_per_task=evaluation.examples_per_task
        )
        prepared = prepare.prepare(part, split)
        name = f"{suite}_test" if split == "test" else suite
        results[name] = evaluating.evaluate_suite(
            params,
            model,
            name,
            prepared,
            step=step,
            checkpoint=f"{checkpoints.FOLDER}/{step}" if of_a_run else str(path),
            out_dir=folder,
            partitioner=partitioner,
            batch_size=evaluation.batch_size,
            max_decode_length=evaluation.max_decode_length,
            config_hash=str(meta.get("config_hash", "")),
        )
    return results


def _laid_out(abstract: Any, shardings: Any) -> Any:
    import jax

    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def _eval_folder(checkpoint: pathlib.Path, of_a_run: bool) -> pathlib.Path:
    return checkpoint.parent.parent / "eval" if of_a_run else checkpoint / "eval"


def settings_of_checkpoint(checkpoint: str | None) -> list[str]:
    """Returns the gin settings under which a run's checkpoint was evaluated while it trained.

    They are read from the checkpoint's own record, so that `eval --checkpoint --suite` needs no
    gin file; anything on the command line wins over them.

    Raises:
      UserError: no checkpoint was named, or there is none.
    """
    from flan_train import checkpoints

    if not checkpoint:
        raise UserError(
            "no checkpoint to evaluate",
            where="the command line",
            expected="--checkpoint=RUN_DIR/checkpoints/STEP, or a gin file that sets CHECKPOINT",
        )
    data: Mapping[str, Any] = checkpoints.read_meta(checkpoint).get("data", {})
    names = {
        "vocabulary": "VOCABULARY",
        "feature_lengths": "TASK_FEATURE_LENGTHS",
        "prepared_dir": "PREPARED_DIR",
        "data_dir": "DATA_DIR",
        "allow_missing": "ALLOW_MISSING",
        "seed": "RANDOM_SEED",
    }
    return [f"{names[key]} = {data[key]!r}" for key in names if key in data]


def evaluate(resolved: ResolvedConfig, *, dry_run: bool, json_path: str | None) -> int:
    """Scores a checkpoint and prints a table per suite."""
    console = _console()
    if dry_run:
        console.print(resolved.text(EVALUATE), end="", markup=False)
        return 0
    results = evaluate_checkpoint(**resolved.arguments(EVALUATE))
    for suite, result in results.items():
        metrics = [name for name in result["mean"] if name != "n"]
        table = Table(title=f"{suite}, step {result['step']}")
        table.add_column("task")
        for name in [*metrics, "n"]:
            table.add_column(name, justify="right")
        for task, scores in sorted(result["metrics"].items()):
            table.add_row(task, *(f"{scores[name]:.3f}" for name in metrics), str(scores["n"]))
        table.add_section()
        total = sum(scores["n"] for scores in result["metrics"].values())
        table.add_row("mean", *(f"{result['mean'][name]:.3f}" for name in metrics), str(total))
        console.print(table)
    _write_json(json_path, list(results.values()))
    return 0


def select(
    model_dir: str, *, suites: Sequence[str], metric: str, json_path: str | None, dry_run: bool
) -> int:
    """Chooses a run's checkpoint and says why."""
    from flan_train import select as selecting

    config = selecting.SelectConfig(suites=tuple(suites), metric=metric)
    chosen = selecting.select(model_dir, config, write=not dry_run)
    _console().print(chosen["reason"], markup=False)
    _write_json(json_path, chosen)
    return 0


def convert(direction: str, source: str, destination: str, *, dry_run: bool) -> int:
    """Exchanges parameters with a Hugging Face folder."""
    from flan_train.convert import hf

    action = hf.hf_to_flan if direction == "hf-to-flan" else hf.flan_to_hf
    summary = action(source, destination, dry_run=dry_run)
    _console().print(summary, markup=False)
    return 0


def report(model_dir: str, *, dry_run: bool) -> int:
    """Writes a run's page and prints its summary."""
    from flan_train import report as reporting

    console = _console()
    if not dry_run:
        console.print(str(reporting.write_report(model_dir)), markup=False)
    reporting.summary(model_dir, console)
    return 0


def _write_json(path: str | None, value: Any) -> None:
    if path is None:
        return
    try:
        pathlib.Path(path).write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}", where="--json", expected=str(error)) from error
