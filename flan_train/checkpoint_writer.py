"""Writing the checkpoints of a run in the background, and removing those that are not kept."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from flan_train import (
    agreement,
    checkpoint_failures,
    checkpoint_files,
    checkpoint_lock,
    checkpoint_mirror,
    checkpoint_retention,
    errors,
)
from flan_train.checkpoint_failures import WRITING
from flan_train.checkpoint_names import (
    ITEMS,
    UNFINISHED,
    complete_steps,
    missing_items,
    read_selected,
)
from flan_train.checkpoint_retention import CheckpointConfig

log = logging.getLogger(__name__)

# What is said of files that are not there; Orbax has more ways to say it.
_GONE = ("NOT_FOUND", "No such file or directory", "does not exist", "No ArrayMetadata found")


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        # The loop asks JAX's preemption sync point itself; one that is asked twice, with other
        # numbers, would let no process stop.
        return False


class CheckpointWriter:
    """Writes checkpoints to `<model_dir>/checkpoints`; see `checkpoints.Checkpoints`.

    Args:
      folder: where the steps' folders are.
      config: which are kept.
    """

    def __init__(self, folder: pathlib.Path, config: CheckpointConfig) -> None:
        self.folder = folder
        self.config = config
        self.protected: Collection[int] = ()  # kept from the next save on
        self._manager: ocp.CheckpointManager | None = None
        self._lock = checkpoint_lock.Lock(folder)
        # What follows on a save in the background; it tells what went wrong.
        self._after = concurrent.futures.ThreadPoolExecutor(1, "after_save")
        # The step, what follows on its save, the folder it is written to.
        self._saving: tuple[int, concurrent.futures.Future[None], int | None] | None = None
        self._written: set[int] = set()
        self._copies = (
            checkpoint_mirror.Mirror(folder.parent, config.copied_to) if config.copied_to else None
        )
        self._lost: int | None = None  # the last step, if somebody removed what was written of it
        checkpoint_failures.told_once()

    def save(
        self,
        step: int,
        params: Any,
        opt_state: Any,
        data_state: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint in the background; see `checkpoints.Checkpoints.save`."""
        there = agreement.of_first(self._waited)
        if step in there:
            return
        # Process 0 removes those that are not kept: what is gone, it alone can tell.
        if jax.process_index() == 0 and (gone := sorted(self._written.difference(there))):
            log.warning(
                "the checkpoints of %s are gone from %s: something else has removed them",
                _listed(gone),
                self.folder,
            )
            self._written.difference_update(gone)
        arrays = {"params": params, "opt_state": opt_state}
        described = {**meta, "step": step, "checkpoint": dataclasses.asdict(self.config)}
        data = dict(data_state)
        described = checkpoint_files.with_checksums(described, arrays, data)
        try:
            manager = self._writer()
            if step in manager.all_steps():
                manager.reload()
            manager.save(
                step,
                args=ocp.args.Composite(
                    params=checkpoint_files.save_arguments(params),
                    opt_state=checkpoint_files.save_arguments(opt_state),
                    data=ocp.args.JsonSave(data),
                    meta=ocp.args.JsonSave(described),
                ),
                force=True,
            )
        except WRITING as error:
            raise self._not_saved(step, error) from error
        after = self._after.submit(self._finish, manager, step, frozenset(self.protected))
        self._saving = step, after, _opened(self.folder / f"{step}{UNFINISHED}")

    def wait(self) -> None:
        """Returns when all is on disk; see `checkpoints.Checkpoints.wait`."""
        if self._saving is None:
            return
        (step, saving, folder), self._saving = self._saving, None
        try:
            saving.result()
        except WRITING as error:
            if self._was_removed(error, folder):
                self._lost = step
                self._forget_manager()
                self._remove_unfinished(step)
                log.warning(
                    "the checkpoint of step %s is lost: something else has removed %s while it was "
                    "written",
                    f"{step:,}",
                    self.folder,
                )
                return
            raise self._not_saved(step, error) from error
        finally:
            if folder is not None:
                os.close(folder)
        self._lost = None

    def close(self) -> None:
        """Waits, and ends the background threads."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._forget_manager()
            self._lock.release()

    def check_free(self) -> None:
        """Raises UserError while another process writes checkpoints here."""
        self._lock.check_free()

    def _waited(self) -> list[int]:
        """Returns the complete steps, once all that was saved is on disk."""
        self.wait()
        return complete_steps(self.folder)

    def _writer(self) -> ocp.CheckpointManager:
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.take()
        if self._manager is None:
            if jax.process_index() == 0:
                self._set_torn_aside()
                checkpoint_retention.remove_leftovers(self.folder)
            self._manager = _Manager(
                self.folder,
                item_names=ITEMS,
                options=ocp.CheckpointManagerOptions(
                    create=True,
                    cleanup_tmp_directories=True,
                    # Removing is ours: Orbax's, stopped in the middle, leaves a torn checkpoint.
                    preservation_policy=ocp.checkpoint_managers.LatestN(None),
                    enable_async_checkpointing=True,
                    # Where that fails, threads would go on waiting for it.
                    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                ),
            )
        return self._manager

    def _finish(self, manager: ocp.CheckpointManager, step: int, protected: frozenset[int]) -> None:
        """Waits until a checkpoint is whole, and removes those that are not kept."""
        manager.wait_until_finished()
        self._written.add(step)
        if jax.process_index():
            return
        # Read anew each time: another process may select while this one trains.
        try:
            selected = read_selected(self.folder.parent)
        except errors.UserError as error:
            log.warning("no checkpoint is removed, for which is selected is not known: %s", error)
            return
        kept = checkpoint_retention.reasons(
            complete_steps(self.folder),
            keep=self.config.keep,
            keep_every=self.config.keep_every,
            best=protected,
            selected=selected["step"] if selected else None,
        )
        if self._copies is not None:
            whole = [each for each, reasons in kept.items() if reasons]
            self._copies.update(whole, set(kept).difference(whole))
        for old, reasons in kept.items():
            if reasons:
                continue
            self._written.discard(old)
            try:
                checkpoint_retention.remove(self.folder / str(old))
            except OSError as error:  # what is too much does no harm but to the disk's room
                log.warning("the checkpoint of step %s cannot be removed: %s", old, error)

    def _not_saved(self, step: int, error: Exception) -> errors.UserError:
        """Returns the error for a checkpoint that cannot be written; removes what is left of it."""
        self._forget_manager()
        self._remove_unfinished(step)
        last = max(complete_steps(self.folder), default=None)
        on = (
            "starts anew, for there is no checkpoint"
            if last is None
            else f"goes on at step {last:,}"
        )
        return errors.UserError(
            f"the checkpoint of step {step:,} cannot be written: {errors.reason(error)}",
            where=str(self.folder),
            expected="a folder that can be written to, with enough space",
            fix=f"make room or mend the folder, and run the same command again: it {on}",
        )

    def _was_removed(self, error: Exception, folder: int | None) -> bool:
        """Returns whether somebody removed what was being written, for the first time running."""
        missing = (
            isinstance(error, FileNotFoundError)
            or any(word in str(error) for word in _GONE)
            # No name leads to it any more.
            or (folder is not None and os.fstat(folder).st_nlink == 0)
        )
        # Several processes would have to agree on going on.
        return missing and self._lost is None and jax.process_count() == 1

    def _remove_unfinished(self, step: int) -> None:
        if jax.process_index() == 0:
            checkpoint_failures.remove_unfinished(self.folder / str(step))

    def _forget_manager(self) -> None:
        """Ends Orbax's manager, whose threads would raise again what they have raised."""
        manager, self._manager = self._manager, None
        if manager is None:
            return
        for _ in range(4):
            try:
                manager.close()
                break
            except WRITING:  # each of its parts raises it once more
                continue

    def _set_torn_aside(self) -> None:
        # A torn folder bears the name of a step that will be saved again.
        for path in sorted(self.folder.iterdir()):
            if path.is_dir() and path.name.isdecimal() and missing_items(path):
                aside = checkpoint_retention.set_aside(path, checkpoint_retention.TORN)
                log.warning("set the incomplete checkpoint %s aside as %s", path, aside.name)


def _opened(folder: pathlib.Path) -> int | None:
    """Returns a handle on a folder, or None where there is none: it has its final name already."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def _listed(steps: Sequence[int]) -> str:
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(f"{step:,}" for step in steps)
