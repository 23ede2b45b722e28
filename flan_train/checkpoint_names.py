"""Which checkpoint a path means: a step's folder, or one of a run's by name; needs no JAX.

`RUN_DIR/checkpoints/selected` (or `RUN_DIR/selected`) is the step that selected.json names,
`RUN_DIR/checkpoints/latest` the newest complete one. A folder that is really called so comes first.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from flan_train import storage, t5x_files
from flan_train.errors import UserError, check_local

FOLDER = "checkpoints"
ITEMS = ("params", "opt_state", "data", "meta")
SELECTED = "selected"
LATEST = "latest"
SELECTION_FILE = "selected.json"
JSON_FILE = "metadata"  # the file Orbax's JSON handler keeps an item in
_COMMITTED = "_CHECKPOINT_METADATA"  # what Orbax writes last into a step's folder
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that Orbax has not finished


def find(path: storage.AnyPath) -> storage.Path:
    """Returns the absolute path, or the place in an object store, that a checkpoint's path means.

    Only the names "selected" and "latest" are looked up; any other path comes back as it is,
    whether or not something is there.

    Raises:
      UserError: nothing has been selected in that run, the selected step has no checkpoint any
        more, or the run has no checkpoint at all.
    """
    path = storage.located(path)
    if path.name not in (SELECTED, LATEST) or path.exists():
        return path
    run = path.parent.parent if path.parent.name == FOLDER else path.parent
    folder = run / FOLDER
    if not folder.is_dir():
        return path  # no run: whoever reads it says that nothing is there
    steps = complete_steps(folder)
    if path.name == LATEST:
        if not steps:
            raise UserError(
                "the run has no complete checkpoint yet",
                where=str(folder),
                expected="at least one",
                fix="wait for the first one, or name another run",
            )
        return folder / str(steps[-1])
    selected = read_selected(run)
    if selected is None:
        raise UserError(
            "no checkpoint of the run has been selected yet",
            where=str(run / SELECTION_FILE),
            expected="a file written by training with EVAL_SUITES, or by flan-train select",
            fix=f"flan-train select {run}, or name a step: {_listed(folder, steps)}",
        )
    if selected["step"] not in steps:
        raise UserError(
            f"the selected checkpoint, of step {selected['step']}, is not there any more",
            where=str(folder / str(selected["step"])),
            expected=f"a step that is there: {', '.join(map(str, steps))}"
            if steps
            else "a checkpoint",
            fix=f"flan-train select {run} chooses among those that are left"
            if steps
            else "copy it back",
        )
    return folder / str(selected["step"])


def checked_folder(path: storage.AnyPath) -> storage.Path:
    """Returns the folder that a checkpoint's path means; it holds `params` and `meta`.

    Raises:
      UserError: as `find` does; or what is there is no checkpoint, the message says what it is.
    """
    path = find(path)
    if not path.exists():
        raise UserError(
            f"there is no checkpoint {path}",
            expected="a folder written by a run (checkpoints/<step>) or by flan-train convert",
            fix="correct the path; a checkpoint that was asked for is never replaced by random "
            "parameters",
        )
    if (path / "params").is_dir() and (path / "meta" / JSON_FILE).is_file():
        return path
    if t5x_files.is_t5x(path):
        raise UserError(
            f"{path} is a native T5X checkpoint",
            expected="a checkpoint of ours here",
            fix=f"flan-train convert t5x-to-flan --from={path} --to=DIR, and name DIR",
        )
    foreign = t5x_files.steps_inside(path)
    if foreign:
        raise UserError(
            f"{path} is not a checkpoint: it holds those of T5X",
            expected="one of them, by its step",
            fix=f"name it, such as {path / f'checkpoint_{foreign[-1]}'}",
        )
    run = path.parent if path.name == FOLDER else path
    inside = complete_steps(run / FOLDER)
    name = SELECTED if (run / SELECTION_FILE).is_file() else str(max(inside, default=""))
    raise UserError(
        f"{path} is not a checkpoint",
        expected="a folder with params/ and meta/",
        fix=f"name one of this run's checkpoints, such as {run / FOLDER / name}"
        if inside
        else "name a folder written by a run (checkpoints/<step>) or by flan-train convert",
    )


def local_folder(path: storage.AnyPath) -> pathlib.Path:
    """Returns what `checked_folder` does, of a checkpoint on this machine; raises as it does."""
    folder = checked_folder(path)
    if not isinstance(folder, pathlib.Path):
        check_local("the checkpoint", folder)
    return pathlib.Path(str(folder))


def read_selected(model_dir: storage.AnyPath) -> dict[str, Any] | None:
    """Returns what a run's selected.json holds, or None when nothing has been selected yet.

    Raises:
      UserError: the file cannot be read, or is no selection.
    """
    path = storage.located(model_dir) / SELECTION_FILE
    if not path.is_file():
        return None
    try:
        selected = json.loads(path.read_text("utf-8"))
        if not {"step", "metric", "score"} <= selected.keys():
            raise ValueError("keys are missing")
        if type(selected["step"]) is not int or selected["step"] < 0:
            raise ValueError('"step" is no whole number')
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"not a selection: {error}",
            where=str(path),
            expected='JSON with "step", "metric" and "score"',
            fix="delete it, and write it again with flan-train select RUN_DIR",
        ) from error
    return dict(selected)


def complete_steps(folder: storage.Path) -> list[int]:
    """Returns the steps in a run's folder of checkpoints that have all their parts, ascending."""
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if path.name.isdecimal() and path.is_dir() and not missing_items(path)
    )


def missing_items(path: storage.Path) -> list[str]:
    """Returns what a step's folder lacks; empty for a complete checkpoint."""
    missing = [name for name in (_COMMITTED, *ITEMS) if not (path / name).exists()]
    files = zip(ITEMS, ("_METADATA", "_METADATA", JSON_FILE, JSON_FILE), strict=True)
    within = [f"{name}/{file}" for name, file in files if name not in missing]
    return missing + [name for name in within if not (path / name).is_file()]


def _listed(folder: storage.Path, steps: list[int]) -> str:
    return str(folder / str(steps[-1])) if steps else "there is none yet"
