"""The parameters of a native T5X checkpoint as ours, straight from its folder.

INITIAL_CHECKPOINT_PATH takes such a folder: what is read is parameters alone, as T5X's own
fine-tuning does when it restores no optimizer state, and the run counts its steps from 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from flan_train import __version__, storage, t5x_layout
from flan_train.errors import UserError
from flan_train.models import t5
from flan_train.t5x_files import T5XFolder

META_KEY = "t5x"
TARGET = "target/"

Box = tuple[slice, ...]


class T5XParams:
    """A T5X checkpoint whose parameters are known to be those of a T5.

    Attributes:
      folder: its files.
      layout: "unrolled" or "scanned".
      config: the model, from the shapes.
      sources: how each of our arrays is made of theirs.

    Raises:
      UserError: as `T5XFolder` does; or the names or shapes are not those of a T5.
    """

    def __init__(self, path: storage.AnyPath) -> None:
        self.folder = T5XFolder(path)
        target = self.folder.keys(TARGET)
        where = str(self.folder.path)
        self.layout = t5x_layout.layout_of(target, where)
        shapes = {key: leaf.shape for key, leaf in target.items()}
        self.config = t5x_layout.config_of(shapes, self.layout, where)
        self.sources = t5x_layout.sources(shapes_of(t5.abstract_params(self.config)), self.layout)
        self._check(self.sources)

    def check(self, abstract_params: Any = None) -> None:
        """Raises the UserError that reading would, without reading a number.

        Args:
          abstract_params: the parameter tree of the model wanted; None for the checkpoint's own.
        """
        if abstract_params is not None:
            self._check(t5x_layout.sources(shapes_of(abstract_params), self.layout))
        for source in self.sources:
            for key in source.keys:
                self.folder.check(TARGET + key)

    def _check(self, wanted: list[t5x_layout.Source]) -> None:
        shapes = {key: source.key_shape for source in wanted for key in source.keys}
        t5x_layout.check_keys(self.folder.keys(TARGET), shapes, str(self.folder.path))

    def read(self, source: t5x_layout.Source) -> np.ndarray:
        """Returns one of our arrays whole, float32."""
        array = np.empty(source.shape, np.float32)
        for index, block in self.blocks(source):
            array[index] = block
        return array

    def blocks(self, source: t5x_layout.Source) -> Iterator[tuple[Box, np.ndarray]]:
        """Yields (place on axis 0, float32 numbers) of one of our arrays, a tensor at a time."""
        for start, piece in self._pieces(source, tuple(slice(0, size) for size in source.shape)):
            yield (slice(start, start + len(piece)),), piece.astype(np.float32)

    def placed(self, source: t5x_layout.Source, wanted: Any) -> jax.Array:
        """Returns one of our arrays on the devices that `wanted.sharding` names.

        Of unrolled layers, this process reads no more than the box its devices' parts lie in.
        """
        sharding = getattr(wanted, "sharding", None)
        if sharding is None:
            sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        parts = {
            _bounds(index, source.shape): np.empty(0)
            for index in sharding.addressable_devices_indices_map(source.shape).values()
        }
        axes = range(len(source.shape))
        box = tuple(
            slice(min(part[a][0] for part in parts), max(part[a][1] for part in parts))
            for a in axes
        )
        for part in parts:
            parts[part] = np.empty([stop - start for start, stop in part], wanted.dtype)
        for start, piece in self._pieces(source, box):
            # Where the piece begins on each axis, and how far it reaches on the first.
            begin = [start, *(one.start for one in box[1:])]
            for part, values in parts.items():
                first, last = max(part[0][0], start), min(part[0][1], start + len(piece))
                if first >= last:
                    continue
                within = tuple(
                    slice(low - offset, high - offset)
                    for (low, high), offset in zip(part[1:], begin[1:], strict=True)
                )
                rows = slice(first - part[0][0], last - part[0][0])
                values[rows] = piece[(slice(first - start, last - start), *within)]
        return jax.make_array_from_callback(
            source.shape, sharding, lambda index: parts[_bounds(index, source.shape)]
        )

    def _pieces(self, source: t5x_layout.Source, box: Box) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (place on axis 0, array in our layout), a tensor of theirs at a time.

        A piece covers `box` on all axes but the first.
        """
        if source.scanned:
            yield box[0].start, self._scanned(source)[box]
        elif source.stacked:
            for layer in range(box[0].start, box[0].stop):
                yield layer, self.folder.read(TARGET + source.keys[layer], box[1:])[None]
        else:
            yield box[0].start, self.folder.read(TARGET + source.keys[0], box)

    def _scanned(self, source: t5x_layout.Source) -> np.ndarray:
        theirs = self.folder.read(TARGET + source.keys[0])
        if source.shared:
            check_one_table(theirs, source, str(self.folder.path))
        return source.from_scanned(theirs)

    def meta(self) -> dict[str, Any]:
        """Returns what a checkpoint of ours says of itself, for this one."""
        kinds = {leaf.dtype for leaf in self.folder.keys(TARGET).values()}
        return {
            "step": self.folder.step,
            "config_hash": None,
            "manifest_hash": None,
            "code_version": __version__,
            "model": dataclasses.asdict(self.config),
            META_KEY: {
                "layout": self.layout,
                "dtype": kinds.pop() if len(kinds) == 1 else "float32",
            },
        }


def check_one_table(theirs: np.ndarray, source: t5x_layout.Source, where: str) -> None:
    """Raises UserError unless all layers of a scanned array [H, L, N] hold the same numbers."""
    bits = np.ascontiguousarray(theirs).view(np.uint8)
    if (bits != bits[:, :1]).any():
        layers = theirs.shape[1]
        raise UserError(
            f"the {layers} layers of {source.keys[0]} have tables of relative positions of their "
            "own",
            where=where,
            expected="one table for all layers of a stack, as in T5 (network t5)",
            fix="a scalable_t5 that was trained with a table for each layer is another model: "
            "start from the unrolled checkpoint of the same size",
        )


def load_params(path: storage.AnyPath, abstract_params: Any = None) -> tuple[Any, Any]:
    """Returns (params, meta) of a T5X folder, as `checkpoints.load_params` does of one of ours.

    Args:
      path: the folder.
      abstract_params: ShapeDtypeStructs with the shardings wanted; None gives numpy arrays.

    Raises:
      UserError: the folder is damaged, or of another model (both sides are listed).
    """
    there = T5XParams(path)
    there.check(abstract_params)
    by_path = {source.ours: source for source in there.sources}
    if abstract_params is None:
        arrays: dict[str, Any] = {name: there.read(source) for name, source in by_path.items()}
        return unflattened(arrays), there.meta()
    placed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: there.placed(by_path[_name(path)], leaf), abstract_params
    )
    return placed, there.meta()


def check_params(path: storage.AnyPath, abstract_params: Any) -> None:
    """Raises the UserError that `load_params` would for this model, without reading an array."""
    T5XParams(path).check(abstract_params)


def read_meta(path: storage.AnyPath) -> dict[str, Any]:
    """Returns the meta of a T5X folder without reading its arrays; raises as `load_params`."""
    return T5XParams(path).meta()


def shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns path to shape of each leaf of a parameter tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): tuple(leaf.shape) for path, leaf in flat}


def unflattened(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested tree of a mapping from paths, the way back from `shapes_of`."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _bounds(index: Box | None, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(one.indices(size)[:2] for one, size in zip(index or (), shape, strict=True))
