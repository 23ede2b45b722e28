"""The part of a run's page with every task: one table, a group of rows a suite, that sorts."""

from __future__ import annotations

from collections.abc import Sequence

from flan_train import report_reference
from flan_train.report_blocks import SPLIT_NAMES, SPLITS, Block, Row
from flan_train.report_text import empty, esc, name, number, percent, some, span
from flan_train.run_directory import Run

# The cells of a column that the script does not sort by their own text carry this.
_VALUE = "data-v"


def filter_form(suites: Sequence[str], what: str) -> str:
    """Returns the fields that a table of tasks is filtered by; hidden until the script runs."""
    options = "".join(f'<option value="{esc(suite)}">{esc(suite)}</option>' for suite in suites)
    return (
        f'<form class="filter rows" hidden><div><label for="{what}-suite">Suite</label>'
        f'<select id="{what}-suite" name="suite"><option value="">all suites</option>{options}'
        f'</select></div><div><label for="{what}-find">Task</label>'
        f'<input id="{what}-find" name="find" type="search" placeholder="part of its name"></div>'
        '<output name="count" aria-live="polite"></output></form>'
    )


def cell(value: float | None, text: str, look: str = "n") -> str:
    """Returns a cell that sorts by its value; what is not known comes last."""
    known = "" if value is None else f' {_VALUE}="{value:.6g}"'
    return f'<td class="{look}"{known}>{text}</td>'


def tasks(run: Run, blocks: Sequence[Block]) -> str:
    """Returns every task of every suite, the held-out suites last."""
    if not blocks:
        return empty("No task has been evaluated yet.")
    columns = _columns(run, blocks)
    head = "".join(
        f'<th class="{look}" scope="col"{_title(about)}>{esc(title)}</th>'
        for title, look, about in columns
    )
    bodies = "".join(_group(run, block, blocks) for block in blocks)
    which = "at the chosen step" if run.selected else "at the last evaluation"
    key = (
        '<div class="key bars"><span><span class="track">'
        f'<span class="fill" style="width:100%"></span></span>score {which}</span>'
        '<span><span class="track"><span class="was" style="width:100%"></span></span>first '
        'evaluation</span><span><span class="track"><span class="tick" style="left:50%"></span>'
        "</span>majority answer</span></div>"
    )
    return (
        f"{key}{filter_form([block.suite for block in blocks], 'tasks')}"
        f'<div class="box"><table class="tasks sortable"><thead><tr>{head}</tr></thead>'
        f"{bodies}</table></div>"
    )


def _title(about: str) -> str:
    return f' title="{esc(about)}"' if about else ""


def _shows(blocks: Sequence[Block]) -> dict[str, bool]:
    """Returns which columns hold anything at all."""
    rows = [row for block in blocks for row in block.rows]
    return {
        "shots": any(row.shots for row in rows),
        "interval": any(row.interval for row in rows),
        "normalized": any(row.normalized is not None for row in rows),
        "dropped": any(row.dropped for row in rows),
    }


def _apart(blocks: Sequence[Block]) -> list[str]:
    return [split for split in SPLITS if any(split in block.others for block in blocks)]


def _paper(run: Run, blocks: Sequence[Block]) -> report_reference.Model | None:
    """Returns the model of the paper whose scores by file stand beside, if any are known."""
    model = report_reference.nearest(run.parameters())
    for block in blocks:
        for row in block.rows:
            if report_reference.published(model, block, row.subset) is not None:
                return model
    return None


def _columns(run: Run, blocks: Sequence[Block]) -> list[tuple[str, str, str]]:
    shows = _shows(blocks)
    model = _paper(run, blocks)
    found = [("Task", "name", ""), ("Prompts", "n minor", "examples measured")]
    if shows["shots"]:
        found.append(("Shots", "n minor", "mean number of exemplars in the prompt"))
    found += [("First", "n", "at the first evaluation")]
    found += [("Chosen" if run.selected else "Last", "n", "percent")]
    if shows["interval"]:
        found.append(("95 % interval", "n minor", "bootstrap over prompts"))
    found += [("0 to 100", "bar", ""), ("Majority", "n", "always the commonest answer")]
    if shows["normalized"]:
        found.append(("Above chance", "n minor", "(score - chance) / (1 - chance)"))
    found += [(SPLIT_NAMES[split].capitalize(), "n", "") for split in _apart(blocks)]
    if model:
        found.append((model.name, "n paper", "the paper, on the whole published set"))
    found.append(("No answer", "n minor", "outputs that no answer could be read out of"))
    if shows["dropped"]:
        found.append(("Dropped", "n minor", "examples that are not measured"))
    return found


def _group(run: Run, block: Block, blocks: Sequence[Block]) -> str:
    shows, model, apart = _shows(blocks), _paper(run, blocks), _apart(blocks)
    mean = Row(
        task="",
        family="",
        form="",
        metric=block.metric,
        n=block.prompts,
        shots=block.mean("shots"),
        first=block.mean("first"),
        shown=block.mean("shown"),
        interval=block.interval,
        majority=block.mean("majority"),
        normalized=block.mean("normalized"),
        not_extracted=sum(row.not_extracted for row in block.rows),
        dropped={"": sum(sum(row.dropped.values()) for row in block.rows)},
        others={split: block.other(split) for split in apart},
    )
    paper = report_reference.published(model, block)
    where = f"step {block.first_step:,} and {block.shown_step:,}"
    if block.first_step == block.shown_step:
        where = f"step {block.shown_step:,}"
    about = f"{some(len(block.rows), 'task')} · {where}"
    if block.held_out:
        about = f"held out · {about}"
    if block.votes:
        about = f"{block.votes} votes · {about}"
    heading = f"{name(block.suite)}<small>{about}</small>"
    head = f'<tr class="group">{_cells(mean, heading, paper, shows, model is not None, apart)}</tr>'
    rows = []
    for row in sorted(block.rows, key=lambda row: (row.family, row.task)):
        told = name(row.task)
        if row.metric != block.metric:
            told += f'<span class="tag">{esc(row.metric)}</span>'
        theirs = report_reference.published(model, block, row.subset)
        rows.append(f"<tr>{_cells(row, told, theirs, shows, model is not None, apart)}</tr>")
    return f'<tbody data-suite="{esc(block.suite)}">{head}{"".join(rows)}</tbody>'


def _cells(
    row: Row,
    told: str,
    theirs: float | None,
    shows: dict[str, bool],
    beside: bool,
    apart: Sequence[str],
) -> str:
    dropped = sum(row.dropped.values())
    why = ", ".join(f"{rows:,} {reason}" for reason, rows in row.dropped.items() if reason)
    cells = [f'<td class="name">{told}</td>', cell(row.n, f"{row.n:,}", "n soft minor")]
    if shows["shots"]:
        cells.append(cell(row.shots, number(row.shots, 1), "n soft minor"))
    cells.append(cell(row.first, percent(row.first)))
    cells.append(cell(row.shown, percent(row.shown), "n strong"))
    if shows["interval"]:
        low = row.interval[0] if row.interval else None
        cells.append(cell(low, span(row.interval) or "–", "n soft minor"))
    cells.append(cell(row.shown, _bar(row), "bar"))
    cells.append(cell(row.majority, percent(row.majority), "n soft"))
    if shows["normalized"]:
        cells.append(cell(row.normalized, percent(row.normalized), "n minor"))
    cells += [cell(row.others.get(split), percent(row.others.get(split))) for split in apart]
    if beside:
        cells.append(cell(theirs, percent(theirs), "n paper"))
    cells.append(
        cell(
            row.not_extracted,
            f"{row.not_extracted:,}" if row.not_extracted else "–",
            "n soft minor",
        )
    )
    if shows["dropped"]:
        text = f"<span{_title(why)}>{dropped:,}</span>" if dropped else "–"
        cells.append(cell(dropped, text, "n soft minor"))
    return "".join(cells)


def _bar(row: Row) -> str:
    def width(value: float | None) -> str:
        return f"{min(max(value or 0.0, 0.0), 1.0) * 100:.1f}%"

    return (
        '<div class="track" aria-hidden="true">'
        f'<span class="fill" style="width:{width(row.shown)}"></span>'
        f'<span class="was" style="width:{width(row.first)}"></span>'
        f'<span class="tick" style="left:{width(row.majority)}"></span></div>'
    )
