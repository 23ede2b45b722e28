"""Scores over steps -> the chosen checkpoint, with the reason in words and how sure it is.

The paper keeps the checkpoint that is best on periodic held-out evaluation (facts section 5), on
the very sets that it reports. Here a part is kept apart for that by default (protocol "apart"); the
paper's way is protocol "paper".
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from flan_train import select_metric, select_noise
from flan_train.checkpoint_names import SELECTION_FILE, read_selected
from flan_train.errors import unknown_name
from flan_train.scores import Result, read_results, write_whole
from flan_train.select_candidates import DIGITS, Ranking, rank
from flan_train.select_metric import check_metric
from flan_train.suites import SPLITS_OF, expand, filed_as
from flan_train.tasks.metrics import interval

__all__ = [
    "SelectConfig",
    "best_steps",
    "bootstrap_interval",
    "check_metric",
    "read_selected",
    "select",
    "with_reported",
]


@gin.register(module="flan_train.select")
@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """What a checkpoint is chosen by.

    Attributes:
      suites: whose scores count, each alike, where the metric names none (empty: every suite that
        the run evaluated).
      metric: a metric's name, "normalized_average", or a weighted mix of "suite:metric"; see
        `select_metric.terms`. The highest score is chosen.
      protocol: "apart": chosen on split validation, reported on split test; "paper": chosen on the
        whole published sets (split all), which are then what is reported.
    """

    suites: Sequence[str] = ()
    metric: str = "exact_match"
    protocol: str = "apart"

    def __post_init__(self) -> None:
        object.__setattr__(self, "suites", expand(self.suites))
        if self.protocol not in SPLITS_OF:
            raise unknown_name(
                "selection protocol", self.protocol, SPLITS_OF, where="SELECT_PROTOCOL, --protocol"
            )


def select(
    model_dir: str | pathlib.Path, config: SelectConfig | None = None, *, write: bool = True
) -> dict[str, Any]:
    """Chooses the step with the highest score among the run's checkpoints; writes selected.json.

    Of equal scores the earlier step is chosen. Intervals are a bootstrap over examples within each
    task (95 %), the same every time. A runner-up is within noise when the interval of its
    difference to the chosen step, on the same resampled examples, reaches zero. Steps are left
    out, with the reason, when their checkpoint is gone or torn, when a suite has no result or no
    such metric for them, or when a suite was measured on other examples than at the latest step.
    `write=False` only returns the choice.

    Returns:
      what selected.json holds: "step", "metric", "score", "interval" (None where per-example
      results are missing), "candidates" [{"step", "score", "interval"}] by step, "suites",
      "protocol", "splits" {"selected", "reported"}, "within_noise" [{"step", "score", "interval",
      "difference" (chosen minus this), "difference_interval"}] best first, "reported" {suite:
      {metric: mean}}, "reported_score", "reported_interval" (None while the chosen step has not
      been measured there), "reason", "skipped" [{"step", "reason"}].

    Raises:
      UserError: no such run, no results, an unknown suite or metric, or no candidate left.
    """
    config = config or SelectConfig()
    model_dir = pathlib.Path(model_dir)
    ranking = _ranking(model_dir, config)
    (best, score), *others = ranking.candidates
    steps = [step for step, _ in ranking.candidates]
    drawn = select_noise.draws(model_dir / "eval", ranking.parts, ranking.filed, steps)
    intervals = {step: _rounded(scores) for step, scores in drawn.items()}
    within_noise = []
    for step, other in others:
        difference = _rounded(drawn[best] - drawn[step]) if step in drawn else None
        if difference and select_noise.within_noise(difference):
            within_noise.append(
                {
                    "step": step,
                    "score": other,
                    "interval": intervals[step],
                    "difference": score - other,
                    "difference_interval": difference,
                }
            )
    chosen_on, reported_on = SPLITS_OF[config.protocol]
    selected = {
        "step": best,
        "metric": config.metric,
        "score": score,
        "interval": intervals.get(best),
        "candidates": [
            {"step": step, "score": other, "interval": intervals.get(step)}
            for step, other in sorted(ranking.candidates)
        ],
        "suites": ranking.suites,
        "protocol": config.protocol,
        "splits": {"selected": chosen_on, "reported": reported_on or chosen_on},
        "within_noise": within_noise,
        "skipped": ranking.skipped,
    }
    selected["reason"] = _reason(selected, others)
    selected |= _reported(model_dir, selected, read_results(model_dir))
    if write:
        _write(model_dir, selected)
    return selected


def with_reported(model_dir: str | pathlib.Path, selected: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a choice with the scores that are reported of it now, and writes selected.json.

    Raises:
      UserError: a result that cannot be read.
    """
    model_dir = pathlib.Path(model_dir)
    renewed = dict(selected) | _reported(model_dir, selected, read_results(model_dir))
    _write(model_dir, renewed)
    return renewed


def best_steps(model_dir: str | pathlib.Path, config: SelectConfig) -> list[int]:
    """Returns the candidates of `select`, best first, without intervals; raises as `select`."""
    return [step for step, _ in _ranking(pathlib.Path(model_dir), config).candidates]


def bootstrap_interval(
    model_dir: str | pathlib.Path, suites: Sequence[str], step: int, metric: str
) -> list[float] | None:
    """Returns the 95 % interval [low, high] of a step's score, resampling examples per task.

    The tasks stay as they are: the interval says how far the score could be off because each task
    has only so many examples. None where the per-example results are not at hand.

    Args:
      model_dir: the run.
      suites: names of folders in its `eval`.
      step: which.
      metric: a metric's name; the score is its mean over the suites.

    Raises:
      UserError: an unknown metric, or a per-example file that cannot be read.
    """
    parts = select_metric.terms(metric, suites)
    same = {suite: suite for suite in suites}
    drawn = select_noise.draws(pathlib.Path(model_dir) / "eval", parts, same, [step])
    return _rounded(drawn[step]) if drawn else None


def _ranking(model_dir: pathlib.Path, config: SelectConfig) -> Ranking:
    return rank(model_dir, config.metric, config.suites, config.protocol)


def _reported(
    model_dir: pathlib.Path,
    selected: Mapping[str, Any],
    results: Mapping[str, Mapping[int, Result]],
) -> dict[str, Any]:
    """Returns "reported", "reported_score" and "reported_interval" of a choice."""
    step, split = selected["step"], selected["splits"]["reported"]
    filed = {suite: filed_as(suite, split) for suite in selected["suites"]}
    there = {
        suite: results[name][step]["mean"]
        for suite, name in filed.items()
        if step in results.get(name, {})
    }
    found: dict[str, Any] = {
        "reported": there,
        "reported_score": None,
        "reported_interval": None,
    }
    parts = select_metric.terms(selected["metric"], selected["suites"])
    if all(part.metric in there.get(part.suite, {}) for part in parts):
        found["reported_score"] = select_metric.score(parts, there)
        drawn = select_noise.draws(model_dir / "eval", parts, filed, [step])
        if drawn:
            found["reported_interval"] = _rounded(drawn[step])
    return found


def _rounded(drawn: np.ndarray) -> list[float]:
    # So that another machine's order of summing changes nothing that is written.
    return [round(end, 9) for end in interval(drawn)]


def _write(model_dir: pathlib.Path, selected: Mapping[str, Any]) -> None:
    write_whole(model_dir / SELECTION_FILE, json.dumps(selected, indent=1) + "\n")


def _reason(selected: Mapping[str, Any], others: Sequence[tuple[int, float]]) -> str:
    """Returns one sentence, without its full stop, on why this step was chosen."""
    step, interval_ = selected["step"], selected["interval"]
    what = select_metric.describe(selected["metric"], selected["suites"])
    score = f"{selected['score']:.3f}"
    if interval_:
        score += f", 95 % interval {interval_[0]:.3f} to {interval_[1]:.3f}"
    if not others:
        text = f"step {step} is the only candidate; its {what} is {score}"
    elif round(others[0][1], DIGITS) == round(selected["score"], DIGITS):
        text = (
            f"step {step} is the earliest with the highest {what} ({score}); "
            f"step {others[0][0]} scores the same"
        )
    else:
        text = f"step {step} has the highest {what} ({score}); runner-up step {others[0][0]} "
        text += f"({others[0][1]:.3f})"
        compared = {item["step"] for item in selected["candidates"] if item["interval"]}
        if others[0][0] in compared:
            near = {item["step"] for item in selected["within_noise"]}
            text += f" is {'within' if others[0][0] in near else 'beyond'} noise"
    if selected["protocol"] == "paper":
        text += (
            "; chosen on the whole published sets, which are also what is reported, as in the paper"
        )
    return text
