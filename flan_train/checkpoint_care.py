"""What `flan-train checkpoint` does: a run's checkpoints listed, verified, pruned and copied."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

from flan_train import (
    checkpoint_files,
    checkpoint_retention,
    checkpoints,
    errors,
    select,
    storage,
    storage_transfer,
)
from flan_train.checkpoint_names import (
    FOLDER,
    LATEST,
    SELECTED,
    checked_folder,
    complete_steps,
    missing_items,
    read_selected,
)

WHOLE = "whole"
_COPYING = "copying"


def listed(run: storage.AnyPath) -> list[dict[str, Any]]:
    """Returns what is in a run's folder of checkpoints, a row each, ascending by step.

    Returns:
      [{"folder", "step", "time" (seconds since 1970), "bytes" (both 0 in an object store), "state"
      ("whole", "torn", "damaged", "writing" or "removing"), "kept": reasons of
      `checkpoint_retention.reasons` under the settings of the newest one, "missing": what a torn
      one lacks}]. Nothing is read but descriptions: "whole" says that all parts are there, `verify`
      that they are what was saved.

    Raises:
      UserError: there is no such run, or a file of it that cannot be read.
    """
    folder = _folder(run)
    config = _config(folder)
    try:
        kept = _reasons(folder, config.keep, config.keep_every, config.keep_best)
    except errors.UserError:  # the results cannot be ranked: which is best is not known
        kept = _reasons(folder, config.keep, config.keep_every, 0)
    rows = []
    for path in folder.iterdir():
        number, _, ending = path.name.partition(".")
        if not path.is_dir() or not number.isdecimal():
            continue
        missing = missing_items(path) if not ending else []
        state = ending.split("-")[0] or ("torn" if missing else WHOLE)
        rows.append(
            {
                "folder": path.name,
                "step": int(number),
                "time": path.stat().st_mtime if isinstance(path, pathlib.Path) else 0.0,
                "bytes": _bytes(path),
                "state": "writing" if state == "orbax" else state,
                "kept": kept.get(int(number), []) if state == WHOLE else [],
                "missing": missing,
            }
        )
    return sorted(rows, key=lambda row: (row["step"], row["folder"]))


def verify(run: storage.AnyPath, step: int | None = None) -> list[dict[str, Any]]:
    """Returns what reading every array of a run's checkpoints shows, a row for each.

    Args:
      run: the run directory.
      step: which one; None for all that are complete, and the torn ones.

    Returns:
      [{"step", "state" ("whole", "torn", "damaged" or "no checksums"), "arrays": how many were
      compared, "bytes": of them, "damaged": their paths ("params/..."), "what": what is wrong}].

    Raises:
      UserError: there is no such run or step, or a file may not be read.
    """
    folder = _folder(run)
    named = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    if step is not None:
        _check_step(folder, step)
        named = [folder / str(step)]
    ordered = sorted(named, key=lambda path: int(path.name))
    return [{"step": int(path.name)} | _verified(path) for path in ordered]


def prune(
    run: storage.AnyPath,
    *,
    keep: int | None,
    keep_every: int | None,
    keep_best: int | None,
    dry_run: bool,
) -> dict[str, Any]:
    """Removes the checkpoints of a run that no rule keeps; never the selected one.

    Args:
      run: the run directory; training must not be going on in it.
      keep: newest to keep; None: as the run was told.
      keep_every: likewise.
      keep_best: likewise.
      dry_run: remove nothing.

    Returns:
      {"removed": [{"step", "bytes"}], "kept": {step: reasons}, "bytes"}.

    Raises:
      UserError: no such run, a rule there cannot be, a selected.json that cannot be read, best ones
        that are asked for and not known, or a folder that cannot be removed.
    """
    folder = _folder(run)
    config = _config(folder)
    keep = config.keep if keep is None else keep
    keep_every = config.keep_every if keep_every is None else keep_every
    names = ("--keep", "--keep_every", "--keep_best")
    asked = config.keep_best if keep_best is None else keep_best
    checkpoint_retention.check_rules(keep, keep_every, asked, names)
    kept = _reasons(folder, keep, keep_every, asked)
    removed = [
        {"step": step, "bytes": _bytes(folder / str(step))}
        for step, reasons in kept.items()
        if not reasons
    ]
    for row in removed:
        if dry_run:
            continue
        try:
            checkpoint_retention.remove(folder / str(row["step"]))
        except OSError as error:
            raise errors.UserError(
                f"the checkpoint of step {row['step']} cannot be removed: {error.strerror}",
                where=str(error.filename or folder),
                expected="files that this user may remove",
            ) from error
    return {
        "removed": removed,
        "kept": {step: reasons for step, reasons in kept.items() if reasons},
        "bytes": sum(row["bytes"] for row in removed),
    }


def copy(run: storage.AnyPath, step: str, to: storage.AnyPath) -> dict[str, Any]:
    """Copies a checkpoint; the copy is verified and appears whole or not at all.

    Args:
      run: the run directory.
      step: its number, "selected" or "latest".
      to: the folder to make; a path of it is good wherever a checkpoint's is, such as
        INITIAL_CHECKPOINT_PATH.

    Returns:
      {"from", "to", "step", "bytes", "arrays": how many were compared}.

    Raises:
      UserError: no such checkpoint, the folder exists or cannot be written.
      DamagedCheckpoint: the checkpoint or its copy is not what was saved.
    """
    folder = _folder(run)
    if step not in (SELECTED, LATEST):
        if not step.isdecimal():
            raise errors.UserError(
                f"--step cannot be {step!r}",
                where="--step",
                expected="a step's number, selected or latest",
            )
        _check_step(folder, int(step))
    source = checked_folder(folder / step)
    if missing := missing_items(source):
        raise errors.UserError(
            f"the checkpoint is incomplete (no {', '.join(missing)})",
            where=str(source),
            expected="a whole one",
            fix="name another step: flan-train checkpoint list shows them",
        )
    destination = storage.located(to)
    if destination.exists():
        raise errors.UserError(
            f"{destination} exists already", where="--to", expected="a new folder"
        )
    if isinstance(destination, storage.RemotePath):
        found, size = _copied_to_store(source, destination)
    else:
        found, size = _copied(source, destination)
    return {
        "from": str(source),
        "to": str(destination),
        "step": int(source.name),
        "bytes": size,
        "arrays": found["arrays"],
    }


def _copied(source: storage.Path, destination: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Copies to this machine; returns what verifying the copy showed, and its bytes."""
    errors.check_writable("the folder", destination)
    copied = destination.with_name(f".{destination.name}.{_COPYING}-{os.getpid()}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, storage.RemotePath):
            storage_transfer.download(source, copied)
        else:
            shutil.copytree(source, copied)
        found = _verified(copied)
        _check_copy(source, found)
        size = _bytes(copied)
        copied.rename(destination)
    except (OSError, shutil.Error) as error:
        raise errors.not_written("the copy", destination, error) from error
    finally:
        shutil.rmtree(copied, ignore_errors=True)
    return found, size


def _copied_to_store(
    source: storage.Path, destination: storage.RemotePath
) -> tuple[dict[str, Any], int]:
    with storage_transfer.fetched(source) as local:
        size = storage_transfer.upload(local, destination)
    found = _verified(destination)  # fetched anew
    try:
        _check_copy(source, found)
    except checkpoints.DamagedCheckpoint:
        destination.remove()
        raise
    return found, size


def _check_copy(source: storage.Path, found: dict[str, Any]) -> None:
    if found["what"]:
        raise checkpoints.DamagedCheckpoint(
            f"the copy is not what was saved: {found['what']}", str(source), found["damaged"]
        )


def _folder(run: storage.AnyPath) -> storage.Path:
    path = storage.located(run)
    folder = path if path.name == FOLDER else path / FOLDER
    if not folder.is_dir():
        raise errors.UserError(
            f"{path} has no checkpoints",
            where=str(folder),
            expected="the MODEL_DIR of a run that has saved at least one",
            fix="check the path",
        )
    return folder


def _check_step(folder: storage.Path, step: int) -> None:
    if not (folder / str(step)).is_dir():
        steps = complete_steps(folder)
        raise errors.UserError(
            f"there is no checkpoint of step {step}",
            where=str(folder),
            expected=f"one of {steps}" if steps else "at least one checkpoint",
            fix="name a step that exists",
        )


def _config(folder: storage.Path) -> checkpoints.CheckpointConfig:
    """Returns what the run was told to keep: by its newest checkpoint that says so."""
    for step in complete_steps(folder)[::-1]:
        try:
            told = checkpoint_files.read_meta(folder / str(step))[0]["checkpoint"]
            return checkpoints.CheckpointConfig(**told)
        except (checkpoints.DamagedCheckpoint, KeyError, TypeError):
            continue  # of an older version, or damaged
    return checkpoints.CheckpointConfig(keep=None)


def _reasons(
    folder: storage.Path, keep: int | None, keep_every: int | None, keep_best: int
) -> dict[int, list[str]]:
    steps, run = complete_steps(folder), folder.parent
    selected = read_selected(run)
    best = _best(run, steps)[:keep_best] if keep_best else []
    return checkpoint_retention.reasons(
        steps,
        keep=keep,
        keep_every=keep_every,
        best=best,
        selected=selected["step"] if selected else None,
    )


def _best(run: storage.Path, steps: Sequence[int]) -> list[int]:
    """Returns the steps from best to worst, by what the run is selected by."""
    # Results are never in an object store.
    if not steps or not isinstance(run, pathlib.Path) or not (run / "eval").is_dir():
        return []
    told = None
    for step in steps[::-1]:
        try:
            told = checkpoint_files.read_meta(run / FOLDER / str(step))[0]["selection"]
            break
        except (checkpoints.DamagedCheckpoint, KeyError):
            continue
    if told is None:
        return []
    try:
        return select.best_steps(run, select.SelectConfig(**told))
    except errors.UserError as error:
        raise errors.UserError(
            f"which checkpoints are best cannot be told: {error.what}",
            where=error.where,
            expected=error.expected,
            fix="--keep_best=0 goes without them",
        ) from error


def _verified(path: storage.Path) -> dict[str, Any]:
    """Returns what `verify` does of one, its step apart."""
    row: dict[str, Any] = {"state": WHOLE, "arrays": 0, "bytes": 0, "damaged": [], "what": ""}
    if missing := missing_items(path):
        return row | {"state": "torn", "what": f"no {', '.join(missing)}"}
    try:
        _, recorded = checkpoint_files.read_meta(path)
        checkpoint_files.read_data(path, recorded)
    except checkpoints.DamagedCheckpoint as error:
        return row | {"state": "damaged", "what": error.what, "damaged": ["meta or data"]}
    for item in ("params", "opt_state"):
        try:
            arrays = checkpoint_files.read_arrays(path, item, None, recorded)
            described = checkpoint_files.described(arrays)
            row["arrays"] += len(described)
            row["bytes"] += checkpoint_files.size(arrays)
            checkpoint_files.compare(path, item, arrays, recorded)
        except checkpoints.DamagedCheckpoint as error:
            row["state"] = "damaged"
            row["damaged"] += [f"{item}/{name}" for name in error.arrays] or [item]
            row["what"] = "; ".join(filter(None, (row["what"], error.what)))
        else:
            if item not in recorded and row["state"] == WHOLE:
                row["state"] = "no checksums"
    return row


def _bytes(path: storage.Path) -> int:
    if isinstance(path, storage.RemotePath):
        return 0  # a listing does not tell
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
