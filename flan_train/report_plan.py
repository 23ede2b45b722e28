"""The report's section on the run's plan: what the compiler said that an update takes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from flan_train import plan, plan_text
from flan_train.report_text import esc


def section(model_dir: pathlib.Path) -> str:
    """Returns the section as HTML; "" where the run directory holds no plan.json.

    Raises:
      UserError: the file is there and holds no plan.
    """
    found = plan.read(model_dir / plan.FILE)
    if found is None:
        return ""
    roof, memory = found["roofline"], found["memory"]
    topology = found["topology"]
    facts = [
        ("Devices", f"{topology['devices']:,}", f"{topology['name']} · {_mesh(found)}"),
        ("Peak memory", plan_text.size(memory["peak"]), _headroom(found)),
        (
            "Shortest step",
            plan_text.seconds(roof["step_seconds"]),
            f"bound by {roof['bound_by']}; "
            f"{plan_text.seconds(roof['step_seconds_exposed'])} with no communication hidden",
        ),
        (
            "MFU at most",
            plan_text.percent(roof["mfu_bound"]),
            f"{plan_text.percent(roof['mfu_bound_exposed'])} with no communication hidden",
        ),
    ]
    cells = "".join(
        f"<div><dt>{esc(what)}</dt><dd><b>{esc(value)}</b><span>{esc(about)}</span></dd></div>"
        for what, value, about in facts
    )
    text = "\n".join(plan_text.lines(found))
    return (
        "<p>What the compiler and the chip’s published figures allow, from the compiled update "
        "(<code>flan-train plan</code>); nothing here was measured on a device.</p>"
        f'<dl class="facts">{cells}</dl>'
        f"<details><summary>The whole plan</summary><pre>{esc(text)}</pre></details>"
    )


def _mesh(found: Mapping[str, Any]) -> str:
    return " x ".join(f"{name} {size}" for name, size in found["mesh"].items() if size > 1) or "1"


def _headroom(found: Mapping[str, Any]) -> str:
    memory = found["memory"]
    if memory["limit"] is None:
        return f"{plan_text.size(memory['reserved'])} reserved"
    return f"{plan_text.percent(memory['headroom'])} of {plan_text.size(memory['limit'])} left free"
