"""The command line of `flan-train checkpoint`: list, verify, prune and copy."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from flan_train import cli_gin
from flan_train.errors import UserError

# Modules are imported inside the functions: `--help` must not wait for them.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `checkpoint` can do, and the flags of each."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + "."
        )
        sub.add_argument("run_dir", metavar="RUN_DIR")
        sub.add_argument("--json", metavar="PATH", help="write the same facts as JSON")
        return sub

    action("list", "show each checkpoint: step, time, size, whether it is whole, why it is kept")
    verify = action(
        "verify",
        "read every array and compare it with the checksum recorded when it was saved; exit code 2 "
        "when one differs, is missing or has no checksum",
    )
    verify.add_argument("--step", type=int, metavar="N", help="this one alone")
    prune = action(
        "prune",
        "remove the checkpoints that no rule keeps, never the selected one, and what saves that "
        "failed have left; not while the run trains",
    )
    told = "(default: as the run was told)"
    prune.add_argument("--keep", type=int, metavar="N", help=f"the N newest {told}")
    prune.add_argument("--keep_every", type=int, metavar="N", help=f"steps that N divides {told}")
    prune.add_argument(
        "--keep_best", type=int, metavar="N", help=f"the N best by the run's selection {told}"
    )
    prune.add_argument("--dry_run", action="store_true", help="say what would go, remove nothing")
    copy = action("copy", "copy a checkpoint to a new folder, and verify the copy")
    copy.add_argument("--step", default="selected", help="a number, selected (default) or latest")
    copy.add_argument("--to", required=True, metavar="DIR", help="the folder to make")


def run(options: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Does what was asked and returns the exit code.

    Raises:
      UserError: as the functions of `checkpoint_care`; damaged checkpoints that `verify` found.
    """
    cli_gin.refuse_bindings(bindings)
    actions = {"list": _list, "verify": _verify, "prune": _prune, "copy": _copy}
    actions[options.action](options)
    return 0


def _list(options: argparse.Namespace) -> None:
    from rich.table import Table

    from flan_train import checkpoint_care, verbs

    rows = checkpoint_care.listed(options.run_dir)
    table = Table("step", "saved", "size", "state", "kept as")
    for row in rows:
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"]))
        missing = f": no {', '.join(row['missing'])}" if row["missing"] else ""
        kept = ", ".join(row["kept"]) or ("-" if row["state"] == checkpoint_care.WHOLE else "")
        if not row["time"]:  # an object store's listing has neither
            table.add_row(f"{row['step']:,}", "?", "?", row["state"] + missing, kept)
            continue
        table.add_row(f"{row['step']:,}", saved, _size(row["bytes"]), row["state"] + missing, kept)
    verbs.write_json(options.json, rows)
    verbs.new_console().print(table if rows else "no checkpoints", markup=False)


def _verify(options: argparse.Namespace) -> None:
    from flan_train import checkpoint_care, verbs

    console = verbs.new_console()
    rows = checkpoint_care.verify(options.run_dir, options.step)
    verbs.write_json(options.json, rows)
    for row in rows:
        text = f"step {row['step']:,}: {row['state']}"
        if row["arrays"]:
            text += f", {row['arrays']} arrays, {_size(row['bytes'])} read"
        console.print(text + (f": {row['what']}" if row["what"] else ""), markup=False)
    bad = [row for row in rows if row["state"] != checkpoint_care.WHOLE]
    if bad:
        lines = [f"\n    {row['step']}: {', '.join(row['damaged']) or row['what']}" for row in bad]
        raise UserError(
            f"{len(bad)} of {len(rows)} checkpoints are damaged{''.join(lines)}",
            where=str(options.run_dir),
            expected="arrays with the checksums that were recorded when they were saved",
            fix="copy them back from elsewhere; training goes on from the newest one that is whole",
        )


def _prune(options: argparse.Namespace) -> None:
    from flan_train import checkpoint_prune, verbs

    console = verbs.new_console()
    done = checkpoint_prune.prune(
        options.run_dir,
        keep=options.keep,
        keep_every=options.keep_every,
        keep_best=options.keep_best,
        dry_run=options.dry_run,
    )
    verbs.write_json(options.json, done)
    for step, reasons in done["kept"].items():
        console.print(f"step {step:,} stays: {', '.join(reasons)}", markup=False)
    verb = "would be removed" if options.dry_run else "removed"
    for row in done["removed"]:
        console.print(f"step {row['step']:,} {verb}: {_size(row['bytes'])}", markup=False)
    for row in done["leftovers"]:
        console.print(f"{row['folder']}, unfinished, {verb}: {_size(row['bytes'])}", markup=False)
    console.print(
        f"{len(done['removed'])} checkpoints, {done['bytes']:,} bytes {verb}", markup=False
    )


def _copy(options: argparse.Namespace) -> None:
    from flan_train import checkpoint_care, verbs

    done: dict[str, Any] = checkpoint_care.copy(options.run_dir, options.step, options.to)
    verbs.write_json(options.json, done)
    verbs.new_console().print(
        f"step {done['step']:,}: {done['arrays']} arrays, {_size(done['bytes'])} copied and "
        f"compared\n{done['to']}",
        markup=False,
    )


def _size(count: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
