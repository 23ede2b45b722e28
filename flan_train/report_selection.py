"""The part of a run's page about the choice of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_train.report_charts import Mark, Series, line_chart
from flan_train.report_text import empty, esc, number, percent, percents, some, table
from flan_train.run_directory import Run
from flan_train.select_metric import describe

PROTOCOLS = {
    "apart": "Apart: chosen on the {selected} part, reported on the {reported} part, which the "
    "choice never sees.",
    "paper": "The paper’s way: chosen on what is reported, the whole published sets (split "
    "{selected}). The numbers flatter the chosen step.",
}


def lead(selected: Mapping[str, Any]) -> str:
    """Returns in words which step was chosen, by what, and how close another one comes."""
    if "within_noise" not in selected:
        text = str(selected.get("reason") or f"step {selected['step']:,} was chosen")
        return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
    step, score = int(selected["step"]), selected["score"]
    what = describe(str(selected["metric"]), selected.get("suites") or [])
    said = f"{percent(score)} percent"
    if selected.get("interval"):
        said += f", 95 % interval {percents(selected['interval'])}"
    others = [one for one in selected.get("candidates") or [] if one["step"] != step]
    if not others:
        return f"Step {step:,} is the only candidate; its {what} is {said}."
    second = max(others, key=lambda one: (one["score"], -one["step"]))
    text = f"Step {step:,} has the highest {what}: {said}. "
    if percent(second["score"]) == percent(score):
        text += f"Step {int(second['step']):,} scores the same to a tenth of a percent"
    else:
        text += f"The runner-up is step {int(second['step']):,} with {percent(second['score'])}"
    if second.get("interval") and selected.get("interval"):
        near = {one["step"] for one in selected["within_noise"]}
        text += ", within noise" if second["step"] in near else ", beyond noise"
    return text + "."


def protocol(selected: Mapping[str, Any]) -> str:
    """Returns how the choice and the report keep apart, in words; "" where that is not recorded."""
    name = selected.get("protocol")
    if name not in PROTOCOLS:
        return ""
    splits = {"selected": "validation", "reported": "test", **(selected.get("splits") or {})}
    return PROTOCOLS[name].format(**splits)


def section(run: Run) -> str:
    """Returns the metric, the scores of all candidates, and the steps that come close."""
    selected = run.selected
    if not selected:
        return empty(
            "No checkpoint has been selected yet. flan-train select RUN_DIR chooses one; training "
            "does so at its end."
        )
    step = int(selected["step"])
    parts = []
    parts.append(f"<p>{esc(lead(selected))}</p>")
    if words := protocol(selected):
        parts.append(f'<p class="protocol">{esc(words)}</p>')
    if selected.get("reported_score") is not None:
        reported = percent(selected["reported_score"])
        about = percents(selected.get("reported_interval"))
        parts.append(f"<p>What is reported of it: <b>{reported}</b> (95 % interval {about}).</p>")
    elif protocol(selected):
        parts.append('<p class="note">The part that is reported has not been measured yet.</p>')
    if len(selected.get("candidates") or ()) > 1:
        chart, near = _candidates(selected, step), _within_noise(selected)
        parts.append(f'<div class="charts">{chart}<div>{near}</div></div>')
    if selected.get("skipped"):
        items = "".join(
            f"<li>step {int(one['step']):,}: {esc(one['reason'])}</li>"
            for one in selected["skipped"]
        )
        said = some(len(selected["skipped"]), "step") + " could not be chosen"
        parts.append(f"<details><summary>{said}</summary><ul>{items}</ul></details>")
    return "".join(parts)


def _candidates(selected: Mapping[str, Any], step: int) -> str:
    candidates = sorted(selected["candidates"], key=lambda one: one["step"])
    points = [(float(one["step"]), 100 * one["score"]) for one in candidates]
    band = [
        (float(one["step"]), 100 * one["interval"][0], 100 * one["interval"][1])
        for one in candidates
        if one.get("interval")
    ]
    what = str(selected["metric"])
    title = f"What it was chosen by: {what}" if len(what) < 60 else "What it was chosen by"
    interval = selected.get("interval")
    whisker = (100 * interval[0], 100 * interval[1]) if interval and not band else None
    return line_chart(
        title,
        [Series("candidates", points, "a", dots=True, band=band, chosen=step)],
        form=lambda value: number(value, 1),
        mark=Mark(step, f"chosen: {step:,}", whisker),
    )


def _within_noise(selected: Mapping[str, Any]) -> str:
    if selected.get("interval") is None:
        return '<p class="note">The chosen step’s outputs are not at hand: noise is not known.</p>'
    if "within_noise" not in selected:
        steps = selected.get("within_interval") or []
        said = ", ".join(f"{step:,}" for step in steps) or "none"
        return f'<p class="note">Other steps that score inside the interval: {said}.</p>'
    near = selected["within_noise"]
    if not near:
        return '<p class="note">Every other candidate scores lower by more than noise.</p>'
    rows = [
        f'<tr><td class="n">{int(one["step"]):,}</td><td class="n strong">{percent(one["score"])}'
        f'</td><td class="n soft">{percents(one.get("interval"))}</td>'
        f'<td class="n">{percent(one["difference"])}</td>'
        f'<td class="n soft">{percents(one.get("difference_interval"))}</td></tr>'
        for one in near
    ]
    head = (
        ("Step", "n"),
        ("Score", "n"),
        ("95 % interval", "n"),
        ("Chosen is higher by", "n"),
        ("95 % interval", "n"),
    )
    caption = "Runners-up within noise"
    return (
        f"{table(head, rows, caption)}"
        '<p class="note">The difference is measured on the same prompts (a paired bootstrap): its '
        "interval reaches zero, so these steps could as well have been chosen.</p>"
    )
