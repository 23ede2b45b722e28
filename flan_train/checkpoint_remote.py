"""Reading the arrays of a checkpoint that lies in an object store, each process its own part.

Orbax reads `gs://` through further packages and `s3://` not at all; what it has written are zarr
arrays, mostly in an OCDBT database, which TensorStore opens wherever they lie.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from flan_train import checkpoint_room, storage

METADATA_FILE = "_METADATA"
_METADATA_BYTES = 2**26  # a model's is under 100 kB
_MAX_ARRAYS = 100_000
_TYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "int64", "bool")

Index = tuple[slice, ...]


class Arrays:
    """The arrays of one item of a checkpoint, opened; all are opened at once.

    Args:
      folder: the item's folder, such as gs://bucket/run/checkpoints/100/params.

    Attributes:
      shapes: path -> shape and type of each array.

    Raises:
      OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError: it cannot be read.
      UserError: the store cannot be reached or does not allow it.
    """

    def __init__(self, folder: storage.Path) -> None:
        self.folder = folder
        described = json.loads(storage.read_limited(folder / METADATA_FILE, _METADATA_BYTES))
        entries = [
            entry
            for entry in described["tree_metadata"].values()
            if not entry["value_metadata"].get("skip_deserialize")  # nothing, where a tree ends
        ]
        if len(entries) > _MAX_ARRAYS:
            raise ValueError(f"it names {len(entries):,} arrays")
        paths = [[str(part["key"]) for part in entry["key_metadata"]] for entry in entries]
        specs = {"/".join(path): self._spec(described, ".".join(path)) for path in paths}
        try:
            opening = {
                name: ts.open(spec, open=True, read=True, context=storage.context())
                for name, spec in specs.items()
            }
            self._arrays = {name: each.result() for name, each in opening.items()}
        except ValueError as error:
            raise self._told(error) from None
        for name, array in self._arrays.items():
            if array.dtype.name not in _TYPES:
                raise ValueError(f"{name} is of the type {array.dtype.name}")
            chunk = tuple(array.chunk_layout.read_chunk.shape or ())
            if any(int(c or 1) > max(s, 1) for c, s in zip(chunk, array.shape, strict=True)):
                raise ValueError(f"{name} has chunks larger than itself")
        if isinstance(folder, pathlib.Path):
            checkpoint_room.check_stored(folder, self._arrays)
        self.shapes = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype.numpy_dtype)
            for name, array in self._arrays.items()
        }

    def read(self, parts: Mapping[str, Sequence[Index]]) -> dict[str, list[np.ndarray]]:
        """Returns parts of arrays, as they are stored; all are asked for at once.

        Args:
          parts: path -> the parts wanted.

        Raises:
          ValueError: an array is damaged.
          UserError: the store cannot be reached or does not allow it.
        """
        waiting: dict[str, list[Any]] = {
            name: [self._arrays[name][index or ...].read() for index in wanted]
            for name, wanted in parts.items()
        }
        try:
            return {name: [part.result() for part in each] for name, each in waiting.items()}
        except ValueError as error:
            raise self._told(error) from None

    def _spec(self, described: dict[str, Any], name: str) -> dict[str, Any]:
        driver = "zarr3" if described.get("use_zarr3") else "zarr"
        base = storage.kvstore(self.folder)
        if described.get("use_ocdbt"):
            store = {"driver": "ocdbt", "base": base, "path": f"{name}/"}
        else:
            store = storage.kvstore(self.folder / name)
        return {"driver": driver, "kvstore": store, "recheck_cached_data": "open"}

    def _told(self, error: ValueError) -> Exception:
        known = None
        if isinstance(self.folder, storage.RemotePath) and "OCDBT" not in str(error).upper():
            known = storage.refused(self.folder, error)
        return known or error


def tree(leaves: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of what is given by path."""
    nested: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return nested


def described(folder: storage.Path) -> dict[str, Any]:
    """Returns the tree of shapes and types of an item; raises as `Arrays` does."""
    return tree(dict(Arrays(folder).shapes))


def read(folder: storage.Path, wanted: Any) -> Any:
    """Returns the arrays of an item, in the types that are stored.

    Args:
      folder: the item's folder.
      wanted: ShapeDtypeStructs with shardings, in a tree of the same names: of each array this
        process reads the parts of its own devices, each once. None for numpy arrays of all.

    Raises:
      as `Arrays` and `Arrays.read` do.
    """
    arrays = Arrays(folder)
    if wanted is None:
        whole = arrays.read({name: [()] for name in arrays.shapes})
        return tree({name: parts[0] for name, parts in whole.items()})
    flat, structure = jax.tree_util.tree_flatten_with_path(wanted)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    asked = {name: own_parts(leaf) for name, leaf in named.items()}
    found = arrays.read(asked)
    placed = []
    for name, leaf in named.items():
        parts = {_key(i, leaf.shape): p for i, p in zip(asked[name], found[name], strict=True)}
        placed.append(
            jax.make_array_from_callback(leaf.shape, leaf.sharding, _among(parts, leaf.shape))
        )
    return jax.tree_util.tree_unflatten(structure, placed)


def _among(parts: Mapping[Any, np.ndarray], shape: tuple[int, ...]) -> Callable[[Any], np.ndarray]:
    return lambda index: parts[_key(index, shape)]


def own_parts(leaf: Any) -> list[Index]:
    """Returns the parts of an array that this process's devices hold, each once."""
    indices = leaf.sharding.addressable_devices_indices_map(leaf.shape).values()
    parts = {_key(index, leaf.shape): index for index in indices}
    return [tuple(slice(*bounds) for bounds in key) for key in parts]


def _key(index: Index | None, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    full = index or tuple(slice(None) for _ in shape)
    return tuple(one.indices(size)[:2] for one, size in zip(full, shape, strict=True))
