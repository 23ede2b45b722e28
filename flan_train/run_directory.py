"""What a run directory holds, as reports read it; whatever is not there yet is empty."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

from flan_train import scores
from flan_train.checkpoint_names import read_selected
from flan_train.errors import UserError

# Any one of these makes a directory a run's.
MARKS = ("config.gin", "log.jsonl", "mixture.json", "eval", "checkpoints")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory's contents.

    Attributes:
      path: the directory.
      config: the text of config.gin.
      log: one entry a logged step, ascending; of a step logged twice (after a resume), the later.
      results: {suite: {step: result}}.
      selected: what selected.json holds, or None.
      mixture: what mixture.json holds, or None.
    """

    path: pathlib.Path
    config: str
    log: list[dict[str, Any]]
    results: dict[str, dict[int, scores.Result]]
    selected: dict[str, Any] | None
    mixture: dict[str, Any] | None

    def series(self, name: str) -> list[tuple[float, float]]:
        """Returns (step, value) of a logged quantity, where it was logged as a number."""
        return [
            (float(entry["step"]), float(entry[name]))
            for entry in self.log
            if isinstance(entry.get(name), (int, float)) and math.isfinite(entry[name])
        ]

    def parameters(self) -> int | None:
        """Returns the model's number of parameters, as its evaluations recorded it."""
        counts = [
            result.get("parameters") for steps in self.results.values() for result in steps.values()
        ]
        return next((count for count in counts if count), None)

    def seconds(self) -> float | None:
        """Returns the time spent in training steps; None where the log does not tell.

        A line's `step_seconds` is the time of one step; it stands for the steps since the line
        before.
        """
        total, before, seen = 0.0, 0, False
        for entry in self.log:
            seconds = entry.get("step_seconds")
            if isinstance(seconds, (int, float)) and math.isfinite(seconds):
                total, seen = total + seconds * (entry["step"] - before), True
            before = entry["step"]
        return total if seen else None


def read_run(model_dir: str | pathlib.Path) -> Run:
    """Returns what a run directory holds.

    Raises:
      UserError: it is no run directory, or a file in it cannot be read.
    """
    path = pathlib.Path(model_dir)
    if not any((path / mark).exists() for mark in MARKS):
        what = "is not a run directory" if path.is_dir() else "does not exist"
        raise UserError(
            f"{path} {what}",
            where=str(path.resolve()),
            expected="the MODEL_DIR of a run, with " + ", ".join(MARKS[:3]) + ", ...",
            fix="give the folder that flan-train train wrote to, such as runs/quickstart",
        )
    config = path / "config.gin"
    return Run(
        path=path,
        config=config.read_text("utf-8", "replace") if config.is_file() else "",
        log=_read_log(path / "log.jsonl"),
        results=scores.read_results(path),
        selected=read_selected(path),
        mixture=_read_mixture(path / "mixture.json"),
    )


def _read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries: dict[int, dict[str, Any]] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry["step"], int):
                raise ValueError('"step" is no whole number')
            entries[entry["step"]] = entry
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number == len(lines):
                break  # A run still going on, or cut off, is in the middle of its last line.
            raise UserError(
                f"not a log entry: {error}",
                where=f"{path}, line {number}",
                expected='a line of JSON with "step"',
                fix="remove the line",
            ) from error
    return [entries[step] for step in sorted(entries)]


def _read_mixture(path: pathlib.Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        mixture = json.loads(path.read_text("utf-8"))
        if not isinstance(mixture["tasks"], list):
            raise ValueError('"tasks" is not a list')
        if not all(isinstance(task, dict) for task in mixture["tasks"]):
            raise ValueError("a task is no object")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"not a mixture's description: {error}",
            where=str(path),
            expected='JSON with "mixture" and "tasks"',
            fix="delete the file; training writes it again when it resumes",
        ) from error
    return dict(mixture)
