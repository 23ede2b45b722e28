"""Saving and restoring the train state and the data position (Orbax).

A checkpoint is a folder with four items: `params`, `opt_state` (arrays), `data` (the position in
the data, a few integers) and `meta` (step, config hash, manifest hash, code version, model, and the
checksums of the other items, which are compared whenever they are read). A parameters-only folder
has just `params` and `meta`, and loads like a checkpoint. Orbax writes under a temporary name and
renames; a step's folder that is incomplete all the same (copied halfway, a file system without
atomic renames) is never listed and never restored.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import orbax.checkpoint as ocp

from flan_train import (
    agreement,
    checkpoint_failures,
    checkpoint_files,
    checkpoint_folder,
    checkpoint_restore,
    checkpoint_retention,
    errors,
    storage,
    t5x_files,
    t5x_params,
)
from flan_train.checkpoint_files import DamagedCheckpoint
from flan_train.checkpoint_names import FOLDER, checked_folder, missing_items
from flan_train.checkpoint_restore import Restored, read_items
from flan_train.checkpoint_retention import CheckpointConfig
from flan_train.checkpoint_writer import CheckpointWriter

__all__ = [
    "FOLDER",
    "CheckpointConfig",
    "Checkpoints",
    "DamagedCheckpoint",
    "Found",
    "Restored",
    "check_params",
    "load_opt_state",
    "load_params",
    "read_checksums",
    "read_meta",
    "read_position",
    "save_params",
]

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """The checkpoint that a run goes on from."""

    step: int
    restored: Restored


class Checkpoints:
    """The checkpoints of one run, in `<model_dir>/checkpoints/<step>`.

    Listing and restoring a step write nothing: another process may look at a run that is going on.
    """

    def __init__(self, model_dir: str | pathlib.Path, config: CheckpointConfig) -> None:
        self.folder = pathlib.Path(model_dir).absolute() / FOLDER
        self.config = config
        self._writer = CheckpointWriter(self.folder, config)
        self._warned: set[str] = set()

    def steps(self) -> list[int]:
        """Returns the steps that have a complete checkpoint, ascending; warns of torn ones."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            if not path.name.isdecimal() or not path.is_dir():
                continue
            missing = missing_items(path)
            if not missing:
                found.append(int(path.name))
            elif path.name not in self._warned:
                self._warned.add(path.name)
                log.warning(
                    "ignoring %s: an incomplete checkpoint (no %s)", path, ", ".join(missing)
                )
        return sorted(found)

    def agreed_steps(self) -> list[int]:
        """Returns what `steps` does in process 0; all processes call this.

        Raises:
          UserError: another process does not see the same checkpoints, or another run is writing
            here.
        """
        steps: list[int] = agreement.of_first(self._steps_of_a_free_folder)
        agreement.together(lambda: checkpoint_folder.check_seen(self.folder, steps, self.steps))
        return steps

    def latest_step(self) -> int | None:
        """Returns the newest step with a complete checkpoint, or None."""
        return max(self.steps(), default=None)

    def path(self, step: int) -> pathlib.Path:
        """Returns the folder of a step, whether or not it exists."""
        return self.folder / str(step)

    def protect(self, steps: Collection[int]) -> None:
        """Keeps these steps, such as the best ones, from being removed from the next save on."""
        self._writer.protected = frozenset(steps)

    def save(
        self,
        step: int,
        params: Any,
        opt_state: Any,
        data_state: Mapping[str, Any],
        meta: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint in the background; the arrays may be donated once this returns.

        A step that has a checkpoint keeps it. Once it is whole, those that `config` does not keep
        are removed. A folder that was emptied or removed meanwhile is made again, with a warning.

        Args:
          step: updates made.
          params: the parameters.
          opt_state: the optimizer's state.
          data_state: the position in the data; anything JSON holds.
          meta: what is to be known of the checkpoint; `step` is added to it.

        Raises:
          UserError: this one or the one before cannot be written.
        """
        self._writer.save(step, params, opt_state, data_state, meta)

    def restore(self, step: int, abstract_params: Any, abstract_opt_state: Any) -> Restored:
        """Returns the checkpoint of `step`, placed as the abstract arrays' shardings say.

        Raises:
          UserError: no such checkpoint, or one of another model.
          DamagedCheckpoint: it cannot be read, or does not hold what was saved.
        """

        def check() -> None:
            self.wait()
            if step not in (steps := self.steps()):
                raise errors.UserError(
                    f"there is no complete checkpoint of step {step}",
                    where=str(self.folder),
                    expected=f"one of {steps}" if steps else "at least one checkpoint",
                    fix="name a step that exists",
                )

        agreement.together(check)
        return checkpoint_restore.restore(self.path(step), abstract_params, abstract_opt_state)

    def newest_restorable(
        self, abstract_params: Any, abstract_opt_state: Any, *, strict: bool = False
    ) -> Found | None:
        """Returns the newest checkpoint that is what was saved, or None where there is none at all.

        Newer ones that are not are set aside as `<step>.damaged`, loudly; torn ones are passed
        over. With several processes all of them call this and go on from the same step.

        Args:
          abstract_params: shapes and shardings of the parameters.
          abstract_opt_state: those of the optimizer's state.
          strict: refuse a damaged or torn checkpoint instead of going on from an earlier one.

        Raises:
          UserError: there are checkpoints, but none can be used; the newest is of another model;
            the processes do not see the same ones.
          DamagedCheckpoint: `strict`, and the newest one is damaged or torn.
        """
        candidates = self.agreed_steps()[::-1]
        if strict:
            agreement.together(
                lambda: checkpoint_folder.check_none_torn(self.folder, candidates),
                DamagedCheckpoint,
            )
        damaged: list[tuple[int, DamagedCheckpoint]] = []
        for step in candidates:
            try:
                restored = checkpoint_restore.restore(
                    self.path(step), abstract_params, abstract_opt_state
                )
            except DamagedCheckpoint as error:
                if strict:
                    raise DamagedCheckpoint(
                        f"the checkpoint of step {step} is damaged, and --strict was given: "
                        f"{error.what}",
                        error.where,
                        error.arrays,
                    ) from error
                damaged.append((step, error))
                continue
            self._set_damaged_aside(damaged, step)
            return Found(step, restored)
        agreement.together(
            lambda: checkpoint_folder.check_some_usable(self.folder, candidates, damaged)
        )
        return None

    def wait(self) -> None:
        """Returns when all that was saved is on disk and what is not kept is removed.

        A checkpoint that was lost because its folder was removed meanwhile is told by a warning.

        Raises:
          UserError: it could not be written; nothing of it is left.
        """
        self._writer.wait()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self._writer.close()

    def _steps_of_a_free_folder(self) -> list[int]:
        self._writer.check_free()
        return self.steps()

    def _set_damaged_aside(
        self, damaged: Sequence[tuple[int, DamagedCheckpoint]], instead: int
    ) -> None:
        def rename() -> list[str]:
            if jax.process_index():
                return []
            ending = checkpoint_retention.DAMAGED
            return [
                checkpoint_retention.set_aside(self.path(step), ending).name for step, _ in damaged
            ]

        if not damaged:
            return
        for (step, error), name in zip(damaged, agreement.of_first(rename), strict=True):
            log.error(
                "THE CHECKPOINT OF STEP %s IS DAMAGED: %s. It was set aside as %s; the run goes on "
                "from the checkpoint of step %s.",
                f"{step:,}",
                error.what,
                name,
                f"{instead:,}",
            )


def save_params(path: str | pathlib.Path, params: Any, meta: Mapping[str, Any]) -> None:
    """Writes a parameters-only folder that `load_params` and INITIAL_CHECKPOINT_PATH accept.

    Args:
      path: the folder to make; must not exist.
      params: nested dict of numpy or JAX arrays.
      meta: kept beside them; `meta["model"]` are the fields of the model's config.

    Raises:
      UserError: the folder exists, or cannot be made or written to.
    """
    path = pathlib.Path(path).absolute()
    if path.exists():
        raise errors.UserError(
            f"{path} exists already", expected="a new folder", fix="name another, or remove it"
        )
    errors.check_writable("the folder", path)
    meta = checkpoint_files.with_checksums(meta, {"params": params})
    checkpoint_failures.told_once()
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler("params", "meta")) as writer:
            writer.save(
                path,
                args=ocp.args.Composite(
                    params=checkpoint_files.save_arguments(params), meta=ocp.args.JsonSave(meta)
                ),
            )
    except checkpoint_failures.WRITING as error:
        checkpoint_failures.remove_unfinished(path)
        raise errors.not_written("the folder", path, error) from error


def load_params(path: storage.AnyPath, abstract_params: Any = None) -> tuple[Any, dict[str, Any]]:
    """Returns (params, meta) of a parameters-only folder or of a run's `checkpoints/<step>`.

    A native T5X checkpoint folder will do as well; its optimizer's state is not read.

    Args:
      path: the folder; for the step, "selected" or "latest" will do (`checkpoint_names.find`).
      abstract_params: ShapeDtypeStructs with the shardings wanted; None gives whatever is there
        as numpy arrays.

    Raises:
      UserError: nothing there, not a checkpoint, or one of another model.
      DamagedCheckpoint: it cannot be read, or does not hold what was saved.
    """
    if t5x_files.is_t5x(path):
        return t5x_params.load_params(path, abstract_params)
    folder = checked_folder(path)
    meta, recorded = checkpoint_files.read_meta(folder)
    return read_items(folder, {"params": abstract_params}, recorded)["params"], meta


def load_opt_state(path: storage.AnyPath) -> dict[str, Any] | None:
    """Returns a checkpoint's optimizer state, numpy arrays under its fields' names.

    None where there is none: the folder holds parameters alone.

    Raises:
      UserError: as `load_params` does.
    """
    folder = checked_folder(path)
    if not (folder / "opt_state").is_dir():
        return None
    _, recorded = checkpoint_files.read_meta(folder)
    return cast(dict[str, Any], read_items(folder, {"opt_state": None}, recorded)["opt_state"])


def check_params(path: storage.AnyPath, abstract_params: Any) -> None:
    """Raises the UserError that `load_params` would for this model, without reading an array."""
    if t5x_files.is_t5x(path):
        t5x_params.check_params(path, abstract_params)
        return
    folder = checked_folder(path)
    _, recorded = checkpoint_files.read_meta(folder)
    checkpoint_files.check_same(folder, "params", abstract_params, recorded)


def read_meta(path: storage.AnyPath) -> dict[str, Any]:
    """Returns the `meta` of a checkpoint without reading its arrays; raises as `load_params`.

    Its checksums are not in it: `read_checksums` returns them.
    """
    if t5x_files.is_t5x(path):
        return t5x_params.read_meta(path)
    return checkpoint_files.read_meta(checked_folder(path))[0]


def read_checksums(path: storage.AnyPath) -> dict[str, Any]:
    """Returns the checksums of a checkpoint, empty where none are kept; raises as `load_params`.

    See `checkpoint_files` for what they are.
    """
    return checkpoint_files.read_meta(checked_folder(path))[1]


def read_position(path: storage.AnyPath) -> dict[str, Any]:
    """Returns the data position of a checkpoint, what `save` was given; raises as `load_params`."""
    folder = checked_folder(path)
    return checkpoint_files.read_data(folder, checkpoint_files.read_meta(folder)[1])
