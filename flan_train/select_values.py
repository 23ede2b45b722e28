"""The per-example values of evaluations, read fast and laid side by side for several steps.

A line of `<step>.jsonl` holds a whole prompt; of a suite with thousands of prompts and tens of
steps that is gigabytes of JSON. What is needed here stands at a line's beginning (which example it
is) and near its end (its values), and JSON escapes quotes inside text, so both are cut out
unparsed. A line that does not look as expected is parsed whole.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flan_train.errors import UserError
from flan_train.scores import Example

_START = b'{"index": '
_LAST_OF_IDENTITY = b', "example_id": '
_AFTER_IDENTITY = b', "inputs": '
_VALUES = b', "values": {'

# (index in the suite, task, example id)
Identity = tuple[int, str, str]
# {metric: the example's statistics for it}
Values = Mapping[str, Sequence[float]]


class StepValues:
    """The values of one suite at several steps, where all were measured on the same examples.

    Attributes:
      steps: those whose per-example results are there and are of the same examples.
      tasks: the rows of each task, int64 [n], in the suite's order.
    """

    def __init__(self, folder: pathlib.Path, steps: Sequence[int]) -> None:
        """Reads `<step>.jsonl` of each step; steps without it, or of other examples, are left out.

        The examples are those of the first step that has any.

        Raises:
          UserError: a line cannot be read; names the file and the line.
        """
        self.steps: list[int] = []
        self.tasks: dict[str, np.ndarray] = {}
        self._values: list[list[Values]] = []
        cache: dict[bytes, Values] = {}
        heads: list[bytes] = []
        identities: list[Identity] = []
        for step in steps:
            these_heads, values = _read(folder / f"{step}.jsonl", cache)
            if not values:
                continue
            if not heads:
                heads = these_heads
                identities = _identities(heads, folder / f"{step}.jsonl")
            elif (
                these_heads != heads
                and _identities(these_heads, folder / f"{step}.jsonl") != identities
            ):
                continue
            self.steps.append(step)
            self._values.append(values)
        rows: dict[str, list[int]] = {}
        for row, (_, task, _) in enumerate(identities):
            rows.setdefault(task, []).append(row)
        self.tasks = {task: np.array(rows[task]) for task in sorted(rows)}

    def of(self, task: str, metric: str) -> np.ndarray | None:
        """Returns a task's values, float64 [n, steps, k]; None where an example has none."""
        rows = self.tasks[task].tolist()
        try:
            columns = [[values[row][metric] for row in rows] for values in self._values]
        except KeyError:
            return None
        return np.array(columns, np.float64).transpose(1, 0, 2)


def _read(path: pathlib.Path, cache: dict[bytes, Values]) -> tuple[list[bytes], list[Values]]:
    """Returns what tells each example from others, and its values; nothing of an absent file."""
    if not path.is_file():
        return [], []
    heads, found = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        end = line.find(_AFTER_IDENTITY)
        start = line.rfind(_VALUES)
        told = line.startswith(_START) and line.find(_LAST_OF_IDENTITY, 0, max(0, end)) >= 0
        if told and start >= 0 and line.endswith(b"}"):
            heads.append(line[:end])
            start += len(_VALUES) - 1
            text = line[start : line.find(b"}", start) + 1]
            values = cache.get(text)
            if values is None:
                try:
                    values = cache[text] = json.loads(text)
                except ValueError as error:
                    raise _broken_line(path, number, error) from error
        else:
            try:
                example = json.loads(line)
                heads.append(_head(example))
                values = _values(example)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise _broken_line(path, number, error) from error
        found.append(values)
    return heads, found


def _broken_line(path: pathlib.Path, number: int, error: Exception) -> UserError:
    why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
    return UserError(
        f"not an evaluated example: {why}",
        where=f"{path}, line {number}",
        expected="one evaluated example a line, as JSON",
        fix="delete the file and the .json beside it, and evaluate that step again",
    )


def _head(example: Example) -> bytes:
    kept = {name: example[name] for name in ("index", "task", "example_id")}
    return json.dumps(kept, ensure_ascii=False).encode()[:-1]


def _identities(heads: Sequence[bytes], path: pathlib.Path) -> list[Identity]:
    found = []
    for number, head in enumerate(heads, start=1):
        try:
            about: dict[str, Any] = json.loads(head + b"}")
            identity = about["index"], about["task"], about["example_id"]
            if list(map(type, identity)) != [int, str, str]:
                raise ValueError("its index, task or example_id is of another type")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _broken_line(path, number, error) from error
        found.append(identity)
    return found


def _values(example: Example) -> Values:
    """Returns an example's values; one of an earlier version says only whether it is right."""
    if "values" in example:
        return dict(example["values"])
    return {"exact_match": [float(example["correct"])]}
