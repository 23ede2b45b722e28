"""How far scores could be off, and which steps could as well have been chosen: a paired bootstrap.

The examples of each task are drawn again, with replacement, as many as there are; all steps are
scored on the same draws, so that what the steps have in common, such as how hard the drawn examples
are, cancels out of their difference. The tasks stay as they are. Draws depend on the task's name
and size alone: the same every time, and for a task in two suites.

Axis letters: R draws, n examples, S steps, k statistics of an example.
"""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flan_train.select_metric import NORMALIZED, Term, suites_of
from flan_train.select_values import StepValues
from flan_train.tasks.metrics import METRICS, RESAMPLES
from flan_train.tasks.protocol import protocol_of

_SEED = 20221020
_COUNTS_AT_ONCE = 1 << 21
# Differences below this are rounding: scores are sums of a few thousand float64 numbers.
ROUNDING = 1e-9


def draws(
    folder: pathlib.Path, parts: Sequence[Term], filed: Mapping[str, str], steps: Sequence[int]
) -> dict[int, np.ndarray]:
    """Returns each step's score on resampled examples, float64 [R], the same draws for all steps.

    Args:
      folder: the run's `eval`.
      parts: what the score is the sum of.
      filed: under what name each suite's results are.
      steps: the first is the one that others are compared with. A step is left out where its
        per-example results are not there, or are of other examples than the first's; all are
        where the first's are not there.

    Raises:
      UserError: a per-example file that cannot be read.
    """
    suites = suites_of(parts)
    left, loaded = list(steps), {}
    for suite in suites:
        values = loaded[suite] = StepValues(folder / filed[suite], left)
        left = values.steps
        if steps[0] not in left:
            return {}
    total = np.zeros((RESAMPLES, len(left)))
    for suite, values in loaded.items():
        columns = [values.steps.index(step) for step in left]
        for part in (part for part in parts if part.suite == suite):
            drawn = _mean_over_tasks(values, columns, part.metric)
            if drawn is None:
                return {}
            total += part.weight * drawn
    return {step: total[:, place] for place, step in enumerate(left)}


def within_noise(difference: Sequence[float]) -> bool:
    """Returns whether the interval of (chosen minus other) leaves it open which is better."""
    return difference[0] <= ROUNDING


def _mean_over_tasks(values: StepValues, columns: Sequence[int], metric: str) -> np.ndarray | None:
    """Returns the mean over the tasks that have the metric, float64 [R, S]; None if none has."""
    total, tasks = np.zeros((RESAMPLES, len(columns))), 0
    for task in values.tasks:
        rows = _rows(values, task, metric)
        if rows is None:
            continue
        drawn = _resampled(task, rows[:, columns], metric)
        if not np.isnan(drawn).all():  # such as AUC-ROC of one class: it has no score either
            total += drawn
            tasks += 1
    return total / tasks if tasks else None


def _rows(values: StepValues, task: str, metric: str) -> np.ndarray | None:
    found = values.of(task, metric)
    if found is None and metric == NORMALIZED:
        plain, chance = values.of(task, "exact_match"), protocol_of(task).chance
        if plain is not None and chance is not None:
            return (plain - chance) / (1 - chance)
    return found


def _resampled(task: str, rows: np.ndarray, metric: str) -> np.ndarray:
    """Returns what the metric comes to on each draw, float64 [R, S], of rows [n, S, k]."""
    about = METRICS[metric]
    count, steps, size = rows.shape
    done = []
    for counts in _counts(task, count):
        if about.kind == "mean":
            done.append(counts @ rows[..., 0] / count)
        elif about.kind == "sums":
            sums = (counts @ rows.reshape(count, -1)).reshape(-1, steps, size)
            done.append(np.array([[about.combine(one) for one in row] for row in sums]))
        else:
            chosen = [np.repeat(np.arange(count), row.astype(np.int64)) for row in counts]
            done.append(
                np.array([[about.combine(rows[pick, s]) for s in range(steps)] for pick in chosen])
            )
    return np.concatenate(done)


def _counts(task: str, count: int) -> Iterator[np.ndarray]:
    """Yields how often each example is drawn, float64 [some draws, n]; R draws in all."""
    random = np.random.default_rng([_SEED, zlib.crc32(task.encode()), count])
    at_once = max(1, _COUNTS_AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        drawn = random.integers(count, size=(size, count), dtype=np.int64)
        drawn += np.arange(size)[:, None] * count
        counts = np.bincount(drawn.ravel(), minlength=size * count)
        yield counts.reshape(size, count).astype(np.float64)
