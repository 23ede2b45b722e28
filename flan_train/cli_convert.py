"""`flan-train convert`: checkpoints to and from other programs' folders."""

from __future__ import annotations

import argparse

from flan_train import cli_gin
from flan_train.errors import UserError

# Flag by flag, the directions that know it.
_FLAGS = {
    "params_only": ("t5x-to-flan", "flan-to-t5x"),
    "layout": ("flan-to-t5x",),
    "dtype": ("flan-to-hf", "flan-to-t5x"),
    "shard_gb": ("flan-to-hf",),
    "step_offset": ("flan-to-t5x",),
}
DIRECTIONS = ("hf-to-flan", "flan-to-hf", "t5x-to-flan", "flan-to-t5x")

# Modules are imported inside: `--help` must not wait for JAX.


def add_arguments(convert: argparse.ArgumentParser) -> None:
    """Adds the verb's flags to its parser."""
    convert.add_argument("direction", choices=DIRECTIONS)
    convert.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="DIR",
        help="the folder to read; of a run, RUN_DIR/checkpoints/selected will do",
    )
    convert.add_argument(
        "--to",
        dest="destination",
        required=True,
        metavar="DIR",
        help="the folder to make; for flan-to-t5x T5X's MODEL_DIR, to put checkpoint_STEP into",
    )
    convert.add_argument("--dry_run", action="store_true", help="check the source, write nothing")
    convert.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="flan-to-hf, flan-to-t5x: of the parameters (default: as they came, else float32)",
    )
    convert.add_argument(
        "--shard_gb",
        type=float,
        metavar="GB",
        help="flan-to-hf: weights of more than so many 10^9 bytes become several files with an "
        "index (default: 5)",
    )
    t5x = convert.add_argument_group("native T5X checkpoints")
    t5x.add_argument(
        "--params_only",
        action="store_true",
        help="leave the optimizer's state out (flan-to-t5x: as it is before any update)",
    )
    t5x.add_argument(
        "--layout",
        choices=("unrolled", "scanned"),
        help="flan-to-t5x: for T5X's network t5, or scalable_t5 (default: as it came, else "
        "unrolled)",
    )
    t5x.add_argument(
        "--step_offset",
        type=int,
        metavar="N",
        help="flan-to-t5x: added to the step, as T5X counts from the beginning of pre-training",
    )


def run(options: argparse.Namespace, bindings: list[str]) -> int:
    """Converts, and prints a line about it; returns the exit code."""
    from flan_train import verbs

    cli_gin.refuse_bindings(bindings)
    given = {name: getattr(options, name) for name in _FLAGS}
    # False and None are what a flag is when it was not given; --step_offset=0 says nothing either.
    flags = {name: value for name, value in given.items() if value}
    for name in flags:
        if options.direction not in _FLAGS[name]:
            raise UserError(
                f"convert {options.direction} does not know --{name}",
                where="the command line",
                expected=f"it with {' or '.join(_FLAGS[name])} only",
                fix="leave it out",
            )
    return verbs.convert(
        options.direction, options.source, options.destination, dry_run=options.dry_run, **flags
    )
