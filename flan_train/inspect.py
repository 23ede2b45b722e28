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
from flan_train.tasks.definitions import BadRow, Rendered

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
      "inside", "family", "form", "held_out", "examples", "cap", "rate", "share", "source",
      "missing"}]} with the names of the mixtures a task stands inside, outermost first,
      rate = min(cap, examples) or the fixed weight, and shares that sum to 1. A task that stands
      in two mixtures is listed in each, with the share it has by being there.

    Raises:
      UserError: no such name, missing sources, or a mixture that is empty.
    """
    definition = mixtures.get(name)
    listed = mixtures.tasks_of(name)
    split = split or shown_split(listed)
    missing: dict[str, str] = {}
    counts: dict[str, int] = {}
    shares: dict[tuple[str, ...], float] = {}
    if count:
        availability = mixtures.check_sources(name, data_dir, allow_missing)
        missing = availability.missing
        for task_name in availability.present:
            task = tasks.get(task_name)
            has_split = split in task.splits
            counts[task_name] = task.num_examples(split, data_dir) if has_split else 0
        shares = rates.placed_shares(definition, counts)
        if not shares:
            raise UserError(
                f"the mixture '{name}' is empty: no task has examples in the split '{split}'",
                expected="at least one example",
            )
    members = [
        _member(place, parent, weight, data_dir, counts, shares, missing)
        for place, parent, weight in _placed(definition)
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
    definition: mixtures.MixtureDefinition, inside: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], mixtures.MixtureDefinition, float | None]]:
    """Yields (place of a task, the mixture it stands in, its fixed weight there), depth first."""
    for member in definition.members:
        nested = mixtures.find(member.name)
        if nested is None:
            yield (*inside, member.name), definition, member.weight
        else:
            yield from _placed(nested, (*inside, member.name))


def _member(
    place: tuple[str, ...],
    parent: mixtures.MixtureDefinition,
    weight: float | None,
    data_dir: str | None,
    counts: dict[str, int],
    shares: dict[tuple[str, ...], float],
    missing: dict[str, str],
) -> dict[str, Any]:
    task = tasks.get(place[-1])
    examples = counts.get(task.name)
    rate: float | None = weight
    if rate is None and examples is not None:
        rate = rates.capped(examples, parent.cap)
    return {
        "task": task.name,
        "mixture": parent.name,
        "inside": list(place[:-1]),
        "family": task.family,
        "form": task.form,
        "held_out": task.held_out,
        "examples": examples,
        "cap": parent.cap,
        "rate": rate,
        "share": shares.get(place, 0.0) if counts else None,
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
                raise UserError(
                    f"bad row: {row.reason}: {row.found}", where=row.where, expected=row.expected
                )
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
    """Returns the table: one line a task, below a line for each mixture inside."""
    members = described["members"]
    counted = described["examples"] is not None
    several_sources = len({member["source"] for member in members}) > 1
    # A column whose cells say nothing new would only take room from the others.
    biting = [member for member in members if _bites(member)]
    table = rich.table.Table(
        title=rich.markup.escape(f"{described['mixture']}: {described['description']}"),
        caption=rich.markup.escape(_caption(described)),
        box=rich.box.SIMPLE_HEAD,
        show_footer=counted,
        pad_edge=False,
    )
    left_out = len({member["task"] for member in members if member["missing"]})
    total = f"{described['tasks'] - left_out} of {described['tasks']} tasks"
    table.add_column("task", footer=total, no_wrap=True)
    numbers = _number(described["examples"])
    table.add_column("examples", justify="right", footer=numbers, no_wrap=True)
    if biting:
        table.add_column("cap", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("share", justify="right", footer=_share(members), no_wrap=True)
    if several_sources:
        table.add_column("source", no_wrap=True, overflow="ellipsis")
    for inside, group in itertools.groupby(members, key=lambda member: member["inside"]):
        listed = list(group)
        if any(member["inside"] for member in members):
            blanks = [""] * (3 if biting else 2)
            name = " / ".join(inside) or described["mixture"]
            table.add_row(rich.markup.escape(name), *blanks, _share(listed), style="bold")
        for member in listed:
            source = "missing" if member["missing"] else member["source"] or ""
            table.add_row(
                rich.markup.escape(member["task"]),
                _number(member["examples"]),
                *([_number(member["cap"])] if biting else []),
                _number(member["rate"]),
                _share([member]),
                # The file's name: all of them lie in the data folder.
                *([rich.markup.escape(source.rpartition("/")[2])] if several_sources else []),
                style="yellow" if member["missing"] else None,
            )
    return table


def _caption(described: dict[str, Any]) -> str:
    """Returns what goes for all rows: the split, the caps, the source, the proportions."""
    members = described["members"]
    if described["examples"] is None:
        lines = ["dry run: no data read"]
    else:
        lines = [f"examples of the split '{described['split']}'; rate = min(cap, examples)"]
    caps = sorted({member["cap"] for member in members if member["cap"]})
    if caps:
        each = "; no task reaches it" if not any(map(_bites, members)) else ""
        lines.append(f"cap for each task: {' or '.join(map(_number, caps))}{each}")
    sources = {member["source"] for member in members} - {None}
    folders = {source.rpartition("/")[0] for source in sources} - {""}
    if len(sources) == 1 and all(member["source"] for member in members):
        lines.append(f"source: {sources.pop()}")
    elif folders:
        lines.append(f"sources: files in {', '.join(sorted(folders))} of the data folder")
    if described["proportions"]:
        fixed = " : ".join(
            f"{name} {weight:g}" for name, weight in described["proportions"].items()
        )
        lines.append(f"between mixtures: {fixed}")
    return "\n".join(lines)


def _bites(member: dict[str, Any]) -> bool:
    """Whether the cap of a member is below its number of examples."""
    return bool(member["cap"]) and (member["examples"] or 0) > member["cap"]


def _share(members: list[dict[str, Any]]) -> str:
    shares = [member["share"] for member in members if member["share"] is not None]
    return f"{sum(shares):.2%}" if shares else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _print_example(console: rich.console.Console, rendered: Rendered) -> None:
    console.rule(rich.text.Text(rendered.task), align="left")
    facts = [("example", rendered.example_id), ("template", rendered.template_id)]
    if rendered.shots:
        facts.append(("exemplars", str(rendered.shots)))
    for label, text in facts:
        console.print(rich.text.Text(f"{label}: {text}"), soft_wrap=True)
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
