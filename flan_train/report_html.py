"""A run's page, as HTML text; every value from outside passes through `esc`."""

from __future__ import annotations

from collections.abc import Sequence

from flan_train import (
    report_examples,
    report_mixture,
    report_plan,
    report_reference,
    report_scores,
    report_selection,
    report_tasks,
)
from flan_train.report_blocks import SPLIT_NAMES, Block
from flan_train.report_charts import Mark, Series, line_chart, short
from flan_train.report_text import duration, empty, esc, number, percent, percents
from flan_train.run_directory import Run


def body(run: Run, blocks: Sequence[Block]) -> str:
    """Returns the page's body: headline, scores, the paper's, tasks, training, examples, ..."""
    beside = report_reference.section(run, blocks)
    planned = report_plan.section(run.path)
    sections = [
        ("scores", "Scores", report_scores.scores(run, blocks)),
        *([("paper", "Beside the paper", beside)] if beside else []),
        ("selection", "Selection", report_selection.section(run)),
        ("tasks", "Tasks", report_tasks.tasks(run, blocks)),
        ("examples", "Examples", report_examples.section(run, blocks)),
        ("training", "Training", _training(run)),
        ("mixture", "Mixture", report_mixture.section(run.mixture)),
        *([("plan", "Plan", planned)] if planned else []),
        ("configuration", "Configuration", _configuration(run)),
    ]
    return page_body(
        _headline(run, blocks), sections, f"Written by flan-train report from {run.path}."
    )


def page_body(headline: str, sections: Sequence[tuple[str, str, str]], footer: str) -> str:
    """Returns a body: `sections` are (anchor, title, HTML), `headline` is HTML, `footer` text."""
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    parts = "".join(
        f'<section id="{anchor}"><h2>{title}</h2>{content}</section>'
        for anchor, title, content in sections
    )
    return (
        f'<header class="top">{headline}<nav aria-label="Sections">{links}</nav>'
        f"</header><main>{parts}</main><footer>{esc(footer)}</footer>"
    )


# ------------------------------------------------------------------------------- headline


def title(run: Run) -> str:
    """Returns what the page is called: the mixture and the run directory's name."""
    folder = run.path.resolve().name
    mixture = (run.mixture or {}).get("mixture")
    return f"{mixture} · {folder}" if mixture and mixture != folder else folder


def _headline(run: Run, blocks: Sequence[Block]) -> str:
    facts = [*_chosen_facts(run), *_score_facts(run, blocks), *_run_facts(run)]
    cells = "".join(
        f"<div><dt>{esc(what)}</dt><dd><b>{esc(value)}</b><span>{esc(about)}</span></dd></div>"
        for what, value, about in facts
    )
    selected = run.selected
    if not selected:
        reason = '<p class="lead soft">No checkpoint has been selected yet.</p>'
    else:
        reason = f'<p class="lead">{esc(report_selection.lead(selected))}</p>'
        if words := report_selection.protocol(selected):
            reason += f'<p class="protocol">{esc(words)}</p>'
    grid = f'<dl class="facts">{cells}</dl>' if cells else ""
    return (
        f'<p class="kicker">Instruction finetuning run</p><h1>{esc(title(run))}</h1>{reason}{grid}'
    )


def _chosen_facts(run: Run) -> list[tuple[str, str, str]]:
    selected = run.selected
    if not selected:
        return []
    interval = selected.get("interval")
    about = f"95 % interval {percents(interval)}" if interval else ""
    found = [("Chosen step", f"{selected['step']:,}", f"by {selected['metric']}")]
    found.append(("Its score, percent", percent(selected["score"]), about))
    if selected.get("reported_score") is not None and selected["metric"] != "normalized_average":
        split = (selected.get("splits") or {}).get("reported", "")
        if split and split != (selected.get("splits") or {}).get("selected"):
            interval = selected.get("reported_interval")
            about = f"95 % interval {percents(interval)}" if interval else ""
            found.append(
                (
                    f"On the {SPLIT_NAMES.get(split, split)}",
                    percent(selected["reported_score"]),
                    about,
                )
            )
    return found


def _score_facts(run: Run, blocks: Sequence[Block]) -> list[tuple[str, str, str]]:
    found = []
    six = report_reference.best_six(run, blocks)
    if six is not None:
        model = report_reference.nearest(run.parameters())
        about = SPLIT_NAMES[six.split]
        if model is not None:
            theirs = report_reference.normalized_average_of(model)
            about += f" · {model.name} {percent(theirs)}"
        found.append(("Normalised average", percent(six.average), about))
    for held_out in (False, True):
        part = [block for block in blocks if block.held_out == held_out]
        if part:
            shown = _mean([block.mean("shown") for block in part])
            first = _mean([block.mean("first") for block in part])
            base = _mean([block.mean("majority") for block in part])
            found.append(
                (
                    "Held-out families" if held_out else "Training families, unseen",
                    percent(shown),
                    f"from {percent(first)} · majority {percent(base)}",
                )
            )
    return found


def _run_facts(run: Run) -> list[tuple[str, str, str]]:
    found = []
    if run.log:
        steps = run.log[-1]["step"]
        loss = run.series("loss")
        found.append(("Steps", f"{steps:,}", f"loss {loss[-1][1]:.3f}" if loss else ""))
    if (seconds := run.seconds()) is not None:
        rate = run.series("useful_tokens_per_second")
        middle = sorted(value for _, value in rate)[len(rate) // 2] if rate else None
        about = f"{short(float(f'{middle:.3g}'))} useful tokens/s" if middle else ""
        found.append(("Time in steps", duration(seconds), about))
    if parameters := run.parameters():
        found.append(("Parameters", short(float(f"{parameters:.3g}")), f"{parameters:,}"))
    if run.mixture:
        tasks = run.mixture["tasks"]
        rows = sum(int(task.get("rows", 0)) for task in tasks)
        about = f"{len(tasks):,} tasks · {rows:,} rows"
        found.append(("Mixture", str(run.mixture.get("mixture", "")), about))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# ---------------------------------------------------------------- training, configuration

# What of the log is shown: (title, its lines (name, key, look), lowest value of the axis).
CURVES = (
    ("Loss per target token", (("loss", "loss", "a"),), None),
    ("Token accuracy", (("accuracy", "accuracy", "a"),), 0.0),
    ("Useful tokens per second", (("tokens/s", "useful_tokens_per_second", "a"),), 0.0),
    (
        "Packing: filled share of the slots",
        (("encoder", "fill_encoder", "a"), ("decoder", "fill_decoder", "b")),
        0.0,
    ),
)


def _training(run: Run) -> str:
    if not run.log:
        return empty("No training step has been logged yet.")
    mark = None
    if run.selected:
        mark = Mark(run.selected["step"], f"chosen: {run.selected['step']:,}")
    charts = "".join(
        line_chart(
            heading,
            [Series(called, run.series(key), look) for called, key, look in lines],
            form=written(heading),
            floor=floor,
            mark=mark if "tokens" not in heading else None,
        )
        for heading, lines, floor in CURVES
    )
    return f'<div class="charts">{charts}</div>'


def written(heading: str):  # type: ignore[no-untyped-def]
    """Returns how the values of one of `CURVES` are written."""
    return (lambda value: f"{value:,.0f}") if "second" in heading else number


def _configuration(run: Run) -> str:
    if not run.config.strip():
        return empty("The run holds no config.gin.")
    return (
        "<details><summary>config.gin: every setting of this run</summary>"
        f"<pre>{esc(run.config)}</pre></details>"
    )
