"""Which steps of a run can be chosen, and what each scores."""

from __future__ import annotations

import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flan_train import select_metric
from flan_train.checkpoint_names import FOLDER, missing_items
from flan_train.errors import UserError, unknown_name
from flan_train.scores import Result, read_results
from flan_train.select_metric import Term
from flan_train.suites import SPLITS_OF, TEST, VALIDATION

# Scores that differ by less are equal: they are sums in floating point.
DIGITS = 12
# What `suites.filed_as` puts after the name of a suite that was put to the vote.
_VOTED = re.compile(r"_sc\d+$")


class Ranking(NamedTuple):
    """The candidates of a run, best first.

    Attributes:
      parts: what a score is the sum of.
      suites: those that count.
      filed: under what name each suite's results are.
      candidates: (step, score) of those that can be compared, the best first.
      skipped: the other steps, with the reason.
    """

    parts: tuple[Term, ...]
    suites: list[str]
    filed: dict[str, str]
    candidates: list[tuple[int, float]]
    skipped: list[dict[str, Any]]


def rank(model_dir: pathlib.Path, metric: str, wanted: Sequence[str], protocol: str) -> Ranking:
    """Returns the candidates of a run by their scores.

    Args:
      model_dir: the run.
      metric: as `select_metric.terms` takes it.
      wanted: the suites that a metric without a suite is the mean over; empty for all.
      protocol: a key of `suites.SPLITS_OF`; says on which split the scores are.

    Raises:
      UserError: no such run, no results, an unknown suite or metric, or no candidate left.
    """
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
    split, _ = SPLITS_OF[protocol]
    filed = _measured_suites(results, split)
    if not filed:
        raise UserError(
            f"nothing to select from: no suite was evaluated on split '{split}'",
            where=str(model_dir / "eval"),
            expected=f"results of split '{split}', which protocol '{protocol}' chooses by",
            fix=f"run flan-train eval --split={split} on its checkpoints, or choose another "
            "--protocol",
        )
    _check_suites(wanted, protocol, results, filed, f"SELECT_SUITES, or --suite; {model_dir}")
    # Votes are measured beside a suite, of single checkpoints: they count where they are named.
    plain = [suite for suite in filed if _VOTED.sub("", suite) not in {*filed} - {suite}]
    parts = select_metric.terms(metric, wanted or plain, list(filed))
    suites = select_metric.suites_of(parts)
    by_suite = {suite: results[filed[suite]] for suite in suites}
    _check_offered(parts, by_suite)
    comparable, skipped = _comparable(model_dir, parts, by_suite)
    if not comparable:
        raise UserError(
            "no checkpoint can be selected",
            where=str(model_dir),
            expected=f"a step with its checkpoint and a result for {', '.join(suites)}",
            fix="; ".join(f"step {item['step']}: {item['reason']}" for item in skipped),
        )
    scored = [(step, _score(parts, by_suite, step)) for step in comparable]
    ranked = sorted(scored, key=lambda item: (-round(item[1], DIGITS), item[0]))
    return Ranking(parts, suites, filed, ranked, skipped)


def _measured_suites(results: Mapping[str, Mapping[int, Result]], split: str) -> dict[str, str]:
    """Returns {suite: the name its results go under} of what was measured on a split."""
    found = {}
    for name in results:
        if _split_of(name, results) == split:
            suite = name if split == VALIDATION else name.removesuffix(f"_{split}")
            found[suite] = name
    return found


def _split_of(name: str, results: Mapping[str, Mapping[int, Result]]) -> str:
    """Returns the split of a suite's results; of a version that did not keep it, by the name."""
    splits = {result.get("split") for result in results[name].values()} - {None, ""}
    if splits:
        return str(splits.pop())
    plain = name.removesuffix(f"_{TEST}")
    return TEST if plain != name and plain in results else VALIDATION


def _check_suites(
    wanted: Sequence[str],
    protocol: str,
    results: Mapping[str, Mapping[int, Result]],
    filed: Mapping[str, str],
    where: str,
) -> None:
    for suite in wanted:
        if suite in filed:
            continue
        if suite in results:
            split, by = _split_of(suite, results), SPLITS_OF[protocol][0]
            plain = suite.removesuffix(f"_{split}")
            kept = " is the reported part: it is not selected by"
            others = [name for name, splits in SPLITS_OF.items() if splits[0] == split]
            raise UserError(
                f"the suite '{suite}'"
                + (kept if split == TEST else f" was measured on split '{split}'"),
                where=where,
                expected=f"suites measured on split '{by}', which protocol '{protocol}' chooses "
                f"by: {', '.join(filed)}",
                fix=(
                    f"use {plain}"
                    if plain in filed
                    else f"flan-train eval --split={by} --suite={plain} for each checkpoint"
                )
                + "".join(f", or --protocol={name}" for name in others),
            )
        raise unknown_name("evaluated suite", suite, filed, where=where)


def _check_offered(parts: Sequence[Term], results: Mapping[str, Mapping[int, Result]]) -> None:
    """Raises UserError for a suite that has not been measured by a metric at any step."""
    for part in parts:
        offered = {name: None for result in results[part.suite].values() for name in result["mean"]}
        if part.metric not in offered:
            raise select_metric.lacks(part, list(offered))


def _comparable(
    model_dir: pathlib.Path, parts: Sequence[Term], results: Mapping[str, Mapping[int, Result]]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Returns the steps that can be compared, and the others with the reason each is left out."""
    comparable, skipped = [], []
    latest = {suite: _measured_on(steps[max(steps)]) for suite, steps in results.items()}
    for step in sorted({step for steps in results.values() for step in steps}):
        folder = model_dir / FOLDER / str(step)
        missing = [suite for suite, steps in results.items() if step not in steps]
        if not folder.is_dir():
            reason = "its checkpoint is gone"
        elif missing_items(folder):
            reason = "its checkpoint is incomplete"
        elif missing:
            reason = f"no result for {', '.join(missing)}"
        elif other := [
            suite for suite, steps in results.items() if _measured_on(steps[step]) != latest[suite]
        ]:
            reason = f"{', '.join(other)} was measured on other examples or decoded otherwise"
        elif lacking := [
            str(part) for part in parts if part.metric not in results[part.suite][step]["mean"]
        ]:
            reason = f"not measured: {', '.join(lacking)}"
        elif not math.isfinite(_score(parts, results, step)):
            reason = "its score is not defined"
        else:
            comparable.append(step)
            continue
        skipped.append({"step": step, "reason": reason})
    return comparable, skipped


def _score(parts: Sequence[Term], results: Mapping[str, Mapping[int, Result]], step: int) -> float:
    return select_metric.score(
        parts, {suite: steps[step]["mean"] for suite, steps in results.items()}
    )


def _measured_on(result: Result) -> str:
    counts = {task: row["n"] for task, row in result["metrics"].items()}
    return json.dumps([result.get("prepared"), result.get("decoding"), counts], sort_keys=True)
