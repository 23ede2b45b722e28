"""The command line of `flan-train train` and `flan-train prepare`."""

from __future__ import annotations

import argparse

from flan_train import cli_gin, cli_hosts
from flan_train.errors import UserError

# Modules are imported inside the functions: `--help` must not wait for JAX.


def add_arguments(train: argparse.ArgumentParser) -> None:
    """Adds the flags of `train` to its parser."""
    cli_gin.add_arguments(train)
    _exclude_argument(train)
    train.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from MODEL_DIR's newest checkpoint (the default); --no-resume refuses a "
        "MODEL_DIR that has one",
    )
    train.add_argument(
        "--strict",
        action="store_true",
        help="refuse to go on when the newest checkpoint is damaged (else it is set aside, and the "
        "run goes on from the one before)",
    )
    cli_hosts.add_arguments(train)
    train.add_argument(
        "--profile",
        action="store_true",
        help="write a trace of the third to the fifth update of this launch to MODEL_DIR/profile, "
        "for XProf or TensorBoard",
    )
    train.add_argument(
        "--exit_code_if_stopped",
        type=int,
        default=0,
        metavar="CODE",
        help="exit code of a run that a signal stopped before its end (0; with the keyboard 130), "
        "for schedulers that start again what did not end with 0",
    )


def add_prepare_arguments(prepare: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare` to its parser."""
    cli_gin.add_arguments(prepare)
    _exclude_argument(prepare)
    prepare.add_argument(
        "--runner",
        metavar="NAME",
        help="render through Apache Beam, on as many machines as this runner has: DirectRunner, "
        "DataflowRunner, FlinkRunner, SparkRunner, ...; any option of Beam's may follow, and after "
        "a lone -- any that Beam itself does not know",
    )
    prepare.add_argument(
        "--staging",
        metavar="URL",
        help="where Beam's workers leave what they rendered: a place that they and this machine "
        "can write to (default: a folder in PREPARED_DIR)",
    )


def _exclude_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude_contaminated",
        metavar="PATH",
        help="leave out of training the examples of this list, which `inspect --contamination "
        "SUITE --exclude_contaminated PATH` wrote (EXCLUDE in gin)",
    )


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Trains, and returns the exit code."""
    from flan_train import verbs

    resolved = cli_gin.resolved(options, bindings)
    with cli_hosts.joined(options, resolved.text(verbs.TRAIN)):
        return verbs.train(
            resolved,
            dry_run=options.dry_run,
            resume=options.resume,
            strict=options.strict,
            profile=options.profile,
            command=options.command,
            stopped_code=options.exit_code_if_stopped,
        )


def run_prepare(options: argparse.Namespace, bindings: list[str]) -> int:
    """Prepares, and returns the exit code.

    Raises:
      UserError: `--staging` without `--runner`; as `verbs.prepare`.
    """
    from flan_train import verbs

    if options.staging and not options.runner:
        raise UserError(
            "--staging is given without --runner",
            where="the command line",
            expected="--runner=NAME: only Apache Beam's workers leave anything there",
            fix="add --runner=DirectRunner, or leave --staging out",
        )
    return verbs.prepare(
        cli_gin.resolved(options, bindings),
        dry_run=options.dry_run,
        runner=options.runner,
        runner_options=options.runner_options,
        staging=options.staging,
    )
