"""A choice of a checkpoint in words, for the terminal."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flan_train.select_metric import describe

PROTOCOLS = {
    "apart": "apart: chosen on split {selected}, reported on split {reported}",
    "paper": "paper: chosen on the whole published sets (split {selected}), and the same numbers "
    "are what is reported; they flatter the chosen step",
}


def lines(model_dir: str | pathlib.Path, selected: Mapping[str, Any]) -> list[str]:
    """Returns what `select` chose, line by line: step, score, runners-up, protocol, what is left.

    Args:
      model_dir: the run, as the user named it.
      selected: what `select.select` returned.
    """
    step, splits = selected["step"], selected["splits"]
    candidates = len(selected["candidates"])
    rows = [
        ("chosen", f"step {step} of {candidates} candidate{'s' if candidates > 1 else ''}"),
        ("by", describe(selected["metric"], selected["suites"])),
        ("score", _with_interval(selected["score"], selected["interval"])),
        ("within noise", _runners_up(selected)),
        ("protocol", PROTOCOLS[selected["protocol"]].format(**splits)),
        ("reported", _reported(selected)),
        *(("left out", f"step {one['step']}: {one['reason']}") for one in selected["skipped"]),
    ]
    found = [f"{label:<14}{text}" for label, text in rows]
    missing = [suite for suite in selected["suites"] if suite not in selected["reported"]]
    if missing:
        words = " ".join(f"--suite={suite}" for suite in missing)
        found.append(
            f"to measure split {splits['reported']}: flan-train eval --split={splits['reported']} "
            f"{words} --checkpoint={pathlib.Path(model_dir) / 'checkpoints' / str(step)}"
        )
    return found


def _runners_up(selected: Mapping[str, Any]) -> str:
    unknown = [one["step"] for one in selected["candidates"] if one["interval"] is None]
    if selected["interval"] is None:
        return "not known: the per-example results of the chosen step are not there"
    texts = [
        f"step {one['step']} ({one['score']:.3f}; {one['difference']:.3f} below, 95 % interval "
        f"{_range(one['difference_interval'])})"
        for one in selected["within_noise"]
    ]
    if unknown:
        texts.append(f"not known of step {', '.join(map(str, unknown))}")
    return "; ".join(texts) or "no other step"


def _reported(selected: Mapping[str, Any]) -> str:
    where = f"on split {selected['splits']['reported']}"
    if selected["splits"]["reported"] == selected["splits"]["selected"]:
        where += ", the split that it was chosen on"
    if selected["reported_score"] is None:
        return f"not measured yet {where}"
    return f"{_with_interval(selected['reported_score'], selected['reported_interval'])} {where}"


def _with_interval(score: float, interval: Sequence[float] | None) -> str:
    return f"{score:.3f}" + (f" (95 % interval {_range(interval)})" if interval else "")


def _range(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
