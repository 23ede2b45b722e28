"""The command line of `flan-train eval`, and of `select`, which chooses by what it wrote."""

from __future__ import annotations

import argparse

from flan_train import cli_gin, cli_hosts

# Modules are imported inside the functions: `--help` must not wait for JAX.


def add_arguments(evaluate: argparse.ArgumentParser) -> None:
    """Adds the flags of `eval` to its parser."""
    cli_gin.add_arguments(evaluate)
    evaluate.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="RUN_DIR/checkpoints/STEP (or .../selected, .../latest), or converted parameters",
    )
    evaluate.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help="a mixture or a task; of a mixture of mixtures each is a suite; repeatable",
    )
    evaluate.add_argument(
        "--split",
        choices=("validation", "test", "all", "published_test"),
        help="default: validation; held-out suites have all (validation and test together) too, "
        "and MMLU its published_test where its files are there",
    )
    evaluate.add_argument(
        "--self_consistency",
        type=int,
        metavar="K",
        help="put chain-of-thought tasks to the vote over K sampled outputs a prompt",
    )
    evaluate.add_argument(
        "--examples", type=int, metavar="N", help="evaluate on at most N examples of each task"
    )
    evaluate.add_argument("--json", metavar="PATH", help="write all results as one JSON")
    cli_hosts.add_arguments(evaluate)


def add_select_arguments(select: argparse.ArgumentParser) -> None:
    """Adds the flags of `select` to its parser."""
    select.add_argument("model_dir", metavar="RUN_DIR")
    select.add_argument("--suite", action="append", default=[], metavar="NAME", help="repeatable")
    select.add_argument(
        "--metric",
        help="a metric's name, normalized_average, or a mix: 'w*SUITE:METRIC + ...' "
        "(default: as the run chose, else exact_match)",
    )
    select.add_argument(
        "--protocol",
        choices=("apart", "paper"),
        help="apart: chosen on split validation, reported on split test; paper: both on the whole "
        "published sets, split all (default: as the run chose, else apart)",
    )
    select.add_argument("--json", metavar="PATH", help="write the choice here as well")
    select.add_argument("--dry_run", action="store_true", help="print the choice, write nothing")


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Scores a checkpoint, and returns the exit code."""
    from flan_train import verb_eval

    runs = "t5x_configs/runs/eval.gin"
    if not options.gin_file:
        options.gin_file = [runs]
        bindings = [*verb_eval.settings_of_checkpoint(options.checkpoint), *bindings]
    elif not any(name.endswith("eval.gin") for name in options.gin_file):
        # A recipe for `train` knows vocabulary and lengths, not what evaluating needs.
        options.gin_file = [runs, *options.gin_file]
    for name, value in (
        ("CHECKPOINT", options.checkpoint),
        ("EVAL_SUITES", tuple(options.suite)),
        ("SPLIT", options.split),
        ("EVAL_SELF_CONSISTENCY", options.self_consistency),
        ("EVAL_EXAMPLES_PER_TASK", options.examples),
    ):
        if value is not None and value != ():
            bindings = [*bindings, f"{name} = {value!r}"]
    resolved = cli_gin.resolved(options, bindings)
    with cli_hosts.joined(options, resolved.text(verb_eval.EVALUATE)):
        return verb_eval.evaluate(resolved, dry_run=options.dry_run, json_path=options.json)


def run_select(options: argparse.Namespace, bindings: list[str]) -> int:
    """Chooses a checkpoint, and returns the exit code."""
    cli_gin.refuse_bindings(bindings)
    from flan_train import verbs

    return verbs.select(
        options.model_dir,
        suites=tuple(options.suite),
        metric=options.metric,
        protocol=options.protocol,
        json_path=options.json,
        dry_run=options.dry_run,
    )
