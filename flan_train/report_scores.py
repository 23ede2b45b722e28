"""The part of a run's page with its suites: a table, curves, how they were measured; in percent."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from flan_train import report_reference
from flan_train.report_blocks import SPLIT_NAMES, SPLITS, Block
from flan_train.report_charts import Mark, Point, Series, line_chart
from flan_train.report_text import empty, esc, name, number, percent, percents, some, table
from flan_train.run_directory import Run


def label(block: Block) -> str:
    """Returns a suite's name with what sets it apart."""
    tags = ["held out"] if block.held_out else []
    tags += [f"{block.votes} votes"] if block.votes else []
    return name(block.suite) + "".join(f'<span class="tag">{tag}</span>' for tag in tags)


def in_percent(points: Sequence[Point]) -> list[Point]:
    """Returns a curve of shares in percent."""
    return [(step, 100 * value) for step, value in points]


def scores(run: Run, blocks: Sequence[Block]) -> str:
    """Returns the suites as a table and as curves."""
    if not blocks:
        return empty(
            "Nothing has been evaluated yet. Scores appear here once training has reached "
            "EVAL_PERIOD, or after flan-train eval."
        )
    size = run.parameters()
    model = report_reference.nearest(size)
    beside = any(report_reference.published(model, block) is not None for block in blocks)
    apart = [split for split in SPLITS if any(split in block.others for block in blocks)]
    metrics = len({block.metric for block in blocks}) > 1
    rows = [_suite_row(run, block, apart, metrics, beside) for block in blocks]
    head = (
        ("Suite", ""),
        *([("Metric", "minor")] if metrics else []),
        ("Tasks", "n minor"),
        ("Prompts", "n minor"),
        ("First", "n"),
        *([("Last", "n minor"), ("Chosen", "n")] if run.selected else [("Last", "n")]),
        ("95 % interval", "n minor"),
        ("Majority", "n"),
        *((_heading(split), "n") for split in apart),
        *([(model.name, "n")] if beside and model else []),
    )
    # One scale for all suites: side by side, equal heights are equal scores.
    top = 100 * max(score for block in blocks for _, score in block.curve)
    charts = "".join(_curve(run, block, top) for block in blocks)
    return (
        f"<p>{esc(_intro(blocks, metrics, beside))}</p>"
        f'{table(head, rows, look="suites")}<div class="charts">{charts}</div>{_measured(blocks)}'
    )


def _heading(split: str) -> str:
    return SPLIT_NAMES[split][:1].upper() + SPLIT_NAMES[split][1:]


def _intro(blocks: Sequence[Block], metrics: bool, beside: bool) -> str:
    what = "The main metric of each suite" if metrics else blocks[0].metric.replace("_", " ")
    text = (
        f"{what[:1].upper()}{what[1:]} in percent, the unweighted mean over tasks. Majority is "
        "what always giving a task’s commonest answer would score. "
    )
    if any(block.held_out for block in blocks):
        text += "Suites marked held out are of families that training never saw. "
    if any("test" in block.others and block.split == "validation" for block in blocks):
        text += "The test part is measured at the chosen step; selection never sees it. "
    text += "Intervals (bands in the charts) are a bootstrap over prompts."
    if beside:
        text += (
            " The paper’s model nearest in size stands beside, measured on the whole published set."
        )
    return text


def _suite_row(run: Run, block: Block, apart: Sequence[str], metrics: bool, beside: bool) -> str:
    # While nothing is chosen, the last evaluation is the one shown.
    last = f'<td class="n minor">{percent(block.curve[-1][1])}</td>' if run.selected else ""
    paper = report_reference.published(report_reference.nearest(run.parameters()), block)
    others = "".join(f'<td class="n">{percent(block.on(split)[0])}</td>' for split in apart)
    about = [] if block.split == "validation" else [SPLIT_NAMES[block.split]]
    if run.selected and block.shown_step != run.selected["step"]:
        about.append(f"step {block.shown_step:,}")
    about += [f"{key} {percent(value)}" for key, value in block.more.items()]
    below = f"<small>{esc(' · '.join(about))}</small>" if about else ""
    metric = f'<td class="soft minor">{name(block.metric)}</td>' if metrics else ""
    return (
        f'<tr><td class="name">{label(block)}{below}</td>{metric}'
        f'<td class="n minor">{len(block.rows)}</td><td class="n minor">{block.prompts:,}</td>'
        f'<td class="n">{percent(block.mean("first"))}</td>{last}'
        f'<td class="n strong">{percent(block.mean("shown"))}</td>'
        f'<td class="n soft minor">{percents(block.interval)}</td>'
        f'<td class="n soft">{percent(block.mean("majority"))}</td>{others}'
        + (f'<td class="n paper">{percent(paper)}</td>' if beside else "")
        + "</tr>"
    )


def _curve(run: Run, block: Block, top: float) -> str:
    if len(block.curve) < 2 and run.selected:
        return ""  # measured once, at the chosen step: the table has it
    steps = [step for step, _ in block.curve]
    chosen = run.selected["step"] if run.selected and run.selected["step"] in steps else None
    band = [(step, 100 * low, 100 * high) for step, low, high in block.band]
    series = [
        Series(
            block.metric.replace("_", " "),
            in_percent(block.curve),
            "a",
            dots=True,
            band=band,
            chosen=chosen,
        )
    ]
    base = block.mean("majority")
    if base is not None:
        series.append(Series("majority", [(step, 100 * base) for step in steps], "base"))
    model = report_reference.nearest(run.parameters())
    paper = report_reference.published(model, block)
    if paper is not None and model is not None:
        series.append(Series(model.name, [(step, 100 * paper) for step in steps], "paper"))
    mark = None
    if chosen is not None:
        interval = None
        if block.interval and not band:
            interval = (100 * block.interval[0], 100 * block.interval[1])
        mark = Mark(chosen, f"chosen: {chosen:,}", interval)
    title = f"{block.suite}, held out" if block.held_out else block.suite
    if block.split != "validation":
        title += f", {SPLIT_NAMES[block.split]}"
    return line_chart(
        title, series, form=lambda value: number(value, 1), floor=0.0, top=top, mark=mark
    )


# ------------------------------------------------------------------------ how it was measured


def _measured(blocks: Sequence[Block]) -> str:
    """Returns, folded up, how each suite was put to the model and what of it was left out."""
    rows = []
    for block in {block.suite: block for block in blocks}.values():
        result = block.result
        protocol = result.get("protocol", {})
        decoding = protocol.get("decoding") or result.get("decoding") or {}
        lengths = protocol.get("lengths") or {}
        shots = protocol.get("shots")
        left_out = _left_out(result)
        rows.append(
            f'<tr><td class="name">{name(block.suite)}</td>'
            f"<td>{esc(SPLIT_NAMES[block.split])}</td><td>{esc(decoding_words(decoding))}</td>"
            f'<td class="n">{number(shots, 2) if shots is not None else "–"}</td>'
            f'<td class="n">{lengths.get("inputs", "–")}</td>'
            f'<td class="n">{sum(row.not_extracted for row in block.rows):,}</td>'
            f'<td class="gap">{esc(left_out) or "–"}</td></tr>'
        )
    head = (
        ("Suite", ""),
        ("Split", ""),
        ("Decoding", ""),
        ("Mean shots", "n"),
        ("Prompt limit", "n"),
        ("No answer", "n"),
        ("Not measured, or shortened", "gap"),
    )
    return (
        "<details><summary>How it was measured: decoding, exemplars, what was left out</summary>"
        f'<div class="inside">{table(head, rows, look="measured")}</div></details>'
    )


_DECODING = {
    "greedy": "greedy",
    "rank": "likeliest option",
    "samples": "samples",
    "self_consistency": "vote",
}


def decoding_words(decoding: dict[str, Any]) -> str:
    """Returns how outputs came about: "greedy, 16 tokens at most"."""
    if decoding.get("method") == "by task":
        each = collections.Counter(map(decoding_words, decoding.get("tasks", {}).values()))
        return "; ".join(f"{text} ({some(tasks, 'task')})" for text, tasks in each.items())
    parts = [_DECODING.get(decoding.get("method", ""), "not recorded")]
    if decoding.get("samples"):
        parts[0] = (
            f"{parts[0]} of {decoding['samples']}"
            if parts[0] == "vote"
            else (f"{decoding['samples']} samples")
        )
        parts.append(f"T {decoding.get('temperature')}, top-k {decoding.get('top_k')}")
    if decoding.get("max_decode_length"):
        parts.append(f"{decoding['max_decode_length']} tokens at most")
    return ", ".join(parts)


def _left_out(result: dict[str, Any]) -> str:
    """Returns in words what of a suite is not measured, or not as it is."""
    dropped: collections.Counter[str] = collections.Counter()
    for reasons in (result.get("dropped") or {}).values():
        dropped.update(reasons)
    texts = [f"{rows:,} {reason}" for reason, rows in dropped.items()]
    shortened: collections.Counter[str] = collections.Counter()
    for reasons in (result.get("shortened") or {}).values():
        shortened.update(reasons)
    said = {"inputs_cut": "inputs cut", "fewer_shots": "with fewer exemplars"}
    texts += [f"{rows:,} {said.get(reason, reason)}" for reason, rows in shortened.items()]
    for key, why in (("missing", "source missing"), ("empty", "no example")):
        tasks = list(result.get(key) or {})
        if tasks:
            named = ", ".join(tasks[:3]) + (", …" if len(tasks) > 3 else "")
            texts.append(f"{some(len(tasks), 'task')} left out, {why}: {named}")
    return "; ".join(texts)
