"""`flan-train VERB ...`: reads the command line, calls one verb, turns user errors into exit 2."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from flan_train import cli_checkpoint, cli_convert, cli_download, cli_inspect
from flan_train.errors import UserError

GIN_PREFIX = "--gin."

# Modules are imported inside the verbs: `--help` and `inspect` must not wait for JAX.


def _gin_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="PATH", help="a gin file; repeatable"
    )
    parser.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="DIRS",
        help="comma-separated folders in which gin files are sought first",
    )
    parser.add_argument(
        "--gin.NAME",
        dest="gin_example",
        metavar="VALUE",
        help="set one gin name, over the files; text needs both kinds of quotes: "
        "--gin.MODEL_DIR=\"'runs/mine'\"",
    )
    parser.add_argument("--data_dir", metavar="DIR", help="the data folder (else FLAN_DATA_DIR)")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="a Python module of yours that registers tasks and mixtures, added to MODULES; "
        "repeatable",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="resolve and print everything, do no work"
    )


def _exclude_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude_contaminated",
        metavar="PATH",
        help="leave out of training the examples of this list, which `inspect --contamination "
        "SUITE --exclude_contaminated PATH` wrote (EXCLUDE in gin)",
    )


def _beam_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help="render through Apache Beam, on as many machines as this runner has: DirectRunner, "
        "DataflowRunner, FlinkRunner, SparkRunner, ...; any option of Beam's may follow, and after "
        "a lone -- any that Beam itself does not know",
    )
    parser.add_argument(
        "--staging",
        metavar="URL",
        help="where Beam's workers leave what they rendered: a place that they and this machine "
        "can write to (default: a folder in PREPARED_DIR)",
    )


def _split_gin(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes the `--gin.NAME=VALUE` (or `--gin.NAME VALUE`) words out of a command line."""
    rest: list[str] = []
    bindings: list[str] = []
    words = iter(arguments)
    for word in words:
        if not word.startswith(GIN_PREFIX):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(GIN_PREFIX).partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                raise UserError(
                    f"'{word}' has no value", where="the command line", expected=f"{word}=VALUE"
                )
            value = following
        bindings.append(f"{name} = {value}")
    return rest, bindings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flan-train",
        description="Instruction finetuning on JAX: mixtures, packed training, held-out selection.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(
        name: str, summary: str, example: str, run: Callable[..., int]
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="example:\n  " + example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    train = verb(
        "train",
        "prepare a mixture, fine-tune, evaluate, select and report",
        "flan-train train --gin_file=t5x_configs/recipes/quickstart.gin",
        _train,
    )
    _gin_arguments(train)
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

    prepare = verb(
        "prepare",
        "render, tokenise and store a mixture, ready to pack and read",
        "flan-train prepare --gin_file=t5x_configs/recipes/quickstart.gin",
        _prepare,
    )
    _gin_arguments(prepare)
    _exclude_argument(prepare)
    _beam_arguments(prepare)

    inspect = verb(
        "inspect",
        "show a mixture's members, rates, examples and packing, or what is prepared; check tasks",
        "flan-train inspect cot --data_dir=DIR --examples 3\n"
        "  flan-train inspect quickstart --packing --inputs 128 --targets 80\n"
        "  flan-train inspect PREPARED_DIR --html mixture.html\n"
        "  flan-train inspect cot --contamination mmlu --exclude_contaminated list.jsonl",
        cli_inspect.run,
    )
    cli_inspect.add_arguments(inspect)

    evaluate = verb(
        "eval",
        "score a checkpoint on suites",
        "flan-train eval --checkpoint=runs/quickstart/checkpoints/1560 --suite=quickstart_held_out",
        _eval,
    )
    _gin_arguments(evaluate)
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

    select = verb(
        "select",
        "choose a checkpoint of a run by its evaluations",
        "flan-train select runs/quickstart --suite=quickstart_unseen\n"
        "  flan-train select runs/mine --metric=normalized_average --dry_run\n"
        "  flan-train select runs/mine "
        '--metric="0.5*heldout_mmlu_direct:accuracy + 0.5*heldout_mgsm_cot:exact_match"',
        _select,
    )
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

    convert = verb(
        "convert",
        "exchange checkpoints with Hugging Face and T5X",
        "flan-train convert hf-to-flan --from=FOLDER_OF_FLAN_T5 --to=checkpoints/flan_t5_small\n"
        "  flan-train convert flan-to-t5x --from=runs/mine/checkpoints/selected --to=T5X_MODEL_DIR",
        cli_convert.run,
    )
    cli_convert.add_arguments(convert)

    checkpoint = verb(
        "checkpoint",
        "list, verify, prune or copy the checkpoints of a run",
        "flan-train checkpoint list runs/quickstart\n"
        "  flan-train checkpoint verify runs/quickstart\n"
        "  flan-train checkpoint prune runs/quickstart --keep=1 --keep_best=2 --dry_run\n"
        "  flan-train checkpoint copy runs/quickstart --step=selected --to=checkpoints/mine",
        cli_checkpoint.run,
    )
    cli_checkpoint.add_arguments(checkpoint)

    download = verb(
        "download",
        "fill the data folder from a pinned manifest, or tell what is in it",
        "flan-train download --only=cot,vocab --data_dir=DIR\n  flan-train download --status",
        cli_download.run,
    )
    cli_download.add_arguments(download)

    report = verb(
        "report",
        "write the page of a run, or of several side by side, and print the summary",
        "flan-train report runs/quickstart\n  flan-train report runs/a runs/b --out=compared.html",
        _report,
    )
    report.add_argument("model_dirs", metavar="RUN_DIR", nargs="+", help="several are compared")
    report.add_argument(
        "--out",
        metavar="PATH",
        help="the page (default: RUN_DIR/report.html; of several runs, comparison.html in the "
        "folder that holds them)",
    )
    report.add_argument("--dry_run", action="store_true", help="print the summary, write nothing")
    return parser


def _resolved(options: argparse.Namespace, bindings: Sequence[str]):  # type: ignore[no-untyped-def]
    from flan_train import config

    if not options.gin_file:
        raise UserError(
            f"flan-train {options.verb} was given no gin file",
            where="the command line",
            expected="--gin_file=PATH",
            fix="start with --gin_file=t5x_configs/recipes/quickstart.gin",
        )
    if options.data_dir:
        bindings = [*bindings, f"DATA_DIR = {options.data_dir!r}"]
    if getattr(options, "exclude_contaminated", None):
        bindings = [*bindings, f"EXCLUDE = {options.exclude_contaminated!r}"]
    paths = [path for group in options.gin_search_paths for path in group.split(",") if path]
    resolved = config.resolve(options.gin_file, bindings, paths)
    if options.module:
        named = resolved.macro("MODULES") or ()
        modules = (*([named] if isinstance(named, str) else named), *options.module)
        bindings = [*bindings, f"MODULES = {tuple(dict.fromkeys(modules))!r}"]
        resolved = config.resolve(options.gin_file, bindings, paths)
    return resolved


def _train(options: argparse.Namespace, bindings: list[str]) -> int:
    from flan_train import verbs

    resolved = _resolved(options, bindings)
    return verbs.train(
        resolved,
        dry_run=options.dry_run,
        resume=options.resume,
        strict=options.strict,
        command=options.command,
    )


def _prepare(options: argparse.Namespace, bindings: list[str]) -> int:
    from flan_train import verbs

    if options.staging and not options.runner:
        raise UserError(
            "--staging is given without --runner",
            where="the command line",
            expected="--runner=NAME: only Apache Beam's workers leave anything there",
            fix="add --runner=DirectRunner, or leave --staging out",
        )
    return verbs.prepare(
        _resolved(options, bindings),
        dry_run=options.dry_run,
        runner=options.runner,
        runner_options=options.runner_options,
        staging=options.staging,
    )


def _eval(options: argparse.Namespace, bindings: list[str]) -> int:
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
    return verb_eval.evaluate(
        _resolved(options, bindings), dry_run=options.dry_run, json_path=options.json
    )


def _select(options: argparse.Namespace, bindings: list[str]) -> int:
    _no_gin(bindings)
    from flan_train import verbs

    return verbs.select(
        options.model_dir,
        suites=tuple(options.suite),
        metric=options.metric,
        protocol=options.protocol,
        json_path=options.json,
        dry_run=options.dry_run,
    )


def _report(options: argparse.Namespace, bindings: list[str]) -> int:
    _no_gin(bindings)
    from flan_train import verbs

    return verbs.report(options.model_dirs, out=options.out, dry_run=options.dry_run)


def _no_gin(bindings: Sequence[str]) -> None:
    if bindings:
        raise UserError(
            "this verb reads no gin settings",
            where="--gin." + bindings[0],
            expected="its own flags only",
            fix="see --help",
        )


def _parsed(words: list[str]) -> argparse.Namespace:
    """Returns the options of a command line; with --runner, those of Beam in `runner_options`."""
    parser = _parser()
    own = words[: words.index("--")] if "--" in words else words
    options, others = parser.parse_known_args(own)
    if getattr(options, "runner", None):
        options.runner_options = (*others, *words[len(own) :])
        return options
    options = parser.parse_args(words)
    options.runner_options = ()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code: 0 done, 2 the user must change something."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        rest, bindings = _split_gin(words)
        options = _parsed(rest)
        # As it is to be given again: by then there is a checkpoint.
        again = [word for word in words if word != "--no-resume"]
        options.command = shlex.join(["flan-train", *again])
        return int(options.run(options, bindings))
    except UserError as error:
        print(f"flan-train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flan-train: stopped by the keyboard", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
