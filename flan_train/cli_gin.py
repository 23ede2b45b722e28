"""What the verbs that read gin files have in common: their flags, and the settings that follow."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flan_train.errors import UserError

if TYPE_CHECKING:
    from flan_train.config import ResolvedConfig

# Modules are imported inside the functions: `--help` must not wait for JAX.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of gin, of the data folder and of modules, and `--dry_run`."""
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


def resolved(options: argparse.Namespace, bindings: Sequence[str]) -> ResolvedConfig:
    """Returns the settings of a command line: its gin files, its bindings, its flags over them.

    Raises:
      UserError: no gin file is given; as `config.resolve`.
    """
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
    settings = config.resolve(options.gin_file, bindings, paths)
    if options.module:
        named = settings.macro("MODULES") or ()
        modules = (*([named] if isinstance(named, str) else named), *options.module)
        bindings = [*bindings, f"MODULES = {tuple(dict.fromkeys(modules))!r}"]
        settings = config.resolve(options.gin_file, bindings, paths)
    return settings


def refuse_bindings(bindings: Sequence[str]) -> None:
    """Passes nothing on: for verbs that read no gin settings.

    Raises:
      UserError: `--gin.NAME=VALUE` was given.
    """
    if bindings:
        raise UserError(
            "this verb reads no gin settings",
            where="--gin." + bindings[0],
            expected="its own flags only",
            fix="see --help",
        )
