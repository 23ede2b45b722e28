"""A checkpoint that was altered on purpose gets the checksums of what it holds now."""

from __future__ import annotations

import json
import pathlib

from flan_train import checkpoint_files


def reseal(checkpoint: pathlib.Path) -> None:
    """Writes the checksums of what a checkpoint holds now into its meta."""
    file = checkpoint / "meta" / "metadata"
    meta = json.loads(file.read_text())
    meta.pop("checksums", None)
    arrays = {
        item: checkpoint_files.read_arrays(checkpoint, item, None, {})
        for item in ("params", "opt_state")
    }
    data = json.loads((checkpoint / "data" / "metadata").read_text())
    file.write_text(json.dumps(checkpoint_files.with_checksums(meta, arrays, data)))
