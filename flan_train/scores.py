"""What evaluated examples score, and the files of a run that hold it; needs no JAX."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flan_train.errors import UserError
from flan_train.tasks import answers

Result = dict[str, Any]
Example = dict[str, Any]

# A suite's test split is filed under its name and this; it is reported, never selected by.
REPORTED_SUFFIX = "_test"

# What one example scores, by metric name: the metrics that a checkpoint can be selected by.
EXAMPLE_SCORES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "exact_match": lambda example: float(example["correct"]),
}


def score(examples: Iterable[Example]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Returns (metrics by task, description by task) of examples with their outcome.

    `exact_match` is the share of right answers, `majority` the share that always giving the task's
    commonest answer gets, `not_extracted` how many outputs hold no answer, `n` how many there are.
    """
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example["task"], []).append(example)
    metrics, tasks = {}, {}
    for task, group in groups.items():
        common = collections.Counter(answers.normalise(example["answer"]) for example in group)
        metrics[task] = {
            **{
                name: sum(map(of_one, group)) / len(group)
                for name, of_one in EXAMPLE_SCORES.items()
            },
            "majority": max(common.values()) / len(group),
            "not_extracted": sum(example["extracted"] is None for example in group),
            "n": len(group),
        }
        tasks[task] = {name: group[0][name] for name in ("family", "form", "held_out")}
    return metrics, tasks


def mean(metrics: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the unweighted mean over tasks of each metric; `n` is a count and has none."""
    rows = list(metrics)
    names = [name for name in rows[0] if name != "n"]
    return {name: sum(row[name] for row in rows) / len(rows) for name in names}


def families(
    metrics: Mapping[str, Mapping[str, Any]], tasks: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Returns by family: the mean over its tasks, its examples `n`, and whether it is held out."""
    groups: dict[str, list[str]] = {}
    for task, about in tasks.items():
        groups.setdefault(about["family"], []).append(task)
    return {
        family: {
            **mean(metrics[task] for task in members),
            "n": sum(metrics[task]["n"] for task in members),
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
            if path.stem.isdigit()
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
    except (ValueError, AttributeError) as error:
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
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                examples.append(json.loads(line))
            except ValueError as error:
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
