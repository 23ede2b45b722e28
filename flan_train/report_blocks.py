"""The scores of a run as reports show them: suites, their splits, their tasks over the steps."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

from flan_train import normalized, scores
from flan_train.run_directory import Run
from flan_train.scores import Result
from flan_train.select import bootstrap_interval
from flan_train.suites import ALL, PUBLISHED_TEST, TEST, VALIDATION
from flan_train.tasks.protocol import Protocol, protocol_of

Interval = tuple[float, float]
# Of two splits measured equally often, the curve is that of the first; comparisons the other way.
SPLITS = (VALIDATION, ALL, TEST, PUBLISHED_TEST)
SPLIT_NAMES = {
    VALIDATION: "validation part",
    TEST: "test part",
    ALL: "whole set",
    PUBLISHED_TEST: "published test set",
}
_VOTE = re.compile(r"_sc(\d+)$")


@dataclasses.dataclass(frozen=True)
class Row:
    """One task at the steps that a report shows; None where something was not measured.

    Attributes:
      task, family, form: as in the result.
      metric: the task's main one; scores are shares of 1.
      n: examples at the shown step; `shots` their mean number of exemplars.
      first, shown: the score at the first and at the shown step; `interval` of the latter.
      majority: what always giving the commonest answer would score.
      normalized: the score at the shown step, corrected for chance.
      not_extracted: outputs without an answer.
      dropped: examples that are not measured, by reason.
      others: the score on other splits at the shown step.
    """

    task: str
    family: str
    form: str
    metric: str
    n: int
    shots: float | None
    first: float | None
    shown: float | None
    interval: Interval | None
    majority: float | None
    normalized: float | None
    not_extracted: int
    dropped: Mapping[str, int]
    others: Mapping[str, float | None]

    @property
    def protocol(self) -> Protocol:
        """How tasks of this name are evaluated."""
        return protocol_of(self.task)

    @property
    def subset(self) -> str:
        """The benchmark's file: what stands between the suite's name and the form's."""
        return self.task.removeprefix(f"{self.family}_").removesuffix(f"_{self.form}")


@dataclasses.dataclass(frozen=True)
class Block:
    """The tasks of one suite, either its held-out ones or the others.

    Attributes:
      suite: its name, without the split; `filed` is the folder in `eval`.
      split: what the curve and the rows are measured on.
      held_out: whether the tasks' families were never trained on.
      metric: what the suite is told by: the main metric of most of its tasks.
      first_step, last_step: of those evaluated.
      shown_step: the chosen step, or the last one while none is chosen (or it was not measured).
      rows: one a task.
      curve: (step, mean over the tasks) at every evaluated step.
      band: (step, low, high): 95 % intervals of the mean, where they are recorded.
      interval: that at the shown step.
      more: means of the suite's further metrics at the shown step.
      others: results of the shown step on other splits.
      other_intervals: of their means.
      result: the result at the shown step.
    """

    suite: str
    filed: str
    split: str
    held_out: bool
    metric: str
    first_step: int
    last_step: int
    shown_step: int
    rows: list[Row]
    curve: list[tuple[float, float]]
    band: list[tuple[float, float, float]]
    interval: Interval | None
    more: dict[str, float]
    others: dict[str, Result]
    other_intervals: dict[str, Interval]
    result: Result

    def mean(self, field: str) -> float | None:
        """Returns the mean of a column over the tasks that have it."""
        return _mean([getattr(row, field) for row in self.rows])

    def other(self, split: str) -> float | None:
        """Returns the mean over the tasks at the shown step on another split."""
        return _mean([row.others.get(split) for row in self.rows])

    def on(self, split: str) -> tuple[float | None, Interval | None]:
        """Returns (mean over the tasks, its interval) at the shown step on any split."""
        if split == self.split:
            return self.mean("shown"), self.interval
        return self.other(split), self.other_intervals.get(split)

    @property
    def splits(self) -> list[str]:
        """What the shown step was measured on."""
        return [split for split in SPLITS if split == self.split or split in self.others]

    @property
    def votes(self) -> int:
        """Over how many samples of a prompt answers were voted; 0: no vote."""
        found = _VOTE.search(self.suite)
        return int(found[1]) if found else 0

    @property
    def prompts(self) -> int:
        """Examples measured."""
        return sum(row.n for row in self.rows)

    @functools.cached_property
    def benchmark(self) -> tuple[str, str, str] | None:
        """(benchmark, prompting, form) of a suite that is one benchmark in one form, else None."""
        found = {(row.protocol.benchmark, row.protocol.prompting, row.form) for row in self.rows}
        only = next(iter(found))
        return only if len(found) == 1 and only[0] else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def blocks(run: Run) -> list[Block]:
    """Returns the evaluated tasks in blocks: by suite, the held-out ones apart and last."""
    found = []
    for suite, splits in _by_suite(run.results).items():
        split = min(splits, key=lambda name: (-len(run.results[splits[name]]), SPLITS.index(name)))
        steps = run.results[splits[split]]
        shown = max(steps)
        if run.selected and run.selected["step"] in steps:
            shown = run.selected["step"]
        about = steps[shown].get("tasks", {})
        for held_out in (False, True):
            tasks = [
                task
                for task in steps[shown]["metrics"]
                if bool(about.get(task, {}).get("held_out")) == held_out
            ]
            if tasks:
                found.append(_block(run, suite, splits, split, held_out, shown, tasks))
    return sorted(found, key=_place)


def _place(block: Block) -> tuple[bool, int]:
    """Training families first; of held-out suites the six of the normalised average first."""
    six = normalized.SIX_SUITES
    return block.held_out, six.index(block.suite) if block.suite in six else len(six)


def _by_suite(results: Mapping[str, Mapping[int, Result]]) -> dict[str, dict[str, str]]:
    """Returns {suite: {split: the name its results are filed under}}."""
    found: dict[str, dict[str, str]] = {}
    for filed in results:
        split = _split(filed, results)
        suite = filed if split == VALIDATION else filed.removesuffix(f"_{split}")
        found.setdefault(suite, {})[split] = filed
    return found


def _split(filed: str, results: Mapping[str, Mapping[int, Result]]) -> str:
    named = {str(result.get("split") or "") for result in results[filed].values()} - {""}
    if len(named) == 1 and named <= set(SPLITS):
        return named.pop()
    return TEST if scores.is_reported(filed, results) else VALIDATION


def _block(
    run: Run,
    suite: str,
    splits: Mapping[str, str],
    split: str,
    held_out: bool,
    shown: int,
    tasks: Sequence[str],
) -> Block:
    filed = splits[split]
    steps = run.results[filed]
    others = {
        name: run.results[folder][shown]
        for name, folder in splits.items()
        if name != split and shown in run.results[folder]
    }
    whole = len(tasks) == len(steps[shown]["metrics"])
    metric = _main_metric(steps[shown], tasks)
    curve, band = [], []
    for step, result in sorted(steps.items()):
        value = _mean([result["metrics"].get(task, {}).get(metric) for task in tasks])
        if value is not None:
            curve.append((float(step), value))
            interval = result.get("mean_intervals", {}).get(metric)
            # The recorded interval is that of all tasks: of a part it is not known.
            if interval and whole:
                band.append((float(step), interval[0], interval[1]))
    interval = next(((low, high) for step, low, high in band if step == shown), None)
    if whole and interval is None and "mean_intervals" not in steps[shown]:
        kept = bootstrap_interval(run.path, [filed], shown, metric)
        interval = (kept[0], kept[1]) if kept else None
    ranges = {
        name: (found[0], found[1])
        for name, result in others.items()
        if whole and (found := result.get("mean_intervals", {}).get(metric))
    }
    more = {
        name: value
        for name, value in steps[shown]["mean"].items()
        if whole
        and name not in (metric, "normalized", *scores.NOT_SCORES)
        # Accuracy is exact match by another name where the answer is one of the options.
        and not (name == "exact_match" and value == steps[shown]["mean"].get(metric))
    }
    return Block(
        suite=suite,
        filed=filed,
        split=split,
        held_out=held_out,
        metric=metric,
        first_step=min(steps),
        last_step=max(steps),
        shown_step=shown,
        rows=[_row(task, metric, steps[min(steps)], steps[shown], others) for task in tasks],
        curve=curve,
        band=band,
        interval=interval,
        more=more,
        others=others,
        other_intervals=ranges,
        result=steps[shown],
    )


def _main_metric(result: Result, tasks: Sequence[str]) -> str:
    rows = {task: result["metrics"][task] for task in tasks}
    return scores.main_metric({"metrics": rows})


def _row(
    task: str, suite_metric: str, first: Result, shown: Result, others: Mapping[str, Result]
) -> Row:
    now = shown["metrics"][task]
    metric = suite_metric if suite_metric in now else scores.main_metric({"metrics": {task: now}})
    about = shown.get("tasks", {}).get(task, {})
    low_high = now.get("intervals", {}).get(metric)
    reasons: collections.Counter[str] = collections.Counter(shown.get("dropped", {}).get(task, {}))
    return Row(
        task=task,
        family=str(about.get("family", task)),
        form=str(about.get("form", "")),
        metric=metric,
        n=int(now["n"]),
        shots=now.get("shots"),
        first=first["metrics"].get(task, {}).get(metric),
        shown=now.get(metric),
        interval=(low_high[0], low_high[1]) if low_high else None,
        majority=now.get("majority"),
        normalized=now.get("normalized"),
        not_extracted=int(now.get("not_extracted", 0)),
        dropped=reasons,
        others={
            name: result["metrics"].get(task, {}).get(metric) for name, result in others.items()
        },
    )
