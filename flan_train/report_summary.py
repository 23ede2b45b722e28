"""The scores of runs for the terminal, in percent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flan_train import report_compare_scores, report_html, report_reference, report_selection
from flan_train.report_blocks import SPLIT_NAMES, SPLITS, Block, blocks
from flan_train.report_text import percent, signed
from flan_train.run_directory import Run

# A suite of more families is shown by its mean alone; the page has every task.
MOST_FAMILIES = 40


def of_run(run: Run, console: Console) -> None:
    """Prints by suite the first, last, chosen and reported score, and the paper's beside it."""
    found = blocks(run)
    console.print()
    if not found:
        console.print("No evaluation results yet.", markup=False)
        return
    names = {block.metric for block in found}
    what = names.pop().replace("_", " ").capitalize() if len(names) == 1 else "Scores"
    console.print(f"{what} in percent, {report_html.title(run)}", style="bold", markup=False)
    for held_out in (False, True):
        group = [block for block in found if block.held_out == held_out]
        if group:
            console.print(_table(run, group, held_out))
    six = report_reference.best_six(run, found)
    if six is not None:
        model = report_reference.nearest(run.parameters())
        beside = ""
        if model is not None:
            beside = f"; {model.name}: {percent(report_reference.normalized_average_of(model))}"
        console.print(
            f"Normalised average of the six, {SPLIT_NAMES[six.split]}: "
            f"{percent(six.average)}{beside}",
            markup=False,
        )
    if run.selected:
        console.print(f"Chosen: {report_selection.lead(run.selected)}", markup=False)
        if words := report_selection.protocol(run.selected):
            console.print(words, markup=False)
    else:
        console.print("No checkpoint has been selected yet.", markup=False)


def _table(run: Run, group: Sequence[Block], held_out: bool) -> Table:
    """Returns one table of suites, with their families where these are few enough to read."""
    title = (
        "Held-out families, never trained on"
        if held_out
        else ("Families of the training mixture, unseen instances")
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("suite / family", no_wrap=True)
    for name in ("tasks", "n", "first", "last"):
        table.add_column(name, justify="right")
    if run.selected:
        table.add_column(f"@{run.selected['step']}", justify="right", style="bold")
    table.add_column("majority", justify="right")
    apart = [split for split in SPLITS if any(split in block.others for block in group)]
    for split in apart:
        table.add_column(split.replace("_", " "), justify="right")
    model = report_reference.nearest(run.parameters())
    beside = any(report_reference.published(model, block) is not None for block in group)
    if model is not None and beside:
        table.add_column(model.name, justify="right", no_wrap=True)
    for block in group:
        theirs = [percent(report_reference.published(model, block))] if beside else []
        label = block.suite
        if block.split != "validation":
            label += f" ({SPLIT_NAMES[block.split]})"
        table.add_row(*_cells(run, block, label, apart), *theirs, style="bold")
        families = sorted({row.family for row in block.rows})
        if 1 < len(families) <= MOST_FAMILIES:
            for family in families:
                rows = [row for row in block.rows if row.family == family]
                part = dataclasses.replace(block, rows=rows, curve=[])
                table.add_row(*_cells(run, part, f"  {family}", apart))
            table.add_section()
    return table


def _cells(run: Run, block: Block, label: str, apart: Sequence[str]) -> list[str]:
    return [
        escape(label),
        str(len(block.rows)),
        f"{block.prompts:,}",
        percent(block.mean("first")),
        percent(block.curve[-1][1]) if block.curve else "",
        *([percent(block.mean("shown"))] if run.selected else []),
        percent(block.mean("majority")),
        *(percent(block.on(split)[0]) for split in apart),
    ]


def of_runs(runs: Sequence[Run], console: Console) -> None:
    """Prints runs side by side: each suite's score at the step shown, with differences."""
    names = report_compare_scores.labels(runs)
    compared = report_compare_scores.compare(runs)
    console.print()
    if not compared:
        console.print("No evaluation results yet.", markup=False)
        return
    table = Table(
        title=f"{len(runs)} runs, percent (differences from the first)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("suite", no_wrap=True)
    table.add_column("split", no_wrap=True)
    for name in names:
        table.add_column(escape(name), justify="right")
    steps = [report_compare_scores.step_name(run) for run in runs]
    table.add_row("step", "", *steps, end_section=True)
    for line in compared:
        cells = []
        for place, (score, _) in enumerate(line.scores):
            text = percent(score)
            if place and score is not None and line.scores[0][0] is not None:
                text += f" ({signed(score - line.scores[0][0])})"
            cells.append(text)
        table.add_row(escape(line.name), SPLIT_NAMES.get(line.split, ""), *cells)
    console.print(table)
