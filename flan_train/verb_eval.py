"""The verb `eval`: one checkpoint, whoever wrote it, on suites."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import gin

from flan_train import evaluate_tables, hosts, launch, mixtures, storage, suites, verbs
from flan_train.config import ResolvedConfig
from flan_train.errors import UserError, check_text
from flan_train.evaluate import EvalConfig, takes_votes
from flan_train.prepare import DataConfig
from flan_train.prepared import PreparedDataset
from flan_train.scores import Result
from flan_train.sharding import ShardingConfig

EVALUATE = "flan_train.verbs.evaluate_checkpoint"
WIDTH = 120

# The parts of a checkpoint's record that decide what an evaluation measures, and their gin names.
RECORDED = {
    "data": {
        "vocabulary": "VOCABULARY",
        "feature_lengths": "TASK_FEATURE_LENGTHS",
        "prepared_dir": "PREPARED_DIR",
        "data_dir": "DATA_DIR",
        "allow_missing": "ALLOW_MISSING",
        "max_bad_rows": "MAX_BAD_ROWS",
        "modules": "MODULES",
        "seed": "RANDOM_SEED",
    },
    "evaluation": {
        "examples_per_task": "EVAL_EXAMPLES_PER_TASK",
        "batch_size": "EVAL_BATCH_SIZE",
        "max_decode_length": "EVAL_MAX_DECODE_LENGTH",
        "feature_lengths": "EVAL_FEATURE_LENGTHS",
        "temperature": "EVAL_TEMPERATURE",
        "top_k": "EVAL_TOP_K",
        "toxicity_scorer": "EVAL_TOXICITY_SCORER",
    },
}


@gin.register(module="flan_train.verbs")
def evaluate_checkpoint(
    checkpoint: str,
    data: DataConfig,
    evaluation: EvalConfig,
    sharding: ShardingConfig,
    split: str = "validation",
    output_dir: str | None = None,
) -> dict[str, Result]:
    """Returns the result of each suite for one checkpoint (the root of the verb `eval`).

    Args:
      checkpoint: a run's `checkpoints/<step>` (the step may be "selected" or "latest"), or a
        folder that `convert` wrote.
      data: vocabulary, lengths and folders; its mixture is replaced by each suite.
      evaluation: suites, batch size, examples per task.
      sharding: the mesh to decode on.
      split: "validation", "test", or where a suite has them "all" and "published_test".
      output_dir: where `<suite>/<step>.json` goes; None for `eval` of the checkpoint's run, where
        a result of other examples or settings is never replaced: selection compares them.

    Raises:
      UserError: no such checkpoint, no suite named, a suite without that split, a vocabulary of
        another size, or a result that may not be replaced.
    """
    from flan_train import checkpoint_names, checkpoints, vocabulary
    from flan_train import evaluate as evaluating
    from flan_train import sharding as meshes
    from flan_train.evaluate_progress import Progress
    from flan_train.models import t5

    check_text("OUTPUT_DIR", output_dir, optional=True)
    if not evaluation.suites:
        raise UserError(
            "no suite to evaluate",
            where="--suite, or EVAL_SUITES",
            expected="at least one suite",
            fix="for example --suite=quickstart_held_out",
        )
    path = checkpoint_names.find(checkpoint)
    meta = checkpoints.read_meta(path)
    model = t5.T5Config(**meta["model"])
    words = vocabulary.load_vocabulary(data.vocabulary, data.data_dir)
    vocabulary.check_model_vocabulary(words, model.vocab_size)
    if not data.modules:
        suites.check_splits(evaluation.suites, [split], "--split, or SPLIT")
    partitioner = meshes.Partitioner(meshes.make_mesh(sharding), sharding.preset)
    # All suites before the first is evaluated: a file that is missing is told at once.
    with hosts.first_before_others("prepare"):
        prepared = launch.prepared_suites(data, evaluation, split)
    _check_votes(prepared, evaluation)
    abstract = t5.abstract_params(model)
    shardings = partitioner.param_shardings(t5.param_axes(model), abstract)
    params, _ = checkpoints.load_params(path, _laid_out(abstract, shardings))
    trained = evaluating.TrainedModel(
        params, model, partitioner=partitioner, batch_size=evaluation.batch_size
    )
    of_a_run = path.parent.name == checkpoints.FOLDER
    step = int(meta.get("step", 0))
    folder = pathlib.Path(output_dir) if output_dir else _eval_folder(path, of_a_run)
    results = {}
    sizes = {suite: (len(one.task_names), len(one)) for suite, one in prepared.items()}
    with Progress(sizes) as progress:
        for suite, examples in prepared.items():
            progress.start(suite)
            result = evaluating.evaluate_suite(
                trained,
                suite,
                examples,
                step=step,
                checkpoint=f"{checkpoints.FOLDER}/{step}" if of_a_run else checkpoint,
                out_dir=folder,
                settings=evaluation,
                config_hash=str(meta.get("config_hash") or _told_by_arrays(path)),
                replace=output_dir is not None,
                on_progress=lambda done, _: progress.reach(done),
            )
            progress.finish()
            results[result["suite"]] = result
    return results


def _told_by_arrays(path: storage.Path) -> str:
    """Returns what tells converted parameters from others that lay there before; "" if nothing."""
    from flan_train import checkpoint_checksums, checkpoints, t5x_files

    if t5x_files.is_t5x(path):
        return ""  # it keeps none, and nothing converts into its place
    found = checkpoints.read_checksums(path).get("params")
    return checkpoint_checksums.digest(found)[:16] if found else ""


def _check_votes(prepared: Mapping[str, PreparedDataset], evaluation: EvalConfig) -> None:
    if evaluation.self_consistency and not any(
        takes_votes(examples, evaluation) for examples in prepared.values()
    ):
        raise UserError(
            f"nothing can be put to the vote: no task of {', '.join(prepared)} reasons before it "
            "answers",
            where="--self_consistency, or EVAL_SELF_CONSISTENCY",
            expected="at least one suite of chain-of-thought tasks",
            fix="name such a suite (heldout_mmlu_cot), or leave the votes out",
        )


def _laid_out(abstract: Any, shardings: Any) -> Any:
    import jax

    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def _eval_folder(checkpoint: storage.Path, of_a_run: bool) -> pathlib.Path:
    if not isinstance(checkpoint, pathlib.Path):
        raise UserError(
            f"the results of {checkpoint} need a folder of this machine",
            where="OUTPUT_DIR",
            expected="a local folder: they are not written into an object store",
            fix="--output_dir=DIR",
        )
    return checkpoint.parent.parent / "eval" if of_a_run else checkpoint / "eval"


def settings_of_checkpoint(checkpoint: str | None) -> list[str]:
    """Returns the gin settings under which a run's checkpoint was evaluated while it trained.

    They are read from the checkpoint's own record, so that `eval --checkpoint --suite` needs no
    gin file; anything on the command line wins over them. Converted parameters have no such
    record: eval.gin's own settings hold for them.

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
    meta = checkpoints.read_meta(checkpoint)
    return [
        f"{name} = {meta[part][key]!r}"
        for part, names in RECORDED.items()
        for key, name in names.items()
        if key in (meta.get(part) or {})
    ]


def evaluate(resolved: ResolvedConfig, *, dry_run: bool, json_path: str | None) -> int:
    """Scores a checkpoint and prints a table per suite, and one of all suites."""
    console = verbs.new_console()
    arguments = resolved.arguments(EVALUATE)
    if dry_run:
        if not arguments["data"].modules:  # importing them is not for this process
            for suite in arguments["evaluation"].suites:
                mixtures.get(suite)  # a misspelt name is a mistake now as well as later
            suites.check_splits(
                arguments["evaluation"].suites, [arguments["split"]], "--split, or SPLIT"
            )
        console.print(resolved.text(EVALUATE), end="", markup=False)
        return 0
    results = evaluate_checkpoint(**arguments)
    if not hosts.is_first():
        return 0
    # In a file or a pipe there is no width to fit into.
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    for result in results.values():
        console.print(evaluate_tables.of_suite(result))
    console.print(evaluate_tables.of_all(results))
    for line in evaluate_tables.remarks(results):
        console.print(line, markup=False)
    verbs.write_json(json_path, list(results.values()))
    return 0
