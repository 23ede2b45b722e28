"""What `flan-train checkpoint` does: a run's checkpoints listed, verified and copied.

`checkpoint_prune` removes them.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Collection, Sequence
from typing import Any

from flan_train import (
    checkpoint_files,
    checkpoint_retention,
    checkpoints,
    errors,
    select,
    storage,
    storage_transfer,
    unfinished,
)
from flan_train.checkpoint_names import (
    FOLDER,
    LATEST,
    SELECTED,
    UNFINISHED,
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
      ("whole", "torn", "damaged", "removing" or "unfinished": being written, or left by a save that
      was stopped), "kept": reasons of `checkpoint_retention.reasons` under the settings of the
      newest one, "missing": what a torn one lacks}]. Nothing is read but descriptions: "whole"
      says that all parts are there, `verify` that they are what was saved.

    Raises:
      UserError: there is no such run, or a file of it that cannot be read.
    """
    folder = folder_of(run)
    config = config_of(folder)
    try:
        kept = reasons_of(folder, config.keep, config.keep_every, config.keep_best)
    except errors.UserError:  # the results cannot be ranked: which is best is not known
        kept = reasons_of(folder, config.keep, config.keep_every, 0)
    rows = []
    for path in folder.iterdir():
        number, _, ending = path.name.partition(".")
        if not path.is_dir() or not number.isdecimal():
            continue
        try:
            time = path.stat().st_mtime if isinstance(path, pathlib.Path) else 0.0
            missing = missing_items(path) if not ending else []
            state = ending.split("-")[0] or ("torn" if missing else _at_first_sight(path))
            size = bytes_of(path)
        except FileNotFoundError:
            continue  # a run that goes on has renamed or removed it
        rows.append(
            {
                "folder": path.name,
                "step": int(number),
                "time": time,
                "bytes": size,
                "state": "unfinished" if f".{ending}".startswith(UNFINISHED) else state,
                "kept": kept.get(int(number), []) if state == WHOLE else [],
                "missing": missing,
            }
        )
    return sorted(rows, key=lambda row: (row["step"], row["folder"]))


def _at_first_sight(path: storage.Path) -> str:
    """Returns the state of a checkpoint that has all its parts, by what describes it."""
    try:
        checkpoint_files.read_meta(path)
    except checkpoints.DamagedCheckpoint:
        if not path.exists():
            raise FileNotFoundError(path) from None
        return "damaged"
    return WHOLE


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
    folder = folder_of(run)
    named = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    if step is not None:
        _check_step(folder, step)
        named = [folder / str(step)]
    ordered = sorted(named, key=lambda path: int(path.name))
    return [{"step": int(path.name)} | verified(path) for path in ordered]


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
    folder = folder_of(run)
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
    number = _step_of(source)
    destination = storage.located(to)
    if destination.exists():
        raise errors.UserError(
            f"{destination} exists already", where="--to", expected="a new folder"
        )
    of_a_run = destination.parent.name == FOLDER and destination.name.isdecimal()
    if of_a_run and destination.name != str(number):
        raise errors.UserError(
            f"a run's checkpoint of step {number} cannot be called {destination.name}",
            where="--to",
            expected=f"{destination.with_name(str(number))}, or a folder outside of a run",
            fix="name another folder",
        )
    if isinstance(destination, storage.RemotePath):
        found, size = _copied_to_store(source, destination)
    else:
        found, size = _copied(source, destination)
    return {
        "from": str(source),
        "to": str(destination),
        "step": number,
        "bytes": size,
        "arrays": found["arrays"],
    }


def _copied(source: storage.Path, destination: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Copies to this machine; returns what verifying the copy showed, and its bytes."""
    errors.check_writable("the folder", destination)
    copied = unfinished.beside(destination, _COPYING)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, storage.RemotePath):
            storage_transfer.download(source, copied)
        else:
            storage_transfer.check_links(source)
            shutil.copytree(source, copied)
        found = verified(copied)
        _check_copy(source, found)
        size = bytes_of(copied)
        copied.rename(destination)
    except (OSError, shutil.Error) as error:
        if missing_items(source):
            raise errors.UserError(
                "the checkpoint was removed while it was copied",
                where=str(source),
                expected="one that stays: a run removes those that it does not keep",
                fix="copy another: flan-train checkpoint list shows them",
            ) from error
        raise errors.not_written("the copy", destination, error) from error
    finally:
        shutil.rmtree(copied, ignore_errors=True)
    return found, size


def _copied_to_store(
    source: storage.Path, destination: storage.RemotePath
) -> tuple[dict[str, Any], int]:
    with storage_transfer.fetched(source) as local:
        size = storage_transfer.upload(local, destination)
    found = verified(destination)  # fetched anew
    try:
        _check_copy(source, found)
    except checkpoints.DamagedCheckpoint:
        destination.remove()
        raise
    return found, size


def _step_of(source: storage.Path) -> int:
    if source.name.isdecimal():
        return int(source.name)
    step = checkpoint_files.read_meta(source)[0].get("step")  # a folder that is called "latest"
    if type(step) is not int:
        raise checkpoints.DamagedCheckpoint("its meta holds no step", str(source))
    return step


def _check_copy(source: storage.Path, found: dict[str, Any]) -> None:
    if found["what"]:
        raise checkpoints.DamagedCheckpoint(
            f"the copy is not what was saved: {found['what']}", str(source), found["damaged"]
        )


def folder_of(run: storage.AnyPath) -> storage.Path:
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


def config_of(folder: storage.Path) -> checkpoints.CheckpointConfig:
    """Returns what the run was told to keep: by its newest checkpoint that says so."""
    for step in complete_steps(folder)[::-1]:
        try:
            told = checkpoint_files.read_meta(folder / str(step))[0]["checkpoint"]
            return checkpoints.CheckpointConfig(**told)
        except (checkpoints.DamagedCheckpoint, KeyError, TypeError):
            continue  # of an older version, or damaged
    return checkpoints.CheckpointConfig(keep=None)


def reasons_of(
    folder: storage.Path,
    keep: int | None,
    keep_every: int | None,
    keep_best: int,
    apart: Collection[int] = (),
) -> dict[int, list[str]]:
    """Returns why each complete checkpoint is kept, those `apart` left out."""
    run = folder.parent
    steps = [step for step in complete_steps(folder) if step not in apart]
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


def verified(path: storage.Path) -> dict[str, Any]:
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
    missing = [name for name in ("meta", "data", "params", "opt_state") if name not in recorded]
    if missing and row["state"] == WHOLE:
        return row | {"state": "no checksums", "what": f"none was kept of {', '.join(missing)}"}
    return row


def bytes_of(path: storage.Path) -> int:
    if isinstance(path, storage.RemotePath):
        return 0  # a listing does not tell
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
