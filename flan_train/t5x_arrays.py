"""Zarr folders of a T5X checkpoint: whether what lies on the disk is what they say."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import re
from typing import Any

import ml_dtypes
import numpy as np

from flan_train import storage
from flan_train.errors import UserError

ARRAY_METADATA = ".zarray"
# Reading and writing; the name as T5X's spec gives it, and as zarr's metadata do.
DTYPES: dict[str, tuple[str, np.dtype]] = {
    "float32": ("<f4", np.dtype(np.float32)),
    "bfloat16": ("bfloat16", np.dtype(ml_dtypes.bfloat16)),
    "int32": ("<i4", np.dtype(np.int32)),
}
MAX_RANK = 8

_COMPRESSORS = ("gzip", "zlib", None)
_MAX_METADATA_BYTES = 2**16
_MAX_DIMENSION = 2**40
_MAX_REMOTE_CHUNK = 4 * 2**30
_DEFLATE_LIMIT = 1100  # deflate never makes its input more than 1,032 times smaller


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a zarr folder of its own, as the msgpack file describes it."""

    folder: storage.Path
    shape: tuple[int, ...]
    dtype: str
    root: storage.Path


def check_array(leaf: StoredArray, *, sparse: bool) -> None:
    """Raises UserError unless the array's folder holds what its description says.

    Args:
      leaf: the array.
      sparse: whether chunks may be missing: tensorstore may leave out those of zeros alone.
    """
    if isinstance(leaf.folder, pathlib.Path) and isinstance(leaf.root, pathlib.Path):
        _check_links(leaf.folder, leaf.root.resolve())
    described = _read_metadata(leaf.folder)
    chunks = checked_shape(described.get("chunks"))
    compressor = described.get("compressor")
    kind = compressor.get("id", "") if isinstance(compressor, dict) else compressor
    dtype, itemsize = DTYPES[leaf.dtype][0], DTYPES[leaf.dtype][1].itemsize
    if (
        described.get("zarr_format") != 2
        or checked_shape(described.get("shape")) != leaf.shape
        or described.get("dtype") != dtype
        or described.get("dimension_separator", ".") != "."
        or described.get("filters") is not None
    ):
        raise damaged_array(leaf, f"its {ARRAY_METADATA} says otherwise than the file checkpoint")
    if kind not in _COMPRESSORS:
        raise damaged_array(leaf, f"it is compressed by {str(kind)[:40]!a}")
    if (
        chunks is None
        or len(chunks) != len(leaf.shape)
        or any(
            not 1 <= chunk <= max(size, 1) for chunk, size in zip(chunks, leaf.shape, strict=True)
        )
    ):
        raise damaged_array(leaf, f"its chunks are of the shape {str(chunks)[:80]}")
    grid = [-(-size // chunk) for size, chunk in zip(leaf.shape, chunks, strict=True)]
    wanted = math.prod(grid)
    chunk_bytes = math.prod(chunks) * itemsize
    files = _sizes(leaf.folder)
    if wanted > len(files) and not sparse:
        raise damaged_array(leaf, f"{wanted:,} chunks belong to it, but its folder lacks some")
    there = 0
    for name, size in files.items():
        if not re.fullmatch(r"\d+(\.\d+)*", name):
            continue
        # Where an object store does not tell the size, what one chunk allocates is limited.
        limit = _MAX_REMOTE_CHUNK if size is None else size * (_DEFLATE_LIMIT if kind else 1)
        if limit < chunk_bytes:
            raise damaged_array(leaf, f"its chunk {name} is too small for its shape")
        place = [int(part) for part in name.split(".")]
        grid_or_scalar = grid or [1]
        there += len(place) == len(grid_or_scalar) and all(
            at < end for at, end in zip(place, grid_or_scalar, strict=True)
        )
    if there < wanted and not sparse:
        raise damaged_array(leaf, f"{wanted:,} chunks belong to it, but {there:,} are there")


def _sizes(folder: storage.Path) -> dict[str, int | None]:
    """Returns name -> bytes of what lies in a folder; None where the store does not tell."""
    if isinstance(folder, storage.RemotePath):
        return dict.fromkeys(folder.files())
    return {entry.name: entry.stat().st_size for entry in os.scandir(folder)}


def _check_links(folder: pathlib.Path, root: pathlib.Path) -> None:
    """Raises UserError when the folder, or a file in it, is a link that leads elsewhere."""
    if not folder.resolve().is_relative_to(root):
        raise _outside(folder)
    if not folder.is_dir():
        return  # what is missing is told by whoever reads it
    for entry in os.scandir(folder):
        if entry.is_symlink() and not pathlib.Path(entry.path).resolve().is_relative_to(root):
            raise _outside(pathlib.Path(entry.path))


def _outside(path: pathlib.Path) -> UserError:
    return UserError(
        f"{path} leads out of the checkpoint's folder",
        expected="files of the folder itself",
        fix="copy the folder with its links resolved: cp -rL",
    )


def damaged_array(leaf: StoredArray, what: str) -> UserError:
    """Returns the error for an array whose folder is not as it should be."""
    return UserError(
        f"the array in {leaf.folder} cannot be read: {what}",
        expected=f"{leaf.dtype} numbers of the shape {list(leaf.shape)}, as T5X wrote them",
        fix="copy the whole checkpoint folder anew",
    )


def checked_shape(shape: object) -> tuple[int, ...] | None:
    """Returns a shape that an array can have, as a tuple; None for anything else."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK:
        return None
    if any(type(size) is not int or not 0 <= size < _MAX_DIMENSION for size in shape):
        return None
    return tuple(shape)


def _read_metadata(folder: storage.Path) -> dict[str, Any]:
    """Returns what a zarr folder says of its array; raises UserError when it cannot be read."""
    file = folder / ARRAY_METADATA
    try:
        value = json.loads(storage.read_limited(file, _MAX_METADATA_BYTES))
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read: {str(error)[:200]}",
            expected="a zarr folder for each array that the file checkpoint names",
            fix="copy the whole checkpoint folder anew",
        ) from error
    return value
