"""Restoring one checkpoint: read, compared with its checksums, by all processes or by none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from flan_train import agreement, checkpoint_files, storage
from flan_train.checkpoint_files import DamagedCheckpoint

log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What `Checkpoints.restore` returns; `data` and `meta` are what was given to `save`.

    `meta` also has "step" and, under "checkpoint", the CheckpointConfig it was saved with.
    """

    params: Any
    opt_state: Any
    data: dict[str, Any]
    meta: dict[str, Any]


def restore(path: storage.Path, abstract_params: Any, abstract_opt_state: Any) -> Restored:
    """Returns a step's checkpoint; arguments and errors as those of `Checkpoints.restore`."""

    def described() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        meta, recorded = checkpoint_files.read_meta(path)
        if not {"params", "opt_state", "data", "meta"} <= recorded.keys():
            raise DamagedCheckpoint(
                "the checkpoint has lost its checksums, which a run always saves",
                str(path / "meta"),
            )
        return meta, recorded, checkpoint_files.read_data(path, recorded)

    meta, recorded, data = agreement.together(described, DamagedCheckpoint)
    abstract = {"params": abstract_params, "opt_state": abstract_opt_state}
    arrays = read_items(path, abstract, recorded)
    return Restored(arrays["params"], arrays["opt_state"], data, meta)


def read_items(
    path: storage.Path, abstract: Mapping[str, Any], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns items of a checkpoint, read and compared with their checksums.

    Args:
      path: the checkpoint.
      abstract: item ("params", "opt_state") -> shapes and shardings wanted; None for numpy arrays.
      recorded: the checksums.

    Raises:
      UserError: they are those of another model or optimizer.
      DamagedCheckpoint: they cannot be read, or are not what was saved.
    """
    arrays = agreement.together(
        lambda: {
            item: checkpoint_files.read_arrays(path, item, wanted, recorded)
            for item, wanted in abstract.items()
        },
        DamagedCheckpoint,
    )
    if not all(item in recorded for item in abstract):
        log.warning("%s has no checksums to compare with: it is taken as it is", path)
    for item, wanted in abstract.items():
        checkpoint_files.compare(path, item, arrays[item], recorded)
        arrays[item] = checkpoint_files.as_asked(arrays[item], wanted)
    return arrays
