"""What evaluated examples score, and the files of a run that hold it; needs no JAX."""

from __future__ import annotations

import collections
import json
import math
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flan_train.errors import UserError
from flan_train.tasks import answers, metrics

Result = dict[str, Any]
Example = dict[str, Any]

# A suite's test split is filed under its name and this; it is reported, never selected by.
REPORTED_SUFFIX = "_test"

# Keys of a task's row that are no scores.
NOT_SCORES = ("majority", "not_extracted", "n", "shots", "intervals")


def summary(examples: Iterable[Example]) -> dict[str, Any]:
    """Returns what evaluated examples score: by task, by family, and over all tasks.

    Every score is a share of 1. A task's row in "metrics" has every metric of the task, the main
    one first, and: `exact_match` where outputs are compared with answers, `normalized` where there
    is a chance (by its metric), `majority` (the share that always giving the task's commonest
    answer gets; absent where nothing is right), `not_extracted` (how many outputs hold no answer),
    `n` (how many there are), `shots` (their mean) and `intervals` (95 %, by a bootstrap over the
    task's examples). A metric that is not defined, such as AUC-ROC of one class, is left out.

    Returns:
      "metrics": {task: row}, "tasks": {task: family, form, held_out}, "families", "mean": of each
      metric the unweighted mean over the tasks that have it, "mean_intervals" (95 %, the tasks as
      they are, examples resampled within each).
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example["task"], []).append(example)
    rows, tasks = {}, {}
    totals: dict[str, list[np.ndarray]] = {}
    for task, group in groups.items():
        values = [_values(example) for example in group]
        columns = {name: [each[name] for each in values] for name in values[0]}
        samples = metrics.resampled_together(columns, seed=zlib.crc32(task.encode()))
        scores = {name: metrics.METRICS[name].score(column) for name, column in columns.items()}
        defined = {name: score for name, score in scores.items() if not math.isnan(score)}
        for name in defined:
            totals.setdefault(name, []).append(samples[name])
        rows[task] = {
            **defined,
            **_counts(group),
            "intervals": {name: list(metrics.interval(samples[name])) for name in defined},
        }
        tasks[task] = {name: group[0][name] for name in ("family", "form", "held_out")}
    return {
        "metrics": rows,
        "mean": mean(rows.values()),
        # Over tasks sample by sample: the tasks are drawn independently of each other.
        "mean_intervals": {
            name: list(metrics.interval(np.mean(samples, axis=0)))
            for name, samples in totals.items()
        },
        "families": families(rows, tasks),
        "tasks": tasks,
    }


def score(examples: Iterable[Example]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns (metrics by task, description by task) of `summary`."""
    found = summary(examples)
    return found["metrics"], found["tasks"]


def _values(example: Example) -> dict[str, list[float]]:
    return example["values"] if "values" in example else metrics.values_of(example)


def _counts(group: list[Example]) -> dict[str, Any]:
    # Outputs that nothing is compared with (continuations, open-ended prompts) have no answer.
    asked = [example for example in group if example["answer"]]
    common = collections.Counter(answers.normalise(example["answer"]) for example in asked)
    shots = [example["shots"] for example in group if "shots" in example]
    return {
        **({"majority": max(common.values()) / len(asked)} if asked else {}),
        "not_extracted": sum(example["extracted"] is None for example in asked),
        "n": len(group),
        **({"shots": sum(shots) / len(shots)} if shots else {}),
    }


def mean(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the unweighted mean of each number over the tasks that have it.

    `n` and `shots` have none.
    """
    columns: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("n", "shots", "intervals"):
                columns.setdefault(name, []).append(value)
    return {name: sum(column) / len(column) for name, column in columns.items()}


def main_metric(result: Mapping[str, Any]) -> str:
    """Returns the metric that a result is told by: the main one of most of its tasks."""
    mains = collections.Counter(
        next((name for name in row if name not in NOT_SCORES), "majority")
        for row in result["metrics"].values()
    )
    return mains.most_common(1)[0][0]


def main_mean(result: Mapping[str, Any]) -> tuple[str, float]:
    """Returns (main metric, its mean over the tasks that have it) of a result."""
    name = main_metric(result)
    return name, result["mean"][name]


def families(
    rows: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Returns by family: the mean over its tasks, its examples `n`, and whether it is held out."""
    groups: dict[str, list[str]] = {}
    for task, about in tasks.items():
        groups.setdefault(about["family"], []).append(task)
    return {
        family: {
            **mean(rows[task] for task in members),
            "n": sum(rows[task]["n"] for task in members),
            "held_out": bool(tasks[members[0]]["held_out"]),
            "tasks": members,
        }
        for family, members in groups.items()
    }


def read_results(model_dir: str | pathlib.Path) -> dict[str, dict[int, Result]]:
    """Returns every finished result of a run: {suite: {step: result}}, both in order.

    Raises:
      UserError: a result file cannot be read; names it.
    """
    found: dict[str, dict[int, Result]] = {}
    for folder in sorted(path for path in (pathlib.Path(model_dir) / "eval").glob("*")):
        steps = {
            int(path.stem): read_result(path)
            for path in folder.glob("*.json")
            if path.stem.isdecimal()
        }
        if steps:
            found[folder.name] = dict(sorted(steps.items()))
    return found


def is_reported(suite: str, results: Mapping[str, Mapping[int, Result]]) -> bool:
    """Returns whether a suite of a run was measured on a test split, the part kept for reporting.

    A result says its split; of one that does not, the name decides.
    """
    splits = {result.get("split", "") for result in results.get(suite, {}).values()}
    if splits - {""}:
        return "test" in splits
    return suite.endswith(REPORTED_SUFFIX) and suite.removesuffix(REPORTED_SUFFIX) in results


def read_result(path: pathlib.Path) -> Result:
    """Returns the result in one `eval/<suite>/<step>.json`.

    Raises:
      UserError: it is not such a file.
    """
    try:
        result = json.loads(path.read_text("utf-8"))
        if not {"suite", "step", "metrics", "mean"} <= result.keys():
            raise ValueError("keys are missing")
        for name in ("metrics", "mean"):
            if not isinstance(result[name], dict):
                raise ValueError(f'"{name}" is no object')
        if not all(isinstance(row, dict) for row in result["metrics"].values()):
            raise ValueError("a task's scores are no object")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"not an evaluation result: {error}",
            where=str(path),
            expected='JSON with "suite", "step", "metrics" and "mean"',
            fix="delete the file and evaluate that step again",
        ) from error
    return result


def read_examples(path: pathlib.Path) -> list[Example]:
    """Returns the examples in one `eval/<suite>/<step>.jsonl`; an absent file has none.

    Raises:
      UserError: a line is not JSON; names the file and the line.
    """
    if not path.is_file():
        return []
    examples = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                examples.append(json.loads(line))
                if not isinstance(examples[-1], dict):
                    raise ValueError("no object")
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"not a line of JSON: {error}",
                    where=f"{path}, line {number}",
                    expected="one evaluated example a line",
                    fix="delete the file and the .json beside it, and evaluate that step again",
                ) from error
    return examples


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that a reader sees the old one, or the whole new one, and never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
