"""`flan-train inspect`: what a mixture is made of, at what rates, and what its prompts say."""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import rich.box
import rich.console
import rich.markup
import rich.table
import rich.text

from flan_train import mixtures, tasks
from flan_train.errors import UserError
from flan_train.mixtures import rates
from flan_train.tasks import templates
from flan_train.tasks.definitions import BadRow, Rendered, TaskDefinition

# Prompts are drawn from the first rows of a split, so that a large file need not be read through.
ROWS_LOOKED_AT = 200


def shown_split(names: list[str]) -> str:
    """Returns the split whose examples are counted: "train" unless no task has it."""
    for split in ("train", "validation", "test"):
        if any(split in tasks.get(name).splits for name in names):
            return split
    return "train"


def describe_mixture(
    name: str,
    data_dir: str | None = None,
    allow_missing: bool = False,
    split: str | None = None,
    count: bool = True,
) -> dict[str, Any]:
    """Returns what a mixture or task consists of, as plain JSON values.

    Args:
      name: a mixture or a task.
      data_dir: the data folder, else FLAN_DATA_DIR.
      allow_missing: leave out members whose files are missing instead of failing.
      split: whose examples are counted; "train" (or the first there is) unless given.
      count: read the sources; without, only what needs no data is there.

    Returns:
      {"mixture", "description", "split", "tasks", "examples", "proportions": {mixture inside:
      fixed weight}, "members": [{"task", "mixture",
      "family", "form", "held_out", "examples", "cap", "rate", "share", "source", "missing"}]}
      with rate = min(cap, examples) or the fixed weight, and shares that sum to 1.

    Raises:
      UserError: no such name, missing sources, or a mixture that is empty.
    """
    definition = mixtures.get(name)
    listed = mixtures.tasks_of(name)
    split = split or shown_split(listed)
    missing: dict[str, str] = {}
    counts: dict[str, int] = {}
    shares: dict[str, float] = {}
    if count:
        availability = mixtures.check_sources(name, data_dir, allow_missing)
        missing = availability.missing
        for task_name in availability.present:
            task = tasks.get(task_name)
            has_split = split in task.splits
            counts[task_name] = task.num_examples(split, data_dir) if has_split else 0
        shares = rates.shares(definition, counts)
        if not shares:
            raise UserError(
                f"the mixture '{name}' is empty: no task has examples in the split '{split}'",
                expected="at least one example",
            )
    members = [
        _member(tasks.get(task_name), parent, weight, data_dir, counts, shares, missing)
        for task_name, parent, weight in _placed(definition)
    ]
    return {
        "mixture": name,
        "description": definition.description,
        "split": split,
        "tasks": len(listed),
        "examples": sum(counts.values()) if count else None,
        "proportions": {
            member.name: member.weight
            for member in definition.members
            if mixtures.find(member.name) is not None
        },
        "members": members,
    }


def _placed(
    definition: mixtures.MixtureDefinition,
) -> Iterator[tuple[str, mixtures.MixtureDefinition, float | None]]:
    """Yields (task, the mixture it stands in, its fixed weight there), depth first."""
    for member in definition.members:
        nested = mixtures.find(member.name)
        if nested is None:
            yield member.name, definition, member.weight
        else:
            yield from _placed(nested)


def _member(
    task: TaskDefinition,
    parent: mixtures.MixtureDefinition,
    weight: float | None,
    data_dir: str | None,
    counts: dict[str, int],
    shares: dict[str, float],
    missing: dict[str, str],
) -> dict[str, Any]:
    examples = counts.get(task.name)
    rate: float | None = weight
    if rate is None and examples is not None:
        rate = rates.capped(examples, parent.cap)
    return {
        "task": task.name,
        "mixture": parent.name,
        "family": task.family,
        "form": task.form,
        "held_out": task.held_out,
        "examples": examples,
        "cap": parent.cap,
        "rate": rate,
        "share": shares.get(task.name, 0.0) if counts else None,
        "source": task.source.describe(data_dir) if examples is not None else None,
        "missing": missing.get(task.name),
    }


def rendered_examples(
    name: str,
    number: int,
    *,
    data_dir: str | None = None,
    seed: int = 0,
    allow_missing: bool = False,
    split: str | None = None,
) -> list[Rendered]:
    """Returns rendered examples, one task after another in an order drawn by the seed.

    The same arguments give the same examples.

    Args:
      name: a mixture or a task.
      number: how many.
      data_dir: the data folder, else FLAN_DATA_DIR.
      seed: which tasks come first, which rows, wordings and exemplars.
      allow_missing: leave out members whose files are missing.
      split: where rows come from; "train" (or the first there is) unless given.

    Raises:
      UserError: as `describe_mixture`; also the first bad row met.
    """
    present = mixtures.check_sources(name, data_dir, allow_missing).present
    split = split or shown_split(list(present))
    order = sorted(
        (task for task in present if split in tasks.get(task).splits),
        key=lambda task: (templates.choose(1 << 60, seed, task, "", "inspect order"), task),
    )
    shown: list[Rendered] = []
    for turn in range(number):
        if not order:
            break
        task = tasks.get(order[turn % len(order)])
        rows = []
        for row in itertools.islice(task.rows(split, data_dir), ROWS_LOOKED_AT):
            if isinstance(row, BadRow):
                raise UserError(f"bad row: {row.reason}", where=row.where, expected=row.detail)
            rows.append(row)
        if rows:
            start = templates.choose(len(rows), seed, task.name, "", "inspect row")
            row = rows[(start + turn // len(order)) % len(rows)]
            shown.append(task.render(row, seed, None, data_dir))
    return shown


def run(
    name: str,
    *,
    data_dir: str | None = None,
    examples: int = 0,
    seed: int = 0,
    allow_missing: bool = False,
    split: str | None = None,
    json_path: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    console: rich.console.Console | None = None,
) -> int:
    """Prints the table of a mixture and, when asked, rendered prompts; returns the exit code 0.

    Args:
      name: a mixture or a task.
      data_dir: the data folder, else FLAN_DATA_DIR.
      examples: how many rendered prompts to print.
      seed: seed of the prompts.
      allow_missing: leave out members whose files are missing.
      split: whose examples are counted and shown.
      json_path: also write the same facts as JSON.
      dry_run: list the members and read no data.
      console: where to print.

    Raises:
      UserError: as `describe_mixture` and `rendered_examples`.
    """
    console = console or rich.console.Console()
    described = describe_mixture(name, data_dir, allow_missing, split, count=not dry_run)
    shown: list[Rendered] = []
    if examples and not dry_run:
        shown = rendered_examples(
            name,
            examples,
            data_dir=data_dir,
            seed=seed,
            allow_missing=allow_missing,
            split=described["split"],
        )
    console.print(_table(described))
    for line in sorted({m["missing"] for m in described["members"] if m["missing"]}):
        console.print(
            f"left out: {line}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )
    for rendered in shown:
        _print_example(console, rendered)
    if json_path is not None:
        content = {**described, "rendered": [vars(rendered) for rendered in shown]}
        _write_json(pathlib.Path(json_path), content)
        console.print(f"written: {json_path}", markup=False, highlight=False)
    return 0


def _table(described: dict[str, Any]) -> rich.table.Table:
    counted = described["examples"] is not None
    title = f"{described['mixture']}: {described['description']}"
    caption = "dry run: no data read"
    if counted:
        caption = f"examples of the split '{described['split']}'; rate = min(cap, examples)"
    sources = {member["source"] for member in described["members"]}
    if len(sources) == 1 and None not in sources:
        caption += f"; source: {sources.pop()}"
    if described["proportions"]:
        fixed = " : ".join(
            f"{name} {weight:g}" for name, weight in described["proportions"].items()
        )
        caption += f"\nbetween mixtures: {fixed}"
    table = rich.table.Table(
        title=rich.markup.escape(title),
        caption=rich.markup.escape(caption),
        box=rich.box.SIMPLE_HEAD,
        show_footer=counted,
        pad_edge=False,
    )
    left_out = sum(member["missing"] is not None for member in described["members"])
    total = f"{described['tasks'] - left_out} of {described['tasks']} tasks"
    share = sum(member["share"] or 0.0 for member in described["members"])
    # A column whose cells all say the same would only take room from the others.
    nested = len({member["mixture"] for member in described["members"]}) > 1
    capped = any(member["cap"] for member in described["members"])
    sources = {member["source"] for member in described["members"]}
    table.add_column("task", footer=total, no_wrap=True)
    if nested:
        table.add_column("in", footer="", overflow="fold")
    numbers = _number(described["examples"])
    table.add_column("examples", justify="right", footer=numbers, no_wrap=True)
    if capped:
        table.add_column("cap", justify="right", footer="", no_wrap=True)
    table.add_column("rate", justify="right", footer="", no_wrap=True)
    table.add_column("share", justify="right", footer=f"{share:.2%}", no_wrap=True)
    if len(sources) > 1:
        table.add_column("source", footer="", overflow="fold")
    for member in described["members"]:
        source = "missing" if member["missing"] else member["source"] or ""
        table.add_row(
            rich.markup.escape(member["task"]),
            *([rich.markup.escape(member["mixture"])] if nested else []),
            _number(member["examples"]),
            *([_number(member["cap"])] if capped else []),
            _number(member["rate"]),
            "" if member["share"] is None else f"{member['share']:.2%}",
            *([rich.markup.escape(source)] if len(sources) > 1 else []),
            style="yellow" if member["missing"] else None,
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _print_example(console: rich.console.Console, rendered: Rendered) -> None:
    shots = f", {rendered.shots} exemplars" if rendered.shots else ""
    heading = f"{rendered.task}  {rendered.example_id}  {rendered.template_id}{shots}"
    console.rule(rich.text.Text(heading), align="left")
    for label, text in (("inputs", rendered.inputs), ("targets", rendered.targets)):
        console.print(f"{label}:", style="bold")
        console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(
            json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write the JSON file: {error.strerror}",
            where=str(path),
            expected="a path in a folder that exists",
        ) from None
