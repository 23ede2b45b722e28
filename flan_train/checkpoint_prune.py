"""What `flan-train checkpoint prune` does: a run's checkpoints removed that no rule keeps."""

from __future__ import annotations

import pathlib
from contextlib import nullcontext
from typing import Any

from flan_train import checkpoint_care, checkpoint_lock, checkpoint_retention, errors, storage

DAMAGED = "damaged"  # why one stays that is no more what was saved


def prune(
    run: storage.AnyPath,
    *,
    keep: int | None,
    keep_every: int | None,
    keep_best: int | None,
    dry_run: bool,
) -> dict[str, Any]:
    """Removes the checkpoints of a run that no rule keeps, and what saves that failed have left.

    Never the selected one, and none that was set aside. As newest count those that are what was
    saved: these are read, and damaged ones among them neither counted nor removed.

    Args:
      run: the run directory.
      keep: newest to keep; None: as the run was told.
      keep_every: likewise.
      keep_best: likewise.
      dry_run: remove nothing.

    Returns:
      {"removed": [{"step", "bytes"}], "leftovers": [{"folder", "bytes"}] of
      `checkpoint_retention.leftovers`, "kept": {step: reasons}, "bytes": of both}.

    Raises:
      UserError: no such run, a rule there cannot be, a selected.json that cannot be read, best ones
        that are asked for and not known, a run that is writing checkpoints there, none that is
        what was saved among those to stay, or a folder that cannot be removed.
    """
    folder = checkpoint_care.folder_of(run)
    local = folder if isinstance(folder, pathlib.Path) else None
    if local is not None:
        checkpoint_lock.Lock(local).check_free()
    with nullcontext() if local is None or dry_run else checkpoint_lock.held(local):
        return _pruned(folder, keep, keep_every, keep_best, dry_run)


def _pruned(
    folder: storage.Path,
    keep: int | None,
    keep_every: int | None,
    keep_best: int | None,
    dry_run: bool,
) -> dict[str, Any]:
    config = checkpoint_care.config_of(folder)
    keep = config.keep if keep is None else keep
    keep_every = config.keep_every if keep_every is None else keep_every
    names = ("--keep", "--keep_every", "--keep_best")
    asked = config.keep_best if keep_best is None else keep_best
    checkpoint_retention.check_rules(keep, keep_every, asked, names)
    kept = _reasons_of_whole_ones(folder, keep, keep_every, asked)
    gone = [folder / str(step) for step, reasons in kept.items() if not reasons]
    removed: list[dict[str, Any]] = [
        {"step": int(path.name), "bytes": checkpoint_care.bytes_of(path)} for path in gone
    ]
    left = checkpoint_retention.leftovers(folder)
    leftovers: list[dict[str, Any]] = [
        {"folder": path.name, "bytes": checkpoint_care.bytes_of(path)} for path in left
    ]
    if not dry_run:
        for path in (*gone, *left):
            _remove(path)
    return {
        "removed": removed,
        "leftovers": leftovers,
        "kept": {step: reasons for step, reasons in kept.items() if reasons},
        "bytes": sum(row["bytes"] for row in (*removed, *leftovers)),
    }


def _remove(path: storage.Path) -> None:
    try:
        checkpoint_retention.remove(path)
    except OSError as error:
        raise errors.UserError(
            f"the checkpoint {path.name} cannot be removed: {error.strerror}",
            where=str(error.filename or path.parent),
            expected="files that this user may remove",
        ) from error


def _reasons_of_whole_ones(
    folder: storage.Path, keep: int | None, keep_every: int | None, keep_best: int
) -> dict[int, list[str]]:
    """Returns `checkpoint_care.reasons_of`, where damaged checkpoints do not count as newest.

    Raises:
      UserError: something would go, and none of those that stay is what was saved.
    """
    kept = checkpoint_care.reasons_of(folder, keep, keep_every, keep_best)
    if all(kept.values()):
        return kept  # nothing goes: which are good does not matter
    good: list[int] = []
    damaged: list[int] = []
    for step in sorted(kept, reverse=True):
        if len(good) == keep:
            break
        row = checkpoint_care.verified(folder / str(step))
        (good if row["state"] == checkpoint_care.WHOLE else damaged).append(step)
    if not good:
        raise errors.UserError(
            "none of the run's checkpoints is what was saved: none is removed",
            where=str(folder),
            expected="at least one whole checkpoint among those that stay",
            fix="flan-train checkpoint verify shows what is wrong with each",
        )
    rules = checkpoint_care.reasons_of(folder, keep, keep_every, keep_best, apart=damaged)
    return dict(sorted({**rules, **{step: [DAMAGED] for step in damaged}}.items()))
