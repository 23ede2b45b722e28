"""`flan-train VERB ...`: reads the command line, calls one verb, turns user errors into exit 2."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence

from flan_train import (
    cli_checkpoint,
    cli_convert,
    cli_download,
    cli_eval,
    cli_gin,
    cli_inspect,
    cli_plan,
    cli_train,
)
from flan_train.errors import UserError

GIN_PREFIX = "--gin."

# Modules are imported inside the verbs: `--help` and `inspect` must not wait for JAX.


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
        cli_train.run,
    )
    cli_train.add_arguments(train)

    plan = verb(
        "plan",
        "compile the update for devices that need not be here; tell memory, work and time",
        "flan-train plan --gin_file=t5x_configs/recipes/flan_t5_xxl.gin --topology=v4:4x4x4\n"
        "  flan-train plan --gin_file=t5x_configs/recipes/flan_t5_xl.gin --topology=v5e:8x8 "
        "--search\n"
        "  flan-train plan --gin_file=t5x_configs/recipes/quickstart.gin --topology=cpu:8",
        cli_plan.run,
    )
    cli_plan.add_arguments(plan)

    prepare = verb(
        "prepare",
        "render, tokenise and store a mixture, ready to pack and read",
        "flan-train prepare --gin_file=t5x_configs/recipes/quickstart.gin",
        cli_train.run_prepare,
    )
    cli_train.add_prepare_arguments(prepare)

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
        cli_eval.run,
    )
    cli_eval.add_arguments(evaluate)

    select = verb(
        "select",
        "choose a checkpoint of a run by its evaluations",
        "flan-train select runs/quickstart --suite=quickstart_unseen\n"
        "  flan-train select runs/mine --metric=normalized_average --dry_run\n"
        "  flan-train select runs/mine "
        '--metric="0.5*heldout_mmlu_direct:accuracy + 0.5*heldout_mgsm_cot:exact_match"',
        cli_eval.run_select,
    )
    cli_eval.add_select_arguments(select)

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


def _report(options: argparse.Namespace, bindings: list[str]) -> int:
    cli_gin.refuse_bindings(bindings)
    from flan_train import verbs

    return verbs.report(options.model_dirs, out=options.out, dry_run=options.dry_run)


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
