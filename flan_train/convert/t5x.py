"""Native T5X checkpoints to folders of ours, and back; parameters and Adafactor's state.

Numbers pass bit for bit. What T5X keeps in bfloat16 is float32 here, which it fits into; the way
back uses the data type and the layout that a checkpoint came with, unless told otherwise.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flan_train import checkpoint_names, checkpoints, storage, t5x_layout, t5x_optimizer
from flan_train.convert.checkpoint import compare, config_of
from flan_train.convert.destination import check_new, written_whole
from flan_train.convert.slices import Checksums, ParamsReader, ParamsWriter
from flan_train.convert.t5x_write import T5XWriter
from flan_train.errors import UserError, unknown_name
from flan_train.models import t5
from flan_train.t5x_params import META_KEY, T5XParams, shapes_of

DTYPES = ("float32", "bfloat16")
_FOLDER = re.compile(r"checkpoint_(\d+)")


def t5x_to_flan(
    source: storage.AnyPath,
    destination: str | pathlib.Path,
    *,
    params_only: bool = False,
    dry_run: bool = False,
) -> str:
    """Writes a folder of ours from a T5X checkpoint; returns a line about it.

    Args:
      source: a native T5X checkpoint folder, unrolled or scanned, float32 or bfloat16.
      destination: the folder to make; INITIAL_CHECKPOINT_PATH takes its parameters. The
        optimizer's state is kept beside them, for the way back.
      params_only: leave the optimizer's state out.
      dry_run: check names, shapes and files, and write nothing.

    Raises:
      UserError: the source is missing, damaged, of another model (both sides are listed) or cannot
        be ours; or the destination exists or cannot be written.
    """
    destination = pathlib.Path(destination)
    check_new(destination)
    there = T5XParams(source)
    there.check()
    state = None if params_only else t5x_optimizer.read_state(there)
    meta = there.meta()
    if state is not None:
        meta[META_KEY]["min_dim_size_to_factor"] = state.min_dim_size_to_factor
    if not dry_run:
        shapes = {source.ours: source.shape for source in there.sources}
        chunks = {one.ours: there.block_shape(one) for one in there.sources}
        cut = {path: chunk for path, chunk in chunks.items() if chunk is not None}
        with ParamsWriter(destination, shapes, cut) as writer:
            for one in there.sources:
                for index, block in there.blocks(one):
                    writer.write(one.ours, index, block)
            writer.commit(meta, None if state is None else state.state)
    what = (
        f"{t5.count_params(there.config):,} parameters ({there.layout}, {meta[META_KEY]['dtype']}) "
        f"of step {there.folder.step:,}"
        + (", without the optimizer's state" if state is None else " and Adafactor's state")
    )
    if dry_run:
        return f"{there.folder.path} can be converted: {what}; nothing was written"
    return f"{there.folder.path} -> {destination}: {what}"


def flan_to_t5x(
    source: str | pathlib.Path,
    destination: str | pathlib.Path,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    step_offset: int = 0,
    params_only: bool = False,
    dry_run: bool = False,
) -> str:
    """Writes a native T5X checkpoint from one of ours; returns a line about it.

    Args:
      source: a run's `checkpoints/<step>` (for the step, "selected" or "latest" will do) or
        converted parameters.
      destination: T5X's MODEL_DIR, in which the folder checkpoint_<step> is made; or that folder
        itself.
      layout: "unrolled" (network t5) or "scanned" (network scalable_t5); None for the one it came
        with, else unrolled.
      dtype: of the parameters, "float32" or "bfloat16"; None for the one it came with, else
        float32. The optimizer's state is always float32.
      step_offset: added to the step: T5X counts steps from the beginning of pre-training.
      params_only: write the optimizer's state as it is before any update. A source without one is
        always written so, as T5X expects one.
      dry_run: read and check the checkpoint, and write nothing.

    Raises:
      UserError: the checkpoint is missing or not of the model it says, its optimizer's state cannot
        be T5X's, or the destination exists or cannot be written.
    """
    source = checkpoint_names.local_folder(source)
    meta = checkpoints.read_meta(source)
    config = config_of(meta, source)
    for kind, name, known in (("layout", layout, t5x_layout.LAYOUTS), ("dtype", dtype, DTYPES)):
        if name is not None and name not in known:
            raise unknown_name(kind, name, known, where=f"--{kind}")
    step_there, layout_there, dtype_there = _kept(meta, source)
    layout, dtype = layout or layout_there, dtype or dtype_there
    step = step_there + step_offset
    if not 0 <= step < 2**31:
        raise UserError(
            f"the step would be {step:,}", where="--step_offset", expected="from 0 to 2**31 - 1"
        )
    folder = _folder_of(pathlib.Path(destination), step)
    check_new(folder)
    reader = ParamsReader(source / "params")
    shapes = _checked(reader, config, source)
    opt_state = None if params_only else checkpoints.load_opt_state(source)
    moments = None if opt_state is None else _moments(opt_state, shapes, source)
    sources = t5x_layout.sources(shapes, layout)
    if not dry_run:
        with written_whole(folder) as unfinished:
            writer, passed = T5XWriter(unfinished), Checksums(shapes)
            for one in sources:
                _write(writer, one, reader, moments[one.ours] if moments else None, dtype, passed)
            writer.inline("state/step", np.asarray(step, np.int32))
            writer.finish()
            compare(source, passed)
    what = f"{t5.count_params(config):,} parameters ({layout}, {dtype}), step {step:,}" + (
        ", the optimizer's state as before any update" if moments is None else ", Adafactor's state"
    )
    if dry_run:
        return f"{source} can be converted: {what}; nothing was written"
    return f"{source} -> {folder}: {what}"


def _write(
    writer: T5XWriter,
    source: t5x_layout.Source,
    reader: ParamsReader,
    slots: t5x_optimizer.Slots | None,
    dtype: str,
    passed: Checksums,
) -> None:
    def read(index: tuple[int | slice, ...]) -> np.ndarray:
        block = reader.read(source.ours, index)
        passed.add(source.ours, index, block)
        return block

    if source.scanned and source.stacked:
        whole = tuple(slice(0, size) for size in source.shape)
        boxes = source.scanned_boxes(writer.chunk(source.key_shape), whole)
        parts = ((theirs, source.box_to_scanned(read(ours), theirs)) for theirs, ours in boxes)
        writer.parts(f"target/{source.keys[0]}", source.key_shape, parts, dtype)
    else:
        for i, key in enumerate(source.keys):
            ours = read((i,) if source.stacked else ())
            writer.array(
                f"target/{key}", source.to_scanned(ours) if source.scanned else ours, dtype
            )
    slots = slots or t5x_optimizer.fresh_slots(source)
    for key, named in t5x_optimizer.write_state(source, slots):
        for slot, values in named.items():
            name = f"{t5x_optimizer.STATES}{key}/{slot}"
            if slot == "v" and values.shape != (1,):
                writer.array(name, values)
            else:
                writer.inline(name, values)


def _kept(meta: Mapping[str, Any], source: pathlib.Path) -> tuple[int, str, str]:
    """Returns the step, and the layout and type that a folder from T5X came with, else T5X's own.

    Raises:
      UserError: they are none that conversion or a run writes.
    """
    step, kept = meta.get("step", 0), meta.get(META_KEY, {})
    try:
        layout, dtype = kept.get("layout", "unrolled"), kept.get("dtype", "float32")
        if type(step) is not int:
            raise ValueError(f"the step is {str(step)[:40]!a}")
        if layout not in t5x_layout.LAYOUTS or dtype not in DTYPES:
            raise ValueError(f"layout {str(layout)[:40]!a}, type {str(dtype)[:40]!a}")
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"what {source} says of itself cannot be used ({error})",
            where=f"{source}/meta, keys 'step' and '{META_KEY}'",
            expected="what a run or flan-train convert t5x-to-flan writes",
            fix="convert it again",
        ) from error
    return step, layout, dtype


def _moments(
    opt_state: Mapping[str, Any], arrays: Mapping[str, Any], source: pathlib.Path
) -> dict[str, t5x_optimizer.Slots]:
    names = t5x_optimizer.Slots._fields
    try:
        slots = {name: _flat(opt_state[name]) for name in names}
        found = {
            path: t5x_optimizer.Slots(*(np.asarray(slots[name][path]) for name in names))
            for path in arrays
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the optimizer's state of {source} is not our Adafactor's ({error})",
            expected=f"{', '.join(names)} of each parameter",
            fix="--params_only",
        ) from error
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{prefix}{name}/")
        else:
            leaves[prefix + name] = value
    return leaves


def _checked(
    reader: ParamsReader, config: t5.T5Config, source: pathlib.Path
) -> dict[str, tuple[int, ...]]:
    """Returns path to shape of the model's arrays, which are those of the checkpoint."""
    there = {path: jax.ShapeDtypeStruct(reader.shape(path), np.float32) for path in reader.paths}
    wanted = shapes_of(t5.abstract_params(config))
    t5x_layout.check_keys(
        there,
        wanted,
        str(source),
        what=f"arrays of {source}",
        fix="take a checkpoint whose meta describes its own model",
    )
    return wanted


def is_step_folder(destination: str) -> bool:
    """Returns whether a destination is called as T5X calls a step's folder, checkpoint_<step>."""
    return _FOLDER.fullmatch(destination.rstrip("/").rpartition("/")[2]) is not None


def _folder_of(destination: pathlib.Path, step: int) -> pathlib.Path:
    match = _FOLDER.fullmatch(destination.name)
    if match is None:
        return destination / f"checkpoint_{step}"
    if int(match.group(1)) != step:
        raise UserError(
            f"the folder is to be called {destination.name}, but its step is {step}",
            where="--to",
            expected=f"checkpoint_{step}, or T5X's MODEL_DIR",
            fix=f"name that, or give --step_offset={int(match.group(1)) - step} as well",
        )
    return destination
