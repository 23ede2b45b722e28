"""Keeping a copy of a run's checkpoints in an object store, while it trains."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Collection

from flan_train import checkpoint_names, storage, storage_transfer
from flan_train.errors import UserError

log = logging.getLogger(__name__)


def update(folder: pathlib.Path, url: str, kept: Collection[int]) -> bool:
    """Copies the checkpoints that are kept and not there yet, then removes those not kept.

    A store that cannot be reached does not stop the run: the next call copies what is missing.

    Args:
      folder: a run's folder of checkpoints.
      url: where the copies go, as `<url>/checkpoints/<step>`.
      kept: the steps to keep, all of them complete in `folder`.

    Returns:
      Whether all are there now.
    """
    there = storage.RemotePath(url) / checkpoint_names.FOLDER
    try:
        complete = checkpoint_names.complete_steps(there)
        for step in sorted(set(kept).difference(complete)):
            place = there / str(step)
            place.remove()  # what a copy that was killed has left
            storage_transfer.upload(folder / str(step), place)
        for step in sorted(set(complete).difference(kept)):
            (there / str(step)).remove()
    except (UserError, ValueError, OSError) as error:
        log.error("THE CHECKPOINTS COULD NOT BE COPIED TO %s, which is tried again: %s", url, error)
        return False
    return True


def check(url: str | None) -> None:
    """Raises UserError when a setting is no address in an object store."""
    if url is not None and not storage.is_remote(url):
        raise UserError(
            f"CHECKPOINTS_COPIED_TO cannot be {url!r}",
            where="CHECKPOINTS_COPIED_TO",
            expected="gs://bucket/folder or s3://bucket/folder, or None",
        )
    if url is not None:
        storage.located(url)


def check_nothing_newer(folder: pathlib.Path, url: str | None, latest: int | None) -> None:
    """Raises UserError when the copies go further than what the run would go on from.

    Args:
      folder: the run's folder of checkpoints.
      url: where the copies go; None for nowhere.
      latest: the run's newest step; None where it has none.

    Raises:
      UserError: also when the store cannot be reached.
    """
    if url is None:
        return
    there = storage.RemotePath(url) / checkpoint_names.FOLDER
    newest = max(checkpoint_names.complete_steps(there), default=None)
    if newest is not None and (latest is None or newest > latest):
        raise UserError(
            f"the copies of the checkpoints go up to step {newest}, those of MODEL_DIR "
            + ("are none" if latest is None else f"to {latest}"),
            where=f"CHECKPOINTS_COPIED_TO: {there}",
            expected="no newer ones there: the run would begin behind them and replace them",
            fix=f"flan-train checkpoint copy {url} --step={newest} --to={folder / str(newest)}, or "
            "name another CHECKPOINTS_COPIED_TO",
        )
