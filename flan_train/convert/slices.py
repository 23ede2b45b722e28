"""Parameters-only folders written and read a block at a time, so that no array is whole in memory.

A layer parameter is stacked over the layers: the encoder's wi_0 of an XXL takes 4 GB. The arrays
are zarr arrays beside Orbax's `_METADATA` (what `PyTreeCheckpointHandler(use_ocdbt=False)` writes)
in chunks of at most one layer, which TensorStore writes and reads block by block; Orbax makes a
checkpoint of them. `checkpoints.load_params` reads such a folder like any other.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from flan_train import (
    checkpoint_checksums,
    checkpoint_failures,
    checkpoint_files,
    checkpoint_room,
)
from flan_train.convert.destination import check_new
from flan_train.errors import UserError, not_written
from flan_train.unfinished import beside

BLOCK_BYTES = 64 * 2**20
_METADATA = "_METADATA"
_COMMITTED = "commit_success.txt"  # where Orbax marks a whole item by a file
_METADATA_BYTES = 2**26  # a model's is under 100 kB
_DICT_KEY = 2  # Orbax: this part of a path is a key of a dict
_SUPPORTED = ("float32", "bfloat16")

Index = tuple[int | slice, ...]


def chunk_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the chunks an array is stored in: one layer at most, cut along its rows.

    Args:
      path: the array's path; one with "layers" in it is stacked over its first axis.
      shape: of the whole array.
    """
    stacked = "layers" in path.split("/") and len(shape) > 1
    own = shape[1:] if stacked else shape
    return (1, *row_blocks(own)) if stacked else row_blocks(own)


def row_blocks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns `shape` with so few rows that they take at most BLOCK_BYTES as float32, or one."""
    row = 4 * math.prod(shape[1:])
    return (min(shape[0], max(1, BLOCK_BYTES // max(1, row))), *shape[1:]) if shape else shape


class Checksums:
    """The checksums of arrays that pass block by block, as `checkpoint_checksums` defines them.

    Args:
      shapes: path -> shape of every array.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._sums = dict.fromkeys(shapes, (0, 0))

    def add(self, path: str, index: Index, block: np.ndarray) -> None:
        """Counts one block of an array in; every place must come exactly once."""
        shape = self._shapes[path]
        full = (*index, *[slice(None)] * (len(shape) - len(index)))
        start = tuple(part if isinstance(part, int) else part.start or 0 for part in full)
        axes = tuple(axis for axis, part in enumerate(full) if isinstance(part, int))
        sums = checkpoint_checksums.block(np.expand_dims(block, axes), start, shape)
        linear, mixed = self._sums[path]
        self._sums[path] = linear + sums[0], mixed + sums[1]

    def texts(self) -> dict[str, str]:
        """Returns path -> checksum, of arrays that have been counted in whole."""
        return {path: checkpoint_checksums.text(sums) for path, sums in self._sums.items()}


class ParamsWriter:
    """Writes a parameters-only folder; a context manager.

    with ParamsWriter(folder, {"token_embedder/embedding": (32128, 768)}) as writer:
        writer.write("token_embedder/embedding", (slice(0, 1000),), block)  # ...
        writer.commit(meta)

    Nothing stands at `destination` before `commit`; leaving without it removes what was written.

    Args:
      destination: the folder to make; must not exist.
      shapes: path -> shape of every float32 array, with "/" between the parts of a path.
      chunks: path -> chunk shape where `chunk_shape` is not what fits the blocks that come; blocks
        of whole chunks are written fastest.

    Raises:
      UserError: the folder exists or cannot be written to.
    """

    def __init__(
        self,
        destination: str | os.PathLike[str],
        shapes: Mapping[str, tuple[int, ...]],
        chunks: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.destination = pathlib.Path(destination).absolute()
        self.shapes = dict(shapes)
        self.chunks = {p: chunk_shape(p, shape) for p, shape in shapes.items()} | dict(chunks or {})
        self._missing = {path: math.prod(shape) for path, shape in shapes.items()}
        self._checksums = Checksums(self.shapes)
        self._open: tuple[str, Any] | None = None
        check_new(self.destination)

    def __enter__(self) -> ParamsWriter:
        self._unfinished = beside(self.destination, "writing")
        try:
            (self._unfinished / "arrays").mkdir(parents=True)
        except OSError as error:
            raise not_written("the folder", self.destination, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open = None
        if kind is None:
            shutil.rmtree(self._unfinished, ignore_errors=True)
        else:
            checkpoint_failures.remove_left(self._unfinished.parent, self._unfinished.name)

    def write(self, path: str, index: Index, block: np.ndarray) -> None:
        """Writes float32 numbers to one rectangle of an array; every place exactly once.

        Args:
          path: the array.
          index: where the block goes; an int (a layer) or a slice without a step for each axis,
            axes left out are taken whole.
          block: the numbers, of the shape that `index` selects.

        Raises:
          UserError: the disk is full or the folder cannot be written.
        """
        assert block.dtype == np.float32, block.dtype
        try:
            self._array(path)[index].write(block).result()
        except (ValueError, OSError) as error:  # TensorStore has no error type of its own
            raise not_written("the folder", self.destination, error) from error
        self._missing[path] -= block.size
        self._checksums.add(path, index, block)

    def commit(self, meta: Mapping[str, Any], opt_state: Any = None) -> None:
        """Makes the folder, with `meta` and checksums; every array must have been filled.

        Args:
          meta: as for `checkpoints.save_params`.
          opt_state: the optimizer's state (whole in memory), kept as well where it is given.

        Raises:
          UserError: the folder cannot be written.
          ValueError: an array has not been filled, or more than once.
        """
        unfilled = [path for path, missing in self._missing.items() if missing]
        if unfilled:
            raise ValueError(f"not written exactly once: {', '.join(unfilled)}")
        self._open = None
        sealed = checkpoint_files.with_checksums(
            meta,
            {} if opt_state is None else {"opt_state": opt_state},
            counted={"params": (self._checksums.texts(), self._described())},
        )
        folder, arrays = self._unfinished / "folder", self._unfinished / "arrays"
        try:
            # Orbax writes the folder with all its marks; then the arrays take the place of its own.
            items = {
                "params": ocp.args.StandardSave({"none": np.zeros(1, np.float32)}),
                "meta": ocp.args.JsonSave(sealed),
            }
            if opt_state is not None:
                items["opt_state"] = ocp.args.StandardSave(opt_state)
            checkpoint_failures.told_once()
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*items)) as writer:
                writer.save(folder, args=ocp.args.Composite(**items))
            for path in (folder / "params").iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != _COMMITTED:
                    path.unlink()
            for path in arrays.iterdir():
                path.rename(folder / "params" / path.name)
            described = json.dumps(_metadata(self.shapes))
            (folder / "params" / _METADATA).write_text(described, "utf-8")
            folder.rename(self.destination)
        except checkpoint_failures.WRITING as error:
            raise not_written("the folder", self.destination, error) from error

    def _described(self) -> dict[str, str]:
        arrays = {path: jax.ShapeDtypeStruct(s, np.float32) for path, s in self.shapes.items()}
        return checkpoint_files.described(arrays)

    def _array(self, path: str) -> Any:
        # One is open at a time: hundreds of arrays would hold as many caches.
        if self._open is None or self._open[0] != path:
            spec = {
                "driver": "zarr",
                "kvstore": _kvstore(self._unfinished / "arrays" / _stored_name(path)),
                "metadata": {
                    "shape": list(self.shapes[path]),
                    "chunks": list(self.chunks[path]),
                    "dtype": "<f4",
                    "compressor": {"id": "zstd", "level": 1},
                    "fill_value": None,
                    "dimension_separator": ".",
                },
                # Else a block of zeros would leave no file, like a block that was lost.
                "store_data_equal_to_fill_value": True,
            }
            self._open = path, ts.open(spec, open=True, create=True).result()
        return self._open[1]


class ParamsReader:
    """Reads blocks of the arrays of a checkpoint's `params` folder, whichever program wrote it.

    Args:
      folder: the `params` folder of a parameters-only folder or of a run's step.

    Attributes:
      paths: every array's path, with "/" between its parts.

    Raises:
      UserError: the folder cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = pathlib.Path(folder).absolute()
        file = self.folder / _METADATA
        try:
            if file.stat().st_size > _METADATA_BYTES:
                raise ValueError(f"it has {file.stat().st_size:,} bytes")
            described = json.loads(file.read_bytes())
            self._ocdbt = bool(described["use_ocdbt"])
            self._zarr3 = bool(described.get("use_zarr3", False))
            keys = [entry["key_metadata"] for entry in described["tree_metadata"].values()]
            self.paths = ["/".join(str(part["key"]) for part in key) for key in keys]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _unreadable(file, error) from error
        self._open: tuple[str, Any] | None = None

    def shape(self, path: str) -> tuple[int, ...]:
        """Returns an array's shape; raises as `read`."""
        return tuple(self._array(path).shape)

    def read(self, path: str, index: Index = ()) -> np.ndarray:
        """Returns one rectangle of an array as float32.

        Args:
          path: the array.
          index: an int or a slice without a step for each axis, axes left out are taken whole.

        Raises:
          UserError: there is no such array, or it cannot be read.
        """
        try:
            part = self._array(path)[index]
            checkpoint_room.check_memory(4 * math.prod(part.shape), str(self.folder))
            block = part.read().result()
        except (ValueError, OSError) as error:
            raise _unreadable(self.folder / _stored_name(path), error) from error
        return np.asarray(block, np.float32)

    def _array(self, path: str) -> Any:
        if self._open is None or self._open[0] != path:
            array = self._opened(path, cached=0)
            chunk = 4 * math.prod(_chunk(array))
            if chunk > 2 * BLOCK_BYTES:
                # Several layers in one chunk, as a run on one device writes it: keep it decoded.
                array = self._opened(path, cached=chunk + chunk // 8)
            self._open = path, array
        return self._open[1]

    def _opened(self, path: str, *, cached: int) -> Any:
        name = _stored_name(path)
        store = (
            {"driver": "ocdbt", "base": f"file://{self.folder}/", "path": f"{name}/"}
            if self._ocdbt
            else _kvstore(self.folder / name)
        )
        spec = {"driver": "zarr3" if self._zarr3 else "zarr", "kvstore": store}
        context = ts.Context({"cache_pool": {"total_bytes_limit": cached}})
        try:
            array = ts.open(
                spec | {"recheck_cached_data": "open"}, open=True, read=True, context=context
            ).result()
        except (ValueError, OSError) as error:
            raise _unreadable(self.folder / name, error) from error
        too_large = any(c > max(s, 1) for c, s in zip(_chunk(array), array.shape, strict=True))
        if array.dtype.name not in _SUPPORTED or too_large:
            raise UserError(
                f"{path} is {array.dtype.name} {list(array.shape)}, chunks {list(_chunk(array))}",
                where=str(self.folder),
                expected=f"{' or '.join(_SUPPORTED)} in chunks no larger than the array",
            )
        try:
            checkpoint_room.check_stored(self.folder, {path: array})
        except (OSError, ValueError) as error:
            raise _unreadable(self.folder / name, error) from error
        return array


def _chunk(array: Any) -> tuple[int, ...]:
    return tuple(array.chunk_layout.read_chunk.shape)


def _stored_name(path: str) -> str:
    return path.replace("/", ".")


def _kvstore(folder: pathlib.Path) -> dict[str, str]:
    return {"driver": "file", "path": f"{folder}/"}


def _metadata(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    tree = {}
    for path in sorted(shapes):
        keys = path.split("/")
        tree[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    return {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _unreadable(path: pathlib.Path, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [""])[0][:300]
    return UserError(
        f"{path} cannot be read: {type(error).__name__}: {reason}",
        expected="a checkpoint whose files are whole",
        fix="use an earlier checkpoint, or copy this one anew",
    )
