"""Native T5X checkpoints to folders of ours, and back; parameters and Adafactor's state.

Numbers pass bit for bit. What T5X keeps in bfloat16 is float32 here, which it fits into; the way
back uses the data type and the layout that a checkpoint came with, unless told otherwise.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from flan_train import checkpoint_names, checkpoints, storage, t5x_layout, t5x_optimizer
from flan_train.convert.slices import ParamsReader, ParamsWriter
from flan_train.convert.t5x_write import T5XWriter
from flan_train.errors import UserError, check_writable, not_written, unknown_name
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
    _check_destination(destination)
    there = T5XParams(source)
    there.check()
    state = None if params_only else t5x_optimizer.read_state(there)
    meta = there.meta()
    if state is not None:
        meta[META_KEY]["min_dim_size_to_factor"] = state.min_dim_size_to_factor
    if not dry_run:
        shapes = {source.ours: source.shape for source in there.sources}
        with ParamsWriter(destination, shapes) as writer:
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
    config = _config_of(meta, source)
    kept = meta.get(META_KEY) or {}
    layout, dtype = layout or kept.get("layout", "unrolled"), dtype or kept.get("dtype", "float32")
    for kind, name, known in (("layout", layout, t5x_layout.LAYOUTS), ("dtype", dtype, DTYPES)):
        if name not in known:
            raise unknown_name(kind, str(name), known, where=f"--{kind}")
    step = int(meta.get("step") or 0) + step_offset
    if not 0 <= step < 2**31:
        raise UserError(
            f"the step would be {step:,}", where="--step_offset", expected="from 0 to 2**31 - 1"
        )
    folder = _folder_of(pathlib.Path(destination), step)
    _check_destination(folder)
    reader = ParamsReader(source / "params")
    shapes = _checked(reader, config, source)
    opt_state = None if params_only else checkpoints.load_opt_state(source)
    moments = None if opt_state is None else _moments(opt_state, shapes, source)
    sources = t5x_layout.sources(shapes, layout)
    if not dry_run:
        with _written_whole(folder) as unfinished:
            writer = T5XWriter(unfinished)
            for one in sources:
                _write(writer, one, reader, moments[one.ours] if moments else None, dtype)
            writer.inline("state/step", np.asarray(step, np.int32))
            writer.finish()
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
) -> None:
    for i, key in enumerate(source.keys):
        if source.scanned:
            theirs = source.to_scanned(reader.read(source.ours))
        else:
            theirs = reader.read(source.ours, (i,) if source.stacked else ())
        writer.array(f"target/{key}", theirs, dtype)
    slots = slots or t5x_optimizer.fresh_slots(source)
    for key, named in t5x_optimizer.write_state(source, slots):
        for slot, values in named.items():
            name = f"{t5x_optimizer.STATES}{key}/{slot}"
            if slot == "v" and values.shape != (1,):
                writer.array(name, values)
            else:
                writer.inline(name, values)


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


def _config_of(meta: Mapping[str, Any], source: pathlib.Path) -> t5.T5Config:
    try:
        return t5.T5Config(**meta["model"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{source} does not say which T5 it is ({error})",
            where=f"{source}/meta, key 'model'",
            expected="the fields of T5Config",
        ) from error


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
        what="arrays of the checkpoint",
        fix="take a checkpoint whose meta describes its own model",
    )
    return wanted


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


def _check_destination(destination: pathlib.Path) -> None:
    if destination.exists():
        raise UserError(
            f"{destination} exists already", expected="a new folder", fix="name another"
        )
    check_writable("the folder", destination)


@contextlib.contextmanager
def _written_whole(destination: pathlib.Path) -> Iterator[pathlib.Path]:
    # Under another name until complete, so that a folder of that name is always a whole one.
    unfinished = destination.with_name(f".{destination.name}.writing-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.rename(destination)
    except (OSError, ValueError) as error:  # tensorstore raises ValueError for what the disk says
        raise not_written("the folder", destination, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
