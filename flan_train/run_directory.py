"""What a run directory holds, as reports read it; whatever is not there yet is empty."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from flan_train import scores
from flan_train.errors import UserError
from flan_train.select import bootstrap_interval, read_selected

# Any one of these makes a directory a run's.
MARKS = ("config.gin", "log.jsonl", "mixture.json", "eval", "checkpoints")


@dataclasses.dataclass(frozen=True)
class Row:
    """One task's exact match at the steps that a report shows; None where it was not measured."""

    task: str
    family: str
    form: str
    n: int
    first: float
    shown: float
    majority: float
    not_extracted: int
    test: float | None


@dataclasses.dataclass(frozen=True)
class Block:
    """The tasks of one suite, either its held-out ones or the others.

    Attributes:
      suite: the suite's name.
      held_out: whether the tasks' families were never trained on.
      first_step: the first evaluated step.
      last_step: the last one.
      shown_step: the chosen step, or the last one while none is chosen (or it was not measured).
      rows: one a task.
      curve: (step, mean over the tasks) at every evaluated step.
      interval: 95 % bootstrap interval of the mean at the shown step, where it can be had.
    """

    suite: str
    held_out: bool
    first_step: int
    last_step: int
    shown_step: int
    rows: list[Row]
    curve: list[tuple[float, float]]
    interval: tuple[float, float] | None

    def mean(self, field: str) -> float | None:
        """Returns the mean of a column over the tasks that have it."""
        values = [value for row in self.rows if (value := getattr(row, field)) is not None]
        return sum(values) / len(values) if values else None


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

    @property
    def suites(self) -> list[str]:
        """The suites of validation splits; the test splits belong to them."""
        return [suite for suite in self.results if not scores.is_reported(suite, self.results)]

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

    def blocks(self) -> list[Block]:
        """Returns the evaluated tasks in blocks: by suite, the held-out ones apart and last."""
        found = []
        for suite in self.suites:
            steps = self.results[suite]
            shown = max(steps)
            if self.selected and self.selected["step"] in steps:
                shown = self.selected["step"]
            about = steps[shown].get("tasks", {})
            for held_out in (False, True):
                tasks = [
                    task
                    for task in steps[shown]["metrics"]
                    if bool(about.get(task, {}).get("held_out")) == held_out
                ]
                if tasks:
                    found.append(self._block(suite, held_out, shown, tasks, about))
        return sorted(found, key=lambda block: block.held_out)

    def _block(
        self,
        suite: str,
        held_out: bool,
        shown: int,
        tasks: Sequence[str],
        about: Mapping[str, Mapping[str, Any]],
    ) -> Block:
        steps = self.results[suite]
        first = min(steps)
        test = self._test_result(suite, shown)
        rows = []
        for task in tasks:
            now = steps[shown]["metrics"][task]
            at_first = steps[first]["metrics"].get(task, {})
            at_test = (test or {}).get("metrics", {}).get(task, {})
            described = about.get(task, {})
            rows.append(
                Row(
                    task=task,
                    family=str(described.get("family", task)),
                    form=str(described.get("form", "")),
                    n=int(now["n"]),
                    first=at_first.get("exact_match", math.nan),
                    shown=now.get("exact_match", math.nan),
                    majority=now.get("majority", math.nan),
                    not_extracted=int(now.get("not_extracted", 0)),
                    test=at_test.get("exact_match"),
                )
            )
        curve = []
        for step, result in steps.items():
            values = [
                result["metrics"][task]["exact_match"]
                for task in tasks
                if "exact_match" in result["metrics"].get(task, {})
            ]
            if values:
                curve.append((float(step), sum(values) / len(values)))
        interval = None
        # The interval of a suite is that of its block unless the suite is divided.
        if len(tasks) == len(steps[shown]["metrics"]):
            interval = bootstrap_interval(self.path, [suite], shown, "exact_match")
        return Block(
            suite,
            held_out,
            first,
            max(steps),
            shown,
            rows,
            curve,
            (interval[0], interval[1]) if interval else None,
        )

    def _test_result(self, suite: str, step: int) -> scores.Result | None:
        steps = self.results.get(suite + scores.REPORTED_SUFFIX, {})
        return steps.get(step)

    def examples(self, suite: str, step: int) -> list[scores.Example]:
        """Returns a suite's evaluated examples at a step, in order."""
        return scores.read_examples(self.path / "eval" / suite / f"{step}.jsonl")


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
        config=config.read_text("utf-8") if config.is_file() else "",
        log=_read_log(path / "log.jsonl"),
        results=scores.read_results(path),
        selected=read_selected(path),
        mixture=_read_mixture(path / "mixture.json"),
    )


def _read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries: dict[int, dict[str, Any]] = {}
    lines = path.read_text("utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            entries[entry["step"]] = entry
        except (ValueError, TypeError, KeyError) as error:
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
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"not a mixture's description: {error}",
            where=str(path),
            expected='JSON with "mixture" and "tasks"',
            fix="delete the file; training writes it again when it resumes",
        ) from error
    return dict(mixture)
