"""The part of a run's page about what it trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flan_train.report_tasks import cell
from flan_train.report_text import count, empty, esc, name, number, some

# A longer list of absent tasks is folded up.
MOST_LISTED = 8


def section(mixture: Mapping[str, Any] | None) -> str:
    """Returns what was left out, how it was packed, and every task with its share."""
    if mixture is None:
        return empty("The run holds no mixture.json: what it trained on is not recorded here.")
    parts = []
    for key, heading in (
        ("missing", "Left out, because their source is missing:"),
        ("empty", "Left out, because no example of theirs could be used:"),
    ):
        parts.append(_absent(heading, mixture.get(key) or {}))
    if mixture.get("epoch_note"):
        parts.append(f"<p>{esc(mixture['epoch_note'])}</p>")
    packing = mixture.get("packing") or {}
    if packing:
        lengths = packing.get("lengths", {})
        parts.append(
            f"<p>One epoch packs {count(packing.get('examples'))} examples into "
            f"{count(packing.get('sequences'))} sequences of "
            f"{count(lengths.get('inputs'))} input and {count(lengths.get('targets'))} target "
            f"slots; no packing could need fewer than {count(packing.get('lower_bound'))}. "
            f"Filled: {number(packing.get('fill_encoder'))} of the encoder’s slots, "
            f"{number(packing.get('fill_decoder'))} of the decoder’s.</p>"
        )
    return "".join(parts) + _passes(mixture) + _table(mixture["tasks"])


def _absent(heading: str, absent: Mapping[str, str]) -> str:
    if not absent:
        return ""
    by_reason: dict[str, list[str]] = {}
    for task, why in absent.items():
        by_reason.setdefault(why, []).append(task)
    items = "".join(
        f"<li>{esc(', '.join(tasks))}: {esc(why)}</li>" for why, tasks in by_reason.items()
    )
    if len(absent) <= MOST_LISTED:
        return f"<p><b>{heading}</b></p><ul>{items}</ul>"
    said = f"{heading.rstrip(':')}: {some(len(absent), 'task')}"
    return f"<details><summary>{said}</summary><ul>{items}</ul></details>"


def _table(tasks: list[Mapping[str, Any]]) -> str:
    rows = []
    totals = [0, 0, 0]
    for task in tasks:
        counts = [int(task.get(key) or 0) for key in ("rows", "input_tokens", "target_tokens")]
        totals = [total + value for total, value in zip(totals, counts, strict=True)]
        # What was shortened is said beside what was dropped: both are losses of data.
        losses = {
            **(task.get("drops") or {}),
            "inputs cut": task.get("inputs_cut"),
            "with fewer exemplars": task.get("fewer_shots"),
        }
        drops = ", ".join(f"{int(n):,} {reason}" for reason, n in losses.items() if n)
        lost = sum(int(n) for n in losses.values() if n)
        share, passes = task.get("share"), task.get("passes")
        rows.append(
            f'<tr><td class="name">{name(task.get("task", ""))}</td>'
            + cell(counts[0], f"{counts[0]:,}")
            + cell(share, number(share, 4))
            + cell(counts[1], f"{counts[1]:,}", "n minor")
            + cell(counts[2], f"{counts[2]:,}", "n minor")
            + cell(passes, number(passes, 2), "n minor")
            + cell(task.get("renderings"), count(task.get("renderings")), "n minor")
            + cell(lost, esc(drops) or "–", "soft gap")
            + "</tr>"
        )
    shares = sum(float(task.get("share") or 0) for task in tasks)
    total = (
        f'<td>{some(len(tasks), "task")}</td><td class="n">{totals[0]:,}</td>'
        f'<td class="n">{number(shares, 4)}</td><td class="n minor">{totals[1]:,}</td>'
        f'<td class="n minor">{totals[2]:,}</td><td class="minor"></td><td class="minor"></td>'
        "<td></td>"
    )
    head = (
        ("Task", "name"),
        ("Rows", "n"),
        ("Share", "n"),
        ("Input tokens", "n minor"),
        ("Target tokens", "n minor"),
        ("Passes", "n minor"),
        ("Renderings", "n minor"),
        ("Dropped or shortened", "gap"),
    )
    cells = "".join(f'<th class="{look}" scope="col">{title}</th>' for title, look in head)
    return (
        f'<div class="box"><table class="sortable"><thead><tr>{cells}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody><tfoot><tr class="total">{total}</tr></tfoot></table></div>'
    )


def _passes(mixture: Mapping[str, Any]) -> str:
    """Returns a paragraph on how often the run goes through its tasks, where that is recorded."""
    passes = [float(task["passes"]) for task in mixture["tasks"] if "passes" in task]
    if not passes:
        return ""
    again = sum(number_of > 1 for number_of in passes)
    text = f"The run goes through a task up to {number(max(passes), 2)} times"
    text += f", through {again:,} of {len(passes):,} tasks more than once" if again else ""
    most = max(int(task.get("renderings") or 1) for task in mixture["tasks"])
    if most > 1:
        text += (
            f". It meets them in up to {most:,} renderings, with templates and exemplars drawn for "
            f"each (RENDERINGS = {count(mixture.get('renderings'))})"
        )
    return f"<p>{esc(text)}.</p>"
