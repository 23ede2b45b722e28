"""The parts of a run's page about scores: suites, their curves, every task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from flan_train.report_charts import Mark, Series, line_chart
from flan_train.report_text import empty, esc, name, number, table
from flan_train.run_directory import Block, Row, Run


def _label(block: Block) -> str:
    tag = '<span class="tag">held out</span>' if block.held_out else ""
    return f"{name(block.suite)}{tag}"


def scores(run: Run, blocks: Sequence[Block]) -> str:
    if not blocks:
        return empty(
            "Nothing has been evaluated yet. Scores appear here once training has reached "
            "EVAL_PERIOD, or after flan-train eval."
        )
    rows = []
    for block in blocks:
        # While nothing is chosen, the last evaluation is the one shown.
        last = f'<td class="n minor">{number(block.curve[-1][1])}</td>' if run.selected else ""
        rows.append(
            f'<tr><td class="name">{_label(block)}</td><td class="n minor">{len(block.rows)}</td>'
            f'<td class="n minor">{sum(row.n for row in block.rows):,}</td>'
            f'<td class="n">{number(block.mean("first"))}</td>{last}'
            f'<td class="n strong">{number(block.mean("shown"))}</td>'
            f'<td class="n soft minor">{_interval(block)}</td>'
            f'<td class="n soft">{number(block.mean("majority"))}</td>'
            f'<td class="n">{number(block.mean("test"))}</td></tr>'
        )
    head = (
        ("Suite", ""),
        ("Tasks", "n minor"),
        ("Prompts", "n minor"),
        ("First", "n"),
        *([("Last", "n minor"), ("Chosen", "n")] if run.selected else [("Last", "n")]),
        ("95 % interval", "n minor"),
        ("Majority", "n"),
        ("Test split", "n"),
    )
    # One scale for all suites: side by side, equal heights are equal scores.
    top = max(score for block in blocks for _, score in block.curve)
    charts = "".join(_curve(run, block, top) for block in blocks)
    return (
        "<p>Exact match of greedy decoding, the unweighted mean over tasks. Majority is what "
        "always giving a task’s commonest answer would score. The test split is measured once, at "
        "the chosen step; selection never sees it. Intervals are a bootstrap over prompts.</p>"
        f'{table(head, rows)}<div class="charts">{charts}</div>'
    )


def _interval(block: Block) -> str:
    if block.interval is None:
        return "–"
    return f"{number(block.interval[0])} to {number(block.interval[1])}"


def _curve(run: Run, block: Block, top: float) -> str:
    base = block.mean("majority")
    steps = [step for step, _ in block.curve]
    series = [Series("exact match", block.curve, "a", dots=True)]
    if base is not None and not math.isnan(base):
        series.append(Series("majority", [(step, base) for step in steps], "base"))
    mark = None
    if run.selected and run.selected["step"] in steps:
        mark = Mark(run.selected["step"], f"chosen: {run.selected['step']:,}", block.interval)
    title = f"{block.suite}, held out" if block.held_out else block.suite
    return line_chart(title, series, form=number, floor=0.0, top=top, mark=mark)


def tasks(run: Run, blocks: Sequence[Block]) -> str:
    if not blocks:
        return empty("No task has been evaluated yet.")
    which = "at the chosen step" if run.selected else "at the last evaluation"
    key = (
        '<div class="key bars"><span><span class="track">'
        f'<span class="fill" style="width:100%"></span></span>exact match {which}</span>'
        '<span><span class="track"><span class="was" style="width:100%"></span></span>first '
        'evaluation</span><span><span class="track"><span class="tick" style="left:50%"></span>'
        "</span>majority answer</span></div>"
    )
    parts = [key]
    for held_out, group in itertools.groupby(blocks, key=lambda block: block.held_out):
        parts.append(
            "<h3>Held-out families, never trained on</h3>"
            if held_out
            else "<h3>Families of the training mixture, unseen instances</h3>"
        )
        parts += [_one_suite(run, block) for block in group]
    return "".join(parts)


def _one_suite(run: Run, block: Block) -> str:
    head = (
        ("Family", "family minor"),
        ("Task", "name"),
        ("Prompts", "n minor"),
        ("First", "n"),
        ("Chosen" if run.selected else "Last", "n"),
        ("0 to 1", "bar"),
        ("Majority", "n"),
        ("No answer", "n minor"),
        ("Test split", "n"),
    )
    rows = []
    family = None
    for row in sorted(block.rows, key=lambda row: (row.family, row.task)):
        same = ' class="same"' if row.family == family else ""
        family = row.family
        rows.append(
            f'<tr{same}><td class="first minor">{esc(row.family)}</td>'
            f'<td class="name">{name(row.task)}</td><td class="n soft minor">{row.n:,}</td>'
            f'<td class="n">{number(row.first)}</td><td class="n strong">{number(row.shown)}</td>'
            f'<td class="bar">{_bar(row)}</td><td class="n soft">{number(row.majority)}</td>'
            f'<td class="n soft minor">{row.not_extracted or "–"}</td>'
            f'<td class="n">{number(row.test)}</td></tr>'
        )
    rows.append(
        f'<tr class="total"><td class="minor"></td><td>Mean</td>'
        f'<td class="n minor">{sum(row.n for row in block.rows):,}</td>'
        f'<td class="n">{number(block.mean("first"))}</td>'
        f'<td class="n">{number(block.mean("shown"))}</td><td class="bar"></td>'
        f'<td class="n">{number(block.mean("majority"))}</td>'
        f'<td class="n minor">{sum(row.not_extracted for row in block.rows) or "–"}</td>'
        f'<td class="n">{number(block.mean("test"))}</td></tr>'
    )
    steps = f"step {block.first_step:,} (first) and step {block.shown_step:,}"
    return table(head, rows, f'{_label(block)} <span class="soft">{esc(steps)}</span>', "tasks")


def _bar(row: Row) -> str:
    def percent(value: float) -> str:
        return f"{min(max(0.0 if math.isnan(value) else value, 0.0), 1.0) * 100:.1f}%"

    return (
        '<div class="track" aria-hidden="true">'
        f'<span class="fill" style="width:{percent(row.shown)}"></span>'
        f'<span class="was" style="width:{percent(row.first)}"></span>'
        f'<span class="tick" style="left:{percent(row.majority)}"></span></div>'
    )
