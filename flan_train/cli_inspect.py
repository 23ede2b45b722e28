"""The command line of `flan-train inspect`: its flags, and which of its views they ask for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from flan_train.errors import UserError

# Modules are imported inside the functions: `--help` must not wait for them.

# Flags that mean nothing to --check.
_NOT_CHECK = ("packing", "examples", "examples_seen", "allow_missing", "html", "dry_run")
# Flags that mean something to a prepared folder alone, and those that mean nothing to it.
_PATH_ONLY = ("task", "example", "verify")
_NAME_ONLY = ("split", "allow_missing", "module", "all", "examples_seen")
# Flags that mean something to --packing alone, and what they are when not given.
_PACKING_ONLY: dict[str, object] = {
    "inputs": None,
    "targets": None,
    "vocabulary": None,
    "prepared_dir": None,
    "gin_file": [],
    "gin_search_paths": [],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of `inspect`."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="MIXTURE_OR_PATH",
        help="a mixture or a task; or a path: a prepared_dir, the folder of a mixture in it, or "
        "RUN_DIR/not_finite.json or skipped.jsonl, whose examples are shown",
    )
    parser.add_argument("--data_dir", metavar="DIR", help="the data folder (else FLAN_DATA_DIR)")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="NAME",
        help="a Python module of yours that registers tasks and mixtures; repeatable",
    )
    parser.add_argument(
        "--examples", type=int, default=0, metavar="N", help="print N rendered examples in all"
    )
    parser.add_argument(
        "--split", metavar="NAME", help="default: train, validation or test, the first there is"
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of templates and exemplars (default 0); with a path, of order and packing "
        "(default: the seed it was prepared with)",
    )
    parser.add_argument(
        "--allow_missing", action="store_true", help="go on without members whose source is absent"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="a line for every task and everything that is missing, however many there are",
    )
    parser.add_argument(
        "--examples_seen",
        type=int,
        metavar="N",
        help="of the run whose epochs are told (default: that of the recipe flan_t5_xl)",
    )
    parser.add_argument(
        "--html",
        metavar="PATH",
        help="write a page to browse in; with a path --examples then says how many it holds "
        "(default 3,000)",
    )
    parser.add_argument("--json", metavar="PATH", help="write the same facts as JSON")
    parser.add_argument("--dry_run", action="store_true", help="list the members, read no data")
    prepared = parser.add_argument_group(
        "with a path",
        "shows what was prepared: manifest, sizes, shares, lengths, what was left out",
    )
    prepared.add_argument(
        "--task", metavar="NAME", help="one task alone, with its longest examples"
    )
    prepared.add_argument(
        "--example",
        metavar="ID",
        help="one example as the model sees it: its id, TASK/ID, or --example='#INDEX'",
    )
    prepared.add_argument(
        "--verify", action="store_true", help="compare every file with its checksum"
    )
    purity = parser.add_argument_group(
        "with --contamination", "looks for training examples that held-out suites share text with"
    )
    purity.add_argument(
        "--contamination",
        action="append",
        default=[],
        metavar="SUITE",
        help="mmlu, bbh, mgsm, tydiqa (in the data folder), or a mixture; repeatable",
    )
    purity.add_argument(
        "--exclude_contaminated",
        metavar="PATH",
        help="write the list of these examples: `prepare` and `train` take it by the same flag and "
        "leave them out",
    )
    packing = parser.add_argument_group(
        "with --packing",
        "prepares the mixture (or takes the folder of a prepared one) and packs it",
    )
    packing.add_argument(
        "--packing",
        action="store_true",
        help="how an epoch packs, its lengths, and lengths that waste less",
    )
    packing.add_argument("--inputs", type=int, metavar="N", help="tokens of inputs (default 1024)")
    packing.add_argument("--targets", type=int, metavar="N", help="tokens of targets (default 256)")
    packing.add_argument("--vocabulary", metavar="NAME", help="default: that of the tasks")
    packing.add_argument("--prepared_dir", metavar="DIR", help="where prepared data are kept")
    packing.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="PATH",
        help="take lengths, vocabulary, folders, model and batch from a recipe; --gin.NAME=VALUE "
        "goes over it; repeatable",
    )
    packing.add_argument("--gin_search_paths", action="append", default=[], metavar="DIRS")
    checking = parser.add_argument_group(
        "with --check",
        "renders prompts of each task and looks for defects; exit code 1 when a task has one",
    )
    checking.add_argument(
        "--check",
        nargs="*",
        metavar="TASK",
        help="tasks, base tasks or mixtures to check; none for all; --inputs, --targets and "
        "--vocabulary say what is too long",
    )
    checking.add_argument(
        "--rows", type=int, metavar="N", help="rows of each task that are rendered (default 200)"
    )


def run(options: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Shows what the flags ask for and returns the exit code.

    Raises:
      UserError: flags that do not go together; as the views.
    """
    if options.check is not None:
        return _check(options, bindings)
    if options.rows is not None:
        raise UserError(
            "--rows says nothing here",
            where="the command line",
            expected="--rows together with --check",
            fix="add --check, or leave it out",
        )
    if options.name is None:
        raise UserError(
            "nothing to inspect is named",
            where="the command line",
            expected="a mixture, a task or a path; --check alone goes without",
            fix="flan-train inspect quickstart",
        )
    from flan_train import inspect, inspect_batch, inspect_store

    if inspect_batch.is_batch(options.name):
        return _batch(options, bindings)
    data_dir = options.data_dir or os.environ.get("FLAN_DATA_DIR")
    path = inspect_store.is_path(options.name)
    for name in _PATH_ONLY:
        if getattr(options, name) and (options.packing or not path):
            raise UserError(
                f"--{name} says nothing here",
                where="the command line",
                expected=f"--{name} with a prepared_dir, or the folder of a mixture in it"
                + ", and without --packing" * options.packing,
                fix=f"flan-train inspect PREPARED_DIR --{name} ...",
            )
    if options.contamination or options.exclude_contaminated:
        return _contamination(options, bindings, data_dir, path)
    if options.packing:
        for name in ("html", "all", "examples_seen"):
            if getattr(options, name):
                raise UserError(
                    f"--{name} says nothing here",
                    where="the command line",
                    expected=f"--{name} without --packing",
                    fix="run the verb twice",
                )
        return _packing(options, bindings)
    for name, silent in _PACKING_ONLY.items():
        if getattr(options, name) != silent:
            raise UserError(
                f"--{name} says nothing here",
                where="the command line",
                expected=f"--{name} together with --packing",
                fix="add --packing, or leave it out",
            )
    if bindings:
        raise UserError(
            "this verb reads no gin settings",
            where="--gin." + bindings[0],
            expected="its own flags only, unless --packing and --gin_file are given",
            fix="see --help",
        )
    if path:
        return _prepared(options, data_dir)
    return inspect.run(
        options.name,
        data_dir=data_dir,
        examples=options.examples,
        seed=options.seed or 0,
        allow_missing=options.allow_missing,
        split=options.split,
        every=options.all,
        examples_seen=options.examples_seen,
        html_path=options.html,
        json_path=options.json,
        dry_run=options.dry_run,
        modules=options.module,
    )


def _batch(options: argparse.Namespace, bindings: Sequence[str]) -> int:
    from flan_train import inspect_batch

    others = (*_PATH_ONLY, *_NAME_ONLY, "packing", "html", "seed", "contamination")
    given = [name for name in others if getattr(options, name) not in (None, False, 0, [])]
    given += [f"gin.{binding}" for binding in bindings]
    for name in given:
        raise UserError(
            f"--{name} says nothing here",
            where="the command line",
            expected="with the record of a batch, --examples, --data_dir, --json and --dry_run",
            fix="leave it out",
        )
    return inspect_batch.run(
        options.name,
        data_dir=options.data_dir or os.environ.get("FLAN_DATA_DIR"),
        examples=options.examples,
        json_path=options.json,
        dry_run=options.dry_run,
    )


def _contamination(
    options: argparse.Namespace, bindings: Sequence[str], data_dir: str | None, path: bool
) -> int:
    from flan_train import contamination

    if not options.contamination:
        raise UserError(
            "--exclude_contaminated says nothing here",
            where="the command line",
            expected="--exclude_contaminated together with --contamination",
            fix="name a suite with --contamination",
        )
    others = ("packing", "html", "examples", "examples_seen", "seed", *_PACKING_ONLY)
    given = [name for name in others if getattr(options, name) not in (None, False, 0, [])]
    given += [f"gin.{binding}" for binding in bindings]
    if path or given:
        raise UserError(
            f"--{given[0]} says nothing here" if given else f"{options.name} is a path",
            where="the command line, with --contamination",
            expected="the name of a mixture, whose rows are looked at as their sources give them",
            fix="run the verb twice" if given else "name the mixture that it was prepared from",
        )
    return contamination.run(
        options.name,
        options.contamination,
        data_dir=data_dir,
        split=options.split,
        allow_missing=options.allow_missing,
        exclude_path=options.exclude_contaminated,
        json_path=options.json,
        every=options.all,
        dry_run=options.dry_run,
        modules=options.module,
    )


def _check(options: argparse.Namespace, bindings: Sequence[str]) -> int:
    others = ("prepared_dir", "gin_file", "gin_search_paths")
    for name in (*_NOT_CHECK, *_PATH_ONLY, *others):
        if getattr(options, name):
            raise UserError(
                f"--{name} says nothing here",
                where="the command line",
                expected=f"--{name} without --check",
                fix="run the verb twice",
            )
    if bindings:
        raise UserError(
            "--check reads no gin settings",
            where="--gin." + bindings[0],
            expected="its own flags only",
            fix="see --help",
        )
    from flan_train import check, inspect

    inspect.import_modules(options.module)
    lengths = [
        default if given is None else given
        for given, default in zip((options.inputs, options.targets), check.LENGTHS, strict=True)
    ]
    settings = check.Settings(
        data_dir=options.data_dir or os.environ.get("FLAN_DATA_DIR"),
        rows=check.ROWS if options.rows is None else options.rows,
        split=options.split,
        seed=options.seed or 0,
        lengths=(lengths[0], lengths[1]),
        vocabulary=options.vocabulary,
    )
    names = [*([options.name] if options.name else []), *options.check]
    return check.run(names, settings, every=options.all, json_path=options.json)


def _prepared(options: argparse.Namespace, data_dir: str | None) -> int:
    from flan_train import inspect_prepared

    for name in _NAME_ONLY:
        if getattr(options, name):
            raise UserError(
                f"--{name} says nothing here",
                where="the command line",
                expected=f"--{name} with the name of a mixture: what is prepared is as it is",
                fix="leave it out",
            )
    if options.example and (options.task or options.html or options.examples):
        raise UserError(
            "--example shows one example, and nothing else",
            where="the command line",
            expected="--example without --task, --examples and --html",
            fix="run the verb twice",
        )
    return inspect_prepared.run(
        options.name,
        data_dir=data_dir,
        task=options.task,
        example=options.example,
        examples=options.examples,
        seed=options.seed,
        verify=options.verify,
        html_path=options.html,
        json_path=options.json,
        dry_run=options.dry_run,
    )


def _packing(options: argparse.Namespace, bindings: Sequence[str]) -> int:
    from flan_train import inspect, inspect_packing
    from flan_train.inspect_settings import Flags

    if options.examples:
        raise UserError(
            "--examples and --packing do not go together",
            where="the command line",
            expected="one of them",
            fix="run the verb twice",
        )
    inspect.import_modules(options.module)
    flags = Flags(
        name=options.name,
        inputs=options.inputs,
        targets=options.targets,
        vocabulary=options.vocabulary,
        split=options.split,
        seed=options.seed,
        data_dir=options.data_dir,
        prepared_dir=options.prepared_dir,
        allow_missing=options.allow_missing,
        modules=tuple(options.module),
        gin_files=options.gin_file,
        bindings=bindings,
        search_paths=[
            path for group in options.gin_search_paths for path in group.split(",") if path
        ],
    )
    return inspect_packing.run(flags, json_path=options.json, dry_run=options.dry_run)
