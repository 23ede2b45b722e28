"""Several runs' scores side by side."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Sequence

from flan_train import report_reference
from flan_train.report_blocks import Block, Interval, blocks
from flan_train.run_directory import Run
from flan_train.suites import ALL, PUBLISHED_TEST, TEST, VALIDATION

# What is reported comes before what was chosen by.
_ORDER = (TEST, ALL, VALIDATION, PUBLISHED_TEST)
NORMALISED = "Normalised average"


@dataclasses.dataclass(frozen=True)
class Line:
    """One suite, or the normalised average, of all runs.

    Attributes:
      name: the suite's.
      split: what all of the numbers are measured on; "" where runs share no split.
      held_out: whether its families were never trained on.
      metric: whose mean over the tasks is shown.
      scores: by run: (share, its 95 % interval); None where the run has none.
      blocks: by run; None where it was not evaluated, or for the average.
    """

    name: str
    split: str
    held_out: bool
    metric: str
    scores: list[tuple[float | None, Interval | None]]
    blocks: list[Block | None]


def labels(runs: Sequence[Run]) -> list[str]:
    """Returns the shortest ends of the runs' paths, all of one length, that tell them apart."""
    parts = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts))):
        found = [str(pathlib.PurePath(*part[-length:])) for part in parts]
        if len(set(found)) == len(found):
            return found
    return [str(run.path.resolve()) for run in runs]


def short_labels(names: Sequence[str]) -> list[str]:
    """Returns labels without the words that all of them begin with.

    >>> short_labels(["flan_small_lr1e-3", "flan_small_lr1e-4"])
    ['lr1e-3', 'lr1e-4']
    >>> short_labels(["base", "base_long"])
    ['base', 'base_long']
    """
    words = [re.findall(r"[^_/ .]*[_/ .]*", told) for told in names]
    shared = 0
    while len({word[shared] if shared < len(word) else None for word in words}) == 1:
        shared += 1
    left = ["".join(word[shared:]) for word in words]
    return left if all(left) else list(names)


def step_name(run: Run) -> str:
    """Returns the chosen step, or the last evaluated one, marked as such."""
    if run.selected:
        return f"{run.selected['step']:,}"
    steps = [step for results in run.results.values() for step in results]
    return f"{max(steps):,} (last)" if steps else "–"


def compare(runs: Sequence[Run]) -> list[Line]:
    """Returns the suites of all runs in the order that they first come, training families first.

    Each suite is compared on one split that all runs with the suite were measured on.
    """
    found = [blocks(run) for run in runs]
    by_key = [{(block.held_out, block.suite): block for block in of_run} for of_run in found]
    keys = dict.fromkeys(key for of_run in by_key for key in of_run)
    average = _average(runs, found)
    lines = [average] if average else []
    for held_out, suite in sorted(keys, key=lambda key: key[0]):
        ours = [of_run.get((held_out, suite)) for of_run in by_key]
        there = [block for block in ours if block is not None]
        shared = set.intersection(*(set(block.splits) for block in there))
        metric = there[0].metric
        split = next((name for name in _ORDER if name in shared), "")
        lines.append(
            Line(
                name=suite,
                split=split,
                held_out=held_out,
                metric=metric,
                scores=[
                    block.on(split)
                    if block is not None and split and block.metric == metric
                    else (None, None)
                    for block in ours
                ],
                blocks=ours,
            )
        )
    return lines


def _average(runs: Sequence[Run], found: Sequence[Sequence[Block]]) -> Line | None:
    sixes = [
        {one.split: (one.average, one.interval) for one in report_reference.six(run, of_run)}
        for run, of_run in zip(runs, found, strict=True)
    ]
    for split in _ORDER:
        values = [of_run.get(split, (None, None)) for of_run in sixes]
        if sum(value is not None for value, _ in values) > 1:
            return Line(
                name=NORMALISED,
                split=split,
                held_out=True,
                metric="normalized_average",
                scores=values,
                blocks=[None] * len(found),
            )
    return None


def apart(one: Interval | None, other: Interval | None) -> bool:
    """Returns whether two intervals do not overlap; unknown ones are not told apart."""
    return bool(one and other and (one[0] > other[1] or other[0] > one[1]))
