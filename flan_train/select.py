"""Scores over steps -> the chosen checkpoint, with the reason in words.

The paper keeps the checkpoint that is best on periodic held-out evaluation (facts section 5). Here
the scores come from validation splits: a suite `<name>_test` is the reported part and is refused.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from flan_train.errors import UserError, unknown_name
from flan_train.scores import (
    EXAMPLE_SCORES,
    REPORTED_SUFFIX,
    Result,
    is_reported,
    read_examples,
    read_results,
    write_whole,
)

RESAMPLES = 2000


@gin.register(module="flan_train.select")
@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """What a checkpoint is chosen by.

    Attributes:
      suites: whose scores count, each alike (empty: every suite that the run evaluated).
      metric: the metric whose mean over tasks is the score of a suite.
    """

    suites: Sequence[str] = ()
    metric: str = "exact_match"

    def __post_init__(self) -> None:
        suites = (self.suites,) if isinstance(self.suites, str) else self.suites
        object.__setattr__(self, "suites", tuple(suites))


def select(
    model_dir: str | pathlib.Path, config: SelectConfig | None = None, *, write: bool = True
) -> dict[str, Any]:
    """Chooses the step with the highest score among the run's checkpoints; writes selected.json.

    The score of a step is the mean over the suites of the mean over tasks of the metric. Of equal
    scores the earlier step is chosen. The interval is a bootstrap over examples within each task
    (95 %, seeded by the step, so that it is the same every time). Steps are left out, with the
    reason, when their checkpoint is gone, when a suite has no result for them, or when a suite
    was measured on other examples than at the latest step. `write=False` only returns the choice.

    Returns:
      what selected.json holds: "step", "metric", "score", "interval", "candidates", "suites",
      "reason", "within_interval" (other steps that score inside the interval), "skipped".

    Raises:
      UserError: no such run, no results, an unknown suite or metric, or no candidate left.
    """
    config = config or SelectConfig()
    model_dir = pathlib.Path(model_dir)
    if not model_dir.is_dir():
        raise UserError(
            "there is no such run directory",
            where=str(model_dir),
            expected="the MODEL_DIR of a run",
            fix="check the path",
        )
    results = read_results(model_dir)
    if not results:
        raise UserError(
            "nothing to select from: the run has no evaluation results",
            where=str(model_dir / "eval"),
            expected="eval/<suite>/<step>.json for at least one step",
            fix="train with EVAL_SUITES set, or run flan-train eval on its checkpoints",
        )
    suites = _suites(config, results, model_dir)
    _check_metric(config.metric)
    comparable, skipped = _candidates(model_dir, {suite: results[suite] for suite in suites})
    if not comparable:
        raise UserError(
            "no checkpoint can be selected",
            where=str(model_dir),
            expected=f"a step with its checkpoint and a result for {', '.join(suites)}",
            fix="; ".join(f"step {item['step']}: {item['reason']}" for item in skipped),
        )
    candidates = []
    for step in comparable:
        means = [results[suite][step]["mean"][config.metric] for suite in suites]
        candidates.append({"step": step, "score": sum(means) / len(means)})
    ranked = sorted(candidates, key=lambda item: (-item["score"], item["step"]))
    best, runners_up = ranked[0], ranked[1:]
    interval = bootstrap_interval(model_dir, suites, int(best["step"]), config.metric)
    selected = {
        "step": best["step"],
        "metric": config.metric,
        "score": best["score"],
        "interval": interval,
        "candidates": candidates,
        "suites": suites,
        "reason": _reason(config.metric, suites, best, interval, runners_up),
        "within_interval": [
            item["step"] for item in runners_up if interval and item["score"] >= interval[0]
        ],
        "skipped": skipped,
    }
    if write:
        write_whole(model_dir / "selected.json", json.dumps(selected, indent=1) + "\n")
    return selected


def bootstrap_interval(
    model_dir: str | pathlib.Path, suites: Sequence[str], step: int, metric: str
) -> list[float] | None:
    """Returns the 95 % interval [low, high] of a step's score, resampling examples per task.

    The tasks stay as they are: the interval says how far the score could be off because each task
    has only so many examples. None where the per-example results are not at hand.

    Raises:
      UserError: an unknown metric, or a per-example file that cannot be read.
    """
    _check_metric(metric)
    random = np.random.default_rng(step)
    total = np.zeros(RESAMPLES)
    for suite in suites:
        examples = read_examples(pathlib.Path(model_dir) / "eval" / suite / f"{step}.jsonl")
        if not examples:
            return None
        groups: dict[str, list[float]] = {}
        for example in examples:
            groups.setdefault(example["task"], []).append(EXAMPLE_SCORES[metric](example))
        means = np.zeros(RESAMPLES)
        for _, values in sorted(groups.items()):
            # Equal values are drawn together: how often each occurs among n draws.
            distinct, counts = np.unique(values, return_counts=True)
            drawn = random.multinomial(len(values), counts / len(values), size=RESAMPLES)
            means += drawn @ distinct / len(values)
        total += means / len(groups)
    low, high = np.percentile(total / len(suites), (2.5, 97.5))
    return [float(low), float(high)]


def read_selected(model_dir: str | pathlib.Path) -> dict[str, Any] | None:
    """Returns what selected.json holds, or None when nothing has been selected yet.

    Raises:
      UserError: the file cannot be read.
    """
    path = pathlib.Path(model_dir) / "selected.json"
    if not path.is_file():
        return None
    try:
        selected = json.loads(path.read_text("utf-8"))
        if not {"step", "metric", "score"} <= selected.keys():
            raise ValueError("keys are missing")
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"not a selection: {error}",
            where=str(path),
            expected='JSON with "step", "metric" and "score"',
            fix="write it again with flan-train select RUN_DIR",
        ) from error
    return selected


def _suites(config: SelectConfig, results: Mapping[str, Any], model_dir: pathlib.Path) -> list[str]:
    open_suites = [suite for suite in results if not is_reported(suite, results)]
    for suite in config.suites:
        if suite in results and suite not in open_suites:
            raise UserError(
                f"the suite '{suite}' is the reported part: it is not selected by",
                where="SelectConfig.suites",
                expected="suites measured on a validation split: " + ", ".join(open_suites),
                fix=f"use {suite.removesuffix(REPORTED_SUFFIX)}",
            )
        if suite not in results:
            raise unknown_name(
                "evaluated suite", suite, open_suites, where=f"SelectConfig.suites, {model_dir}"
            )
    return list(dict.fromkeys(config.suites)) or open_suites


def _check_metric(metric: str) -> None:
    if metric not in EXAMPLE_SCORES:
        raise unknown_name("metric", metric, EXAMPLE_SCORES, where="SelectConfig.metric")


def _candidates(
    model_dir: pathlib.Path, results: Mapping[str, Mapping[int, Result]]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Returns the steps that can be compared, and the others with the reason each is left out."""
    comparable, skipped = [], []
    latest = {suite: _measured_on(steps[max(steps)]) for suite, steps in results.items()}
    for step in sorted({step for steps in results.values() for step in steps}):
        missing = [suite for suite, steps in results.items() if step not in steps]
        if not (model_dir / "checkpoints" / str(step)).is_dir():
            reason = "its checkpoint is gone"
        elif missing:
            reason = f"no result for {', '.join(missing)}"
        elif other := [
            suite for suite, steps in results.items() if _measured_on(steps[step]) != latest[suite]
        ]:
            reason = f"{', '.join(other)} was measured on other examples or decoded otherwise"
        else:
            comparable.append(step)
            continue
        skipped.append({"step": step, "reason": reason})
    return comparable, skipped


def _measured_on(result: Result) -> str:
    counts = {task: row["n"] for task, row in result["metrics"].items()}
    return json.dumps([result.get("prepared"), result.get("decoding"), counts], sort_keys=True)


def _reason(
    metric: str,
    suites: Sequence[str],
    best: Mapping[str, Any],
    interval: Sequence[float] | None,
    runners_up: Sequence[Mapping[str, Any]],
) -> str:
    score = f"{best['score']:.3f}"
    if interval:
        score += f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}"
    where = f"mean {metric} over {', '.join(suites)}"
    if not runners_up:
        return f"step {best['step']} is the only candidate; its {where} is {score}"
    second = runners_up[0]
    if second["score"] == best["score"]:
        return (
            f"step {best['step']} is the earliest with the highest {where} ({score}); "
            f"step {second['step']} scores the same"
        )
    text = (
        f"step {best['step']} has the highest {where} ({score}); "
        f"runner-up step {second['step']} ({second['score']:.3f})"
    )
    if interval:
        text += f" lies {'within' if second['score'] >= interval[0] else 'below'} the interval"
    return text
