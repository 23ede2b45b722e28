"""Several runs on one page: curves over each other, final scores side by side, what differs."""

from __future__ import annotations

from collections.abc import Sequence

from flan_train import report_compare_settings, report_html
from flan_train.report_blocks import SPLIT_NAMES
from flan_train.report_charts import Series, line_chart, short
from flan_train.report_compare_scores import (
    NORMALISED,
    Line,
    apart,
    compare,
    labels,
    short_labels,
    step_name,
)
from flan_train.report_scores import in_percent
from flan_train.report_selection import protocol
from flan_train.report_tasks import cell, filter_form
from flan_train.report_text import duration, empty, esc, name, number, percent, signed, span
from flan_train.report_text import table as html_table
from flan_train.run_directory import Run

# The page has so many colours; further runs are dashed.
COLOURS = 8


def title(runs: Sequence[Run]) -> str:
    """Returns what the page is called."""
    names = labels(runs)
    return " and ".join(names) if len(names) == 2 else f"{len(names)} runs compared"


def body(runs: Sequence[Run]) -> str:
    """Returns the body of the page."""
    lines, full = compare(runs), labels(runs)
    names = short_labels(full)
    sections = [
        ("runs", "Runs", _runs(runs, full)),
        ("scores", "Scores", _scores(runs, names, lines)),
        ("curves", "Curves", _curves(runs, names, lines)),
        ("training", "Training", _training(runs, names)),
        ("tasks", "Tasks", _tasks(names, lines)),
        (
            "configuration",
            "Configuration",
            report_compare_settings.settings(runs, _heads(names)),
        ),
        (
            "mixture",
            "Mixture",
            report_compare_settings.mixtures(runs, _heads(names)),
        ),
    ]
    headline = (
        f'<p class="kicker">Instruction finetuning runs</p><h1>{esc(title(runs))}</h1>'
        f'<p class="lead">{esc(_lead(names, lines))}</p>'
    )
    where = ", ".join(str(run.path) for run in runs)
    return report_html.page_body(headline, sections, f"Written by flan-train report from {where}.")


def look(place: int) -> str:
    """Returns the CSS class of a run's colour."""
    return f"r{place % COLOURS}" + (" dashed" if place >= COLOURS // 2 else "")


def _head(place: int, told: str) -> str:
    said = f'<span class="run" title="{esc(told)}">{esc(told)}</span>'
    return f'<span class="swatch {look(place)}"></span>{said}'


def _heads(names: Sequence[str]) -> list[str]:
    return [_head(place, told) for place, told in enumerate(names)]


def _lead(names: Sequence[str], lines: Sequence[Line]) -> str:
    """Returns in a sentence which run is ahead where all can be compared."""
    ahead, whole = [], 0
    for line in lines:
        known = [
            (score, place) for place, (score, _) in enumerate(line.scores) if score is not None
        ]
        if len(known) < 2:
            continue
        whole += 1
        best = max(known)[1]
        if sum(score == max(known)[0] for score, _ in known) > 1:
            continue
        sure = all(
            apart(line.scores[best][1], line.scores[place][1])
            for _, place in known
            if place != best
        )
        ahead.append((names[best], sure))
    if not whole:
        return "The runs share no suite: there is nothing to compare yet."
    if not ahead:
        return "On no score is a run alone the highest."
    counts = {told: [one for one in ahead if one[0] == told] for told in names}
    texts = [
        f"{told} is highest on {len(won)}"
        + (f" ({clear} beyond the intervals)" if (clear := sum(one[1] for one in won)) else "")
        for told, won in counts.items()
        if won
    ]
    return f"Of {whole} scores that can be compared, " + "; ".join(texts) + "."


# ---------------------------------------------------------------------------------- the runs


def _runs(runs: Sequence[Run], names: Sequence[str]) -> str:
    rows = []
    for place, (run, told) in enumerate(zip(runs, names, strict=True)):
        selected = run.selected or {}
        loss, parameters, seconds = run.series("loss"), run.parameters(), run.seconds()
        size = short(float(f"{parameters:.3g}")) if parameters else "–"
        mixture = (run.mixture or {}).get("mixture", "–")
        rows.append(
            f'<tr><td class="name">{_head(place, told)}</td>'
            f'<td class="n strong">{step_name(run)}</td>'
            f'<td class="n">{percent(selected.get("score"))}'
            f"<small>{span(selected.get('interval'))}</small></td>"
            f'<td class="minor">{name(selected.get("metric", "–"))}'
            f"<small>{esc(_short_protocol(selected))}</small></td>"
            f'<td class="n minor">{run.log[-1]["step"] if run.log else 0:,}</td>'
            f'<td class="n">{number(loss[-1][1] if loss else None)}</td>'
            f'<td class="n minor">{duration(seconds) if seconds is not None else "–"}</td>'
            f'<td class="n minor">{size}</td><td class="minor">{name(mixture)}</td></tr>'
        )
    head = (
        ("Run", ""),
        ("Chosen step", "n"),
        ("Score", "n"),
        ("Chosen by", "minor"),
        ("Steps", "n minor"),
        ("Last loss", "n"),
        ("Time in steps", "n minor"),
        ("Parameters", "n minor"),
        ("Mixture", "minor"),
    )
    return html_table(head, rows)


def _short_protocol(selected: dict[str, object]) -> str:
    return protocol(selected).partition(":")[0]


# -------------------------------------------------------------------------------- the scores


def _scores(runs: Sequence[Run], names: Sequence[str], lines: Sequence[Line]) -> str:
    if not lines:
        return empty("Nothing has been evaluated yet.")
    rows = []
    for line in lines:
        known = [score for score, _ in line.scores if score is not None]
        cells = []
        for place, (score, interval) in enumerate(line.scores):
            best = " best" if score is not None and len(known) > 1 and score == max(known) else ""
            about = _difference(line, place) if place else ""
            ranges = f"<small>{span(interval)}</small>" if interval else ""
            cells.append(f'<td class="n{best}">{percent(score)}{ranges}{about}</td>')
        where = "held out · " if line.held_out and line.name != NORMALISED else ""
        where += SPLIT_NAMES.get(line.split, "no split in common")
        if any(
            block is not None and block.shown_step != _chosen(run)
            for run, block in zip(runs, line.blocks, strict=True)
        ):
            where += ", not everywhere at the chosen step"
        what = "" if line.name == NORMALISED else f" · {line.metric.replace('_', ' ')}"
        rows.append(
            f'<tr><td class="name">{name(line.name)}<small>{esc(where + what)}</small></td>'
            f"{''.join(cells)}</tr>"
        )
    heads = "".join(
        f'<th class="n" scope="col">{_head(place, told)}<br><small>step {step_name(run)}</small>'
        "</th>"
        for place, (run, told) in enumerate(zip(runs, names, strict=True))
    )
    return (
        "<p>Percent at each run’s chosen step, the unweighted mean over tasks, with its 95 % "
        "interval and the difference from the first run in points. A suite is compared on a split "
        "that all runs were measured on. The highest stands in bold; a difference does where the "
        "two intervals do not overlap.</p>"
        f'<div class="scroll"><table><thead><tr><th scope="col">Suite</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _chosen(run: Run) -> int | None:
    if run.selected:
        return int(run.selected["step"])
    return max((step for results in run.results.values() for step in results), default=None)


def _difference(line: Line, place: int) -> str:
    (first, first_range), (score, interval) = line.scores[0], line.scores[place]
    if first is None or score is None:
        return ""
    sure = "<b>" if apart(first_range, interval) else ""
    end = "</b>" if sure else ""
    return f"<small>{sure}{signed(score - first)}{end}</small>"


def _curves(runs: Sequence[Run], names: Sequence[str], lines: Sequence[Line]) -> str:
    drawn = [line for line in lines if any(block and len(block.curve) > 1 for block in line.blocks)]
    if not drawn:
        return empty("No suite has been evaluated at more than one step.")
    charts = []
    for line in drawn:
        series = []
        for place, (run, block) in enumerate(zip(runs, line.blocks, strict=True)):
            if block is None:
                continue
            chosen = run.selected["step"] if run.selected else None
            few = sum(block is not None for block in line.blocks) <= 2
            band = [(step, 100 * low, 100 * high) for step, low, high in block.band]
            series.append(
                Series(
                    names[place],
                    in_percent(block.curve),
                    look(place),
                    dots=True,
                    band=band if few else (),
                    chosen=chosen,
                )
            )
        heading = f"{line.name}, held out" if line.held_out else line.name
        charts.append(line_chart(heading, series, form=lambda value: number(value, 1), floor=0.0))
    many = " many" if len(runs) > 2 else ""
    return (
        '<p class="note">Percent over training steps; the filled dot is the chosen step. Point at '
        "a name to see its line alone.</p>"
        f'<div class="charts{many}">{"".join(charts)}</div>'
    )


def _training(runs: Sequence[Run], names: Sequence[str]) -> str:
    charts = []
    for heading, lines, floor in report_html.CURVES:
        for called, key, _ in lines:
            series = [
                Series(told, run.series(key), look(place))
                for place, (run, told) in enumerate(zip(runs, names, strict=True))
            ]
            whole = f"{heading}, {called}" if len(lines) > 1 else heading
            charts.append(line_chart(whole, series, form=report_html.written(heading), floor=floor))
    many = " many" if len(runs) > 2 else ""
    return f'<div class="charts{many}">{"".join(charts)}</div>'


# --------------------------------------------------------------------------------- the tasks


def _tasks(names: Sequence[str], lines: Sequence[Line]) -> str:
    bodies = []
    suites = []
    for line in lines:
        if line.name == NORMALISED or not line.split:
            continue
        suites.append(line.name)
        by_task = [
            {
                row.task: row.shown if line.split == block.split else row.others.get(line.split)
                for row in block.rows
            }
            if block is not None
            else {}
            for block in line.blocks
        ]
        counts = {row.task: row.n for block in line.blocks if block for row in block.rows}
        group = _task_cells([score for score, _ in line.scores])
        rows = "".join(
            f'<tr><td class="name">{name(task)}</td>'
            f"{_task_cells([scores.get(task) for scores in by_task])}</tr>"
            for task in sorted(counts)
        )
        about = f"{len(counts)} tasks, {SPLIT_NAMES[line.split]}"
        bodies.append(
            f'<tbody data-suite="{esc(line.name)}"><tr class="group"><td class="name">'
            f"{name(line.name)}<small>{about}</small></td>{group}</tr>{rows}</tbody>"
        )
    if not bodies:
        return empty("No task has been evaluated yet.")
    heads = "".join(f'<th class="n" scope="col">{head}</th>' for head in _heads(names))
    return (
        f"{filter_form(suites, 'tasks')}"
        '<div class="box"><table class="sortable"><thead><tr><th class="name" scope="col">Task</th>'
        f'{heads}<th class="n" scope="col" title="highest minus lowest">Range</th></tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def _task_cells(scores: Sequence[float | None]) -> str:
    known = [score for score in scores if score is not None]
    spread = max(known) - min(known) if len(known) > 1 else None
    cells = [
        cell(score, percent(score), "n best" if spread and score == max(known) else "n")
        for score in scores
    ]
    return "".join(cells) + cell(spread, percent(spread), "n soft")
