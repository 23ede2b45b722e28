"""The files that an evaluation writes: the finished result, and what is done of an unfinished one.

While a suite runs, finished examples go to `<step>.jsonl.partial`, a line each, in the order they
come; an interrupted evaluation goes on there. Host 0 writes, and all hosts see what it sees.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flan_train.scores import Example, Result, write_whole


def read_finished(path: pathlib.Path) -> Result | None:
    """Returns the complete result a file holds, whatever it is of; None where there is none."""
    try:
        result = json.loads(_from_first_host(path))
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def read_partial(path: pathlib.Path, key: str) -> dict[int, Example]:
    """Returns the finished examples by index that an interrupted evaluation of `key` has left."""
    head, *lines = _from_first_host(path).split("\n")
    if head != _line({"key": key}).strip():
        return {}
    # The part after the last line end is what an interruption cut short.
    found: dict[int, Example] = {}
    for line in lines[:-1]:
        try:
            example = json.loads(line)
            found[int(example["index"])] = example
        except (ValueError, KeyError, TypeError, RecursionError):
            break  # what a crash of the machine has spoilt is evaluated again
    return found


class Partial:
    """The file that finished examples go to until the suite is complete; a context.

    Args:
      path: the file.
      key: what the examples are results of.
      done: finished ones that are there already.
    """

    def __init__(self, path: pathlib.Path, key: str, done: Mapping[int, Example]) -> None:
        self._path = path
        self._start = _line({"key": key}) + "".join(map(_line, done.values()))
        self._writes = jax.process_index() == 0

    def __enter__(self) -> Partial:
        if self._writes:
            # Rewritten without the line that an interruption cut short.
            write_whole(self._path, self._start)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
        return self

    def write(self, example: Example) -> None:
        """Adds a finished example."""
        if self._writes:
            self._file.write(_line(example))

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._file.close()


def write_finished(
    folder: pathlib.Path, step: int, result: Result, examples: list[Example]
) -> None:
    """Writes `<step>.jsonl` and then `<step>.json` on host 0, and removes the partial file."""
    if jax.process_index() == 0:
        write_whole(folder / f"{step}.jsonl", "".join(map(_line, examples)))
        write_whole(
            folder / f"{step}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        )
        partial_path(folder, step).unlink(missing_ok=True)


def partial_path(folder: pathlib.Path, step: int) -> pathlib.Path:
    """Returns where the finished examples of an unfinished evaluation are."""
    return folder / f"{step}.jsonl.partial"


def _from_first_host(path: pathlib.Path) -> str:
    """Returns a file's text as host 0 sees it ("" when absent): all hosts must do the same work."""
    data = path.read_bytes() if jax.process_index() == 0 and path.is_file() else b""
    if jax.process_count() > 1:
        size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
        content = np.zeros(size, np.uint8)
        content[: len(data)] = np.frombuffer(data, np.uint8)
        data = np.asarray(multihost_utils.broadcast_one_to_all(content)).astype(np.uint8).tobytes()
    return data.decode("utf-8", errors="replace")


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"
