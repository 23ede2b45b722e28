"""What differs between runs besides their scores: settings and mixtures."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from flan_train.report_text import count, empty, esc, name, number, some
from flan_train.run_directory import Run

# Of the tasks that differ between mixtures the so many with the largest differences are shown.
MOST_TASKS = 200
# A longer value is cut: what differs in it is better looked at in config.gin.
MOST_CHARACTERS = 400


def bindings(config: str) -> dict[str, str]:
    """Returns {name: value} of a gin configuration; a value may stand on several lines.

    >>> bindings("# Macros:\\nSTEPS = 10\\nt5.T5Config.rates = \\\\\\n    (1,\\n     2)\\n")
    {'STEPS': '10', 't5.T5Config.rates': '(1, 2)'}
    """
    found: dict[str, list[str]] = {}
    latest: list[str] = []
    for line in config.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition(" = ")
        if equals and not line[0].isspace():
            latest = found[key.strip()] = [value]
        elif line.rstrip().endswith(" =") and not line[0].isspace():
            latest = found[line.rstrip()[:-2].strip()] = []
        else:
            latest.append(line)
    return {
        key: " ".join(part.strip().removesuffix("\\").strip() for part in parts).strip()
        for key, parts in found.items()
    }


def settings(runs: Sequence[Run], heads: Sequence[str]) -> str:
    """Returns a table of the settings whose values are not the same in all runs.

    Args:
      runs: to compare.
      heads: HTML that names each run.
    """
    every = [bindings(run.config) for run in runs]
    without = [head for head, found in zip(heads, every, strict=True) if not found]
    if len(without) == len(runs):
        return empty("No run holds a config.gin.")
    keys = dict.fromkeys(key for found in every for key in found)
    # A run's own folder is its name.
    differ = [
        key
        for key in keys
        if key != "MODEL_DIR" and len({found.get(key) for found in every if found}) > 1
    ]
    said = f"{some(len(keys), 'setting')} in all, {len(differ)} of which differ."
    if without:
        said += f" {some(len(without), 'run')} without a config.gin."
    if not differ:
        return f'<p class="note">{said}</p>'
    rows = "".join(
        f"<tr><td><code>{name(key)}</code></td>"
        + "".join(f"<td>{_value(found.get(key))}</td>" for found in every)
        + "</tr>"
        for key in differ
    )
    return f'<p class="note">{said}</p>{_table("Setting", heads, rows)}'


def _value(value: str | None) -> str:
    if value is None:
        return '<span class="soft">not set</span>'
    short = value if len(value) <= MOST_CHARACTERS else value[:MOST_CHARACTERS] + " …"
    return f"<code>{esc(short)}</code>"


def _table(first: str, heads: Sequence[str], rows: str) -> str:
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return (
        f'<div class="scroll"><table class="config"><thead><tr><th scope="col">{first}</th>{cells}'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def mixtures(runs: Sequence[Run], heads: Sequence[str]) -> str:
    """Returns the mixtures in numbers, and the tasks that have not the same share or rows.

    Args:
      runs: to compare.
      heads: HTML that names each run.
    """
    every = [run.mixture for run in runs]
    if not any(every):
        return empty("No run holds a mixture.json.")
    facts = [
        ("mixture", lambda found: esc(found.get("mixture", "–"))),
        ("tasks", lambda found: count(len(found["tasks"]))),
        ("rows", lambda found: count(_total(found, "rows"))),
        ("target tokens", lambda found: count(_total(found, "target_tokens"))),
        ("dropped", lambda found: count(sum(_drops(found).values()))),
        ("most passes", lambda found: number(_most(found, "passes"), 2)),
        ("filled, encoder", lambda found: number(_packing(found).get("fill_encoder"))),
        ("filled, decoder", lambda found: number(_packing(found).get("fill_decoder"))),
    ]
    rows = "".join(
        f"<tr><td>{told}</td>"
        + "".join(f"<td>{fact(found) if found else '–'}</td>" for found in every)
        + "</tr>"
        for told, fact in facts
    )
    return _table("", heads, rows) + _tasks(every, heads)


def _tasks(every: Sequence[Mapping[str, Any] | None], heads: Sequence[str]) -> str:
    """Returns the tasks that differ in share or rows, those with the largest difference first."""
    tables = [{task["task"]: task for task in (found or {"tasks": []})["tasks"]} for found in every]
    here = [table for table, found in zip(tables, every, strict=True) if found]
    differ = []
    for task in dict.fromkeys(task for table in here for task in table):
        values = [_facts(table.get(task)) for table in here]
        if len(set(values)) > 1:
            shares = [share for share, _ in values]
            differ.append((max(shares) - min(shares), task))
    if not differ:
        return '<p class="note">Every task has the same share and the same rows.</p>'
    differ.sort(key=lambda one: (-one[0], one[1]))
    rows = "".join(
        f"<tr><td>{name(task)}</td>"
        + "".join(f"<td>{_told(table.get(task))}</td>" for table in tables)
        + "</tr>"
        for _, task in differ[:MOST_TASKS]
    )
    said = f"{some(len(differ), 'task')} with another share or other rows"
    if len(differ) > MOST_TASKS:
        said += f", the {MOST_TASKS} that differ most"
    return f'<p class="note">{said}.</p>{_table("Task: share, rows", heads, rows)}'


def _facts(task: Mapping[str, Any] | None) -> tuple[float, int]:
    if task is None:
        return 0.0, 0
    # Shares are sums of floating-point numbers.
    return round(float(task.get("share") or 0), 6), int(task.get("rows") or 0)


def _told(task: Mapping[str, Any] | None) -> str:
    if task is None:
        return '<span class="soft">not there</span>'
    share, rows = _facts(task)
    return f"{number(share, 4)}, {rows:,}"


def _total(mixture: Mapping[str, Any], key: str) -> int:
    return sum(int(task.get(key) or 0) for task in mixture["tasks"])


def _most(mixture: Mapping[str, Any], key: str) -> float | None:
    found = [float(task[key]) for task in mixture["tasks"] if task.get(key) is not None]
    return max(found, default=None)


def _packing(mixture: Mapping[str, Any]) -> Mapping[str, Any]:
    return mixture.get("packing") or {}


def _drops(mixture: Mapping[str, Any]) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for task in mixture["tasks"]:
        found.update(task.get("drops") or {})
    return found
