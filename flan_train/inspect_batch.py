"""`flan-train inspect RUN_DIR/not_finite.json` (or skipped.jsonl): the examples of a bad batch."""

from __future__ import annotations

import collections
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import rich.console

from flan_train import features
from flan_train.errors import UserError
from flan_train.inspect_example import describe_example
from flan_train.inspect_example_text import print_example
from flan_train.inspect_prepared_text import print_facts, print_line
from flan_train.inspect_table import write_json
from flan_train.prepared import PreparedDataset, open_prepared

ENDINGS = (".json", ".jsonl")
SHOWN = 20


def is_batch(name: str) -> bool:
    """Returns whether what a user named is the record of a batch rather than prepared data."""
    return name.endswith(ENDINGS)


def read_batches(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the batches that a run has recorded, in their order; one of not_finite.json.

    Returns:
      [{"step", "position": {"epoch", "sequence"}, "prepared": the folder of the mixture,
      "examples": [{"sequence": row of the batch, "task", "example_id", "example": its index}]}],
      with what was wrong: "what" of not_finite.json; "action", "loss", "median_loss" of
      skipped.jsonl.

    Raises:
      UserError: there is no such file, or it is something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else []
        found = found or [json.loads(text)]
        for batch in found:
            places = [(one["sequence"], one["example"]) for one in batch["examples"]]
            names = [(one["task"], one["example_id"]) for one in batch["examples"]]
            whole = [batch["step"], *(number for place in places for number in place)]
            texts = [batch["prepared"], *(name for pair in names for name in pair)]
            if not all(isinstance(number, int) for number in whole) or not all(
                isinstance(word, str) for word in texts
            ):
                raise ValueError("a number or a name is missing")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"no batch can be read from {path}: {reason}",
            where=str(path),
            expected="not_finite.json or skipped.jsonl of a run, as this version writes them",
            fix="name one of these files; a run that stopped under an earlier version names the "
            "examples in its message, for flan-train inspect PREPARED_DIR --example=TASK/ID",
        ) from error
    return found


def describe_batch(
    batch: Mapping[str, Any], prepared: PreparedDataset, most: int
) -> list[dict[str, Any]]:
    """Returns the first examples of a batch, each as `describe_example` and its "sequence".

    Args:
      batch: one of `read_batches`.
      prepared: the data it was read from.
      most: how many.

    Raises:
      UserError: the data are others by now.
    """
    capacity = features.capacity_of(prepared.manifest["feature_lengths"])
    found = []
    for one in batch["examples"][:most]:
        index, name = one["example"], f"{one['task']}/{one['example_id']}"
        record = prepared.record(index) if 0 <= index < len(prepared.lengths) else None
        if record is None or f"{record['task']}/{record['example_id']}" != name:
            raise UserError(
                f"the example {name} of the batch is not where it was",
                where=f"{prepared.path}, example #{index}",
                expected="the data that the run was trained on",
                fix=f"flan-train inspect {prepared.path} --example='{name}'",
            )
        described = describe_example(prepared, index, None, capacity)
        found.append({"sequence": one["sequence"], **described})
    return found


def run(
    name: str,
    *,
    data_dir: str | None = None,
    examples: int = 0,
    json_path: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    console: rich.console.Console | None = None,
) -> int:
    """Prints the batches of a file and the examples of the last one; returns the exit code 0.

    Args:
      name: the path of not_finite.json or skipped.jsonl.
      data_dir: where the vocabulary may be, else FLAN_DATA_DIR.
      examples: how many examples to show (0: 20).
      json_path: also write the batch and these examples as JSON.
      dry_run: read the file alone, no data.
      console: where to print.

    Raises:
      UserError: the file or the prepared data cannot be read.
    """
    console = console or rich.console.Console()
    batches = read_batches(pathlib.Path(name).expanduser())
    for batch in batches:
        tasks = collections.Counter(one["task"] for one in batch["examples"])
        named = ", ".join(f"{task} ({count:,})" for task, count in tasks.most_common())
        print_facts(console, [("step", f"{batch['step']:,}: {_what(batch)}"), ("tasks", named)])
    if dry_run:
        return 0
    last = batches[-1]
    prepared = open_prepared(pathlib.Path(last["prepared"]), data_dir=data_dir)
    described = describe_batch(last, prepared, examples or SHOWN)
    for one in described:
        console.print()
        print_line(console, f"sequence {one['sequence']} of the batch of step {last['step']:,}")
        print_example(console, one, whole=False)
    more = len(last["examples"]) - len(described)
    if more > 0:
        print_line(console, f"\nand {more:,} more: --examples {len(last['examples'])} shows all")
    if json_path is not None:
        write_json(pathlib.Path(json_path), {"batch": last, "examples": described})
        print_line(console, f"written: {json_path}")
    return 0


def _what(batch: Mapping[str, Any]) -> str:
    if "what" in batch:
        return f"{batch['what']} is not finite"
    loss, median = batch.get("loss"), batch.get("median_loss")
    text = "a loss or gradient that is not finite" if loss is None else f"loss {loss:.4f}"
    if median is not None:
        text += f", where the median was {median:.4f}"
    if batch.get("action") == "rewind":
        return f"{text}: back to step {batch['to']:,}"
    return f"{text}: skipped"
