"""Scores of evaluated suites as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from flan_train import normalized, scores
from flan_train.scores import Result

# Columns of a task's row that are added up, and their heads.
COUNTS = {"not_extracted": "no answer", "n": "n"}


def of_suite(result: Result) -> Table:
    """Returns one suite's scores by task: means of shares (0 to 1), sums of counts."""
    rows: Mapping[str, Mapping[str, Any]] = result["metrics"]
    shares = [name for name in result["mean"] if name not in COUNTS]
    if "accuracy" in shares:  # the same number
        shares = [name for name in shares if name != "exact_match"]
    cells = [
        [task, *(_share(row.get(name)) for name in shares), *_counts([row])]
        for task, row in sorted(rows.items())
    ]
    means = [_share(result["mean"][name]) for name in shares]
    total = ["mean, or sum", *means, *_counts(rows.values())]
    heads = ["task", *shares, *COUNTS.values()]
    return _table(f"{result['suite']}, step {result['step']}", heads, cells, total)


def of_all(results: Mapping[str, Result]) -> Table:
    """Returns the suites side by side, in percent, and the normalised average of the six.

    Args:
      results: by the name they are filed under.
    """
    cells = []
    for suite, result in results.items():
        metric, score = scores.main_mean(result)
        low, high = result["mean_intervals"][metric]
        no_answer, count = _counts(result["metrics"].values())
        cells.append(
            [
                suite,
                metric,
                _percent(score),
                f"{_percent(low)} to {_percent(high)}",
                _percent(result["mean"].get("normalized")),
                no_answer,
                f"{result['protocol']['shots']:.1f}",
                count,
            ]
        )
    average = normalized.of_results(results)
    total = None
    if average is not None:
        total = ["normalised average of the six", "", "", "", _percent(average), "", "", ""]
    heads = ["suite", "metric", "mean", "95 % interval", "normalised", "no answer", "shots", "n"]
    return _table("all suites, in percent (mean over tasks)", heads, cells, total)


def remarks(results: Mapping[str, Result]) -> list[str]:
    """Returns lines on what of the suites is not measured, or cannot be right.

    Args:
      results: by the name they are filed under.
    """
    lines = []
    for suite, result in results.items():
        examples = result["examples"]
        for name, title in (("missing", "left out, without data"), ("empty", "without examples")):
            if result[name]:
                lines.append(f"{suite}: {title}: {', '.join(result[name])}")
        dropped = sum(sum(reasons.values()) for reasons in result["dropped"].values())
        if dropped:
            lines.append(f"{suite}: {dropped:,} examples dropped, by reason in the result's JSON")
        for name, title in (
            ("inputs_cut", "have their prompt cut to the limit"),
            ("fewer_shots", "have fewer exemplars, so that they fit"),
        ):
            count = sum(cut.get(name, 0) for cut in result["shortened"].values())
            if count:
                lines.append(f"{suite}: {count:,} of {examples:,} {title}")
        lost = result["out_of_reach"]
        if lost:
            worst = sorted(lost, key=lambda task: -lost[task])[:3]
            named = ", ".join(f"{task} {lost[task]:,}" for task in worst)
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            lines.append(
                f"{suite}: {sum(lost.values()):,} of {examples:,} answers cannot be written with "
                f"this vocabulary, and count as wrong: {named}{more}"
            )
    return lines


def _table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None
) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    # On a narrow terminal names give way, not numbers.
    table.add_column(heads[0], no_wrap=True, overflow="ellipsis")
    lines = [*rows, total] if total else rows
    for number, head in enumerate(heads[1:], start=1):
        widest = max(len(head), *(len(line[number]) for line in lines))
        table.add_column(head, justify="right", no_wrap=True, min_width=widest)
    for row in rows:
        table.add_row(*row)
    if total:
        table.add_section()
        table.add_row(*total)
    return table


def _counts(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(rows)
    return [f"{sum(row[name] for row in rows):,}" for name in COUNTS]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
