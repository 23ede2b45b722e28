"""What both ways out need of a checkpoint of ours: its model, and that its numbers are as saved."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from flan_train import checkpoint_checksums, checkpoints
from flan_train.convert.hf_table import MAX_LAYERS
from flan_train.convert.slices import Checksums
from flan_train.errors import UserError
from flan_train.models import t5

_SHOWN = 8


def config_of(meta: Mapping[str, Any], source: pathlib.Path) -> t5.T5Config:
    """Returns the model that a checkpoint says it is of.

    Args:
      meta: the checkpoint's.
      source: its folder.

    Raises:
      UserError: it says none, or one that cannot be.
    """
    try:
        config = t5.T5Config(**meta["model"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{source} does not say which T5 it is ({error})",
            where=f"{source}/meta, key 'model'",
            expected="the fields of T5Config",
        ) from error
    layers = max(config.num_encoder_layers, config.num_decoder_layers)
    if layers > MAX_LAYERS:
        raise UserError(
            f"a T5 with {layers:,} layers is not converted",
            where=f"{source}/meta, key 'model'",
            expected=f"up to {MAX_LAYERS:,}",
        )
    return config


def compare(source: pathlib.Path, passed: Checksums) -> None:
    """Raises UserError unless the parameters that were read are those that were saved.

    Args:
      source: the checkpoint's folder; one without checksums is taken as it is.
      passed: has counted in every array.
    """
    recorded = checkpoints.read_checksums(source).get("params")
    differing = recorded and checkpoint_checksums.differing(recorded, passed.texts())
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"the arrays of {source} are not what was saved: {', '.join(differing[:_SHOWN])}{more}",
            where=str(source),
            expected="arrays with the checksums that were recorded when they were saved",
            fix="use an earlier checkpoint, or copy this one anew",
        )
