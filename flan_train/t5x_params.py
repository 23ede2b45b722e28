"""The parameters of a native T5X checkpoint as ours, straight from its folder.

INITIAL_CHECKPOINT_PATH takes such a folder: what is read is parameters alone, as T5X's own
fine-tuning does when it restores no optimizer state, and the run counts its steps from 0.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from flan_train import __version__, storage, t5x_layout
from flan_train.errors import UserError
from flan_train.models import t5
from flan_train.t5x_files import T5XFolder

META_KEY = "t5x"
TARGET = "target/"

_CHECKS_AT_ONCE = 16
_IN_FLIGHT_BYTES, _IN_FLIGHT = 256 * 2**20, 32

Box = t5x_layout.Box


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
        keys = [TARGET + key for source in self.sources for key in source.keys]
        with concurrent.futures.ThreadPoolExecutor(_CHECKS_AT_ONCE) as pool:
            list(pool.map(self.folder.check, keys))

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
        """Yields (place, float32 numbers) of one of our arrays, a tensor or less at a time."""
        for place, piece in self._pieces(source, _whole(source)):
            yield place, piece.astype(np.float32)

    def block_shape(self, source: t5x_layout.Source) -> tuple[int, ...] | None:
        """Returns the chunks in which an array is best kept that `blocks` gives; None for any."""
        if not (source.scanned and source.stacked):
            return None
        chunk = self.folder.chunk(TARGET + source.keys[0])
        _, place = next(source.scanned_boxes(chunk, _whole(source)))
        return (1, *(part.stop - part.start for part in place[1:]))

    def placed(self, source: t5x_layout.Source, wanted: Any) -> jax.Array:
        """Returns one of our arrays on the devices that `wanted.sharding` names.

        This process reads no more than the box that its devices' parts lie in, in whole chunks.
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
        for place, piece in self._pieces(source, box):
            for part, values in parts.items():
                common = [
                    (max(one.start, low), min(one.stop, high))
                    for one, (low, high) in zip(place, part, strict=True)
                ]
                if any(low >= high for low, high in common):
                    continue
                to = tuple(
                    slice(a - p[0], b - p[0]) for (a, b), p in zip(common, part, strict=True)
                )
                of = tuple(
                    slice(a - one.start, b - one.start)
                    for (a, b), one in zip(common, place, strict=True)
                )
                values[to] = piece[of]
        return jax.make_array_from_callback(
            source.shape, sharding, lambda index: parts[_bounds(index, source.shape)]
        )

    def _pieces(self, source: t5x_layout.Source, box: Box) -> Iterator[tuple[Box, np.ndarray]]:
        """Yields (place, array in our layout), which together cover `box`; several are on the way.

        Of a scanned array that is a part of it, in whole chunks; else a tensor of theirs.
        """
        waiting: collections.deque[tuple[Box, Callable[[], np.ndarray]]] = collections.deque()
        on_the_way = 0
        for place, read in self._started(source, box):
            waiting.append((place, read))
            on_the_way += _bytes(place)
            while on_the_way > _IN_FLIGHT_BYTES or len(waiting) > _IN_FLIGHT:
                place, read = waiting.popleft()
                on_the_way -= _bytes(place)
                yield place, read()
        while waiting:
            place, read = waiting.popleft()
            yield place, read()

    def _started(
        self, source: t5x_layout.Source, box: Box
    ) -> Iterator[tuple[Box, Callable[[], np.ndarray]]]:
        """Begins to read what `_pieces` gives, as far as it is asked for."""
        key = TARGET + source.keys[0]
        if source.shared:
            yield box, lambda: self._table(source)[box]
        elif source.scanned:
            for theirs, ours in source.scanned_boxes(self.folder.chunk(key), box):
                read = self.folder.started(key, theirs)
                yield ours, _then(read, source.box_from_scanned)
        elif source.stacked:
            for layer in range(box[0].start, box[0].stop):
                read = self.folder.started(TARGET + source.keys[layer], box[1:])
                yield (slice(layer, layer + 1), *box[1:]), _then(read, _as_layer)
        else:
            yield box, self.folder.started(key, box)

    def _table(self, source: t5x_layout.Source) -> np.ndarray:
        theirs = self.folder.read(TARGET + source.keys[0])
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


def _then(
    read: Callable[[], np.ndarray], change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[], np.ndarray]:
    return lambda: change(read())


def _as_layer(array: np.ndarray) -> np.ndarray:
    return array[None]


def _whole(source: t5x_layout.Source) -> Box:
    return tuple(slice(0, size) for size in source.shape)


def _bytes(place: Box) -> int:
    return 4 * math.prod(one.stop - one.start for one in place)


def _bounds(index: Box | None, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(one.indices(size)[:2] for one, size in zip(index or (), shape, strict=True))
