"""Native T5X checkpoint folders, written as T5X writes them (format version 3)."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts

from flan_train.t5x_arrays import DTYPES
from flan_train.t5x_files import ARRAY_EXTENSION, CHECKPOINT_FILE

VERSION = 3
CHUNK_BYTES = 64 * 2**20
_COMPRESSOR = {"id": "gzip", "level": 1}


class T5XWriter:
    """Writes arrays into a folder one by one, and at the end the file that names them."""

    def __init__(self, folder: pathlib.Path, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.folder = folder
        self.chunk_bytes = chunk_bytes
        self._state: dict[str, Any] = {}

    def array(self, key: str, array: np.ndarray, dtype: str = "float32") -> None:
        """Writes an array into a zarr folder of its own, cast to `dtype`.

        Args:
          key: its place in the training state, such as "target/encoder/encoder_norm/scale".
          array: numbers of any floating type.
          dtype: "float32" or "bfloat16".

        Raises:
          OSError: it cannot be written.
        """
        self.parts(key, array.shape, [((), array)], dtype)

    def chunk(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the chunks that an array is cut into."""
        return tuple(chunk_shape(shape, self.chunk_bytes // 4))  # as float32, whatever is stored

    def parts(
        self,
        key: str,
        shape: tuple[int, ...],
        parts: Iterable[tuple[tuple[slice, ...], np.ndarray]],
        dtype: str = "float32",
    ) -> None:
        """Writes an array that comes in parts of whole chunks, each with its place.

        Raises:
          OSError: it cannot be written.
        """
        name = key.replace("/", ".") + "/"
        metadata = {
            "chunks": list(self.chunk(shape)),
            "compressor": _COMPRESSOR,
            "shape": list(shape),
        }
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{self.folder}/{name}"},
            "metadata": {**metadata, "dtype": DTYPES[dtype][0]},
            # A chunk of zeros is stored like any other: its absence is a sign of damage.
            "store_data_equal_to_fill_value": True,
        }
        try:
            array = ts.open(spec, create=True, open=False).result()
            for place, part in parts:
                array[place].write(part.astype(DTYPES[dtype][1])).result()
        except ValueError as error:  # TensorStore has no error type of its own
            raise OSError(str(error)) from error
        self._put(
            key,
            {
                "driver": "zarr",
                "dtype": dtype,
                "kvstore": {"driver": "file", "path": name},
                "metadata": metadata,
            },
        )

    def inline(self, key: str, array: np.ndarray) -> None:
        """Keeps an array in the msgpack file."""
        array = np.asarray(array)
        packed = msgpack.packb((array.shape, array.dtype.name, array.tobytes()), use_bin_type=True)
        self._put(key, msgpack.ExtType(ARRAY_EXTENSION, packed))

    def finish(self) -> None:
        """Writes the msgpack file; T5X takes a folder without it for none."""
        tree = {"version": VERSION, "optimizer": _sorted(self._state)}
        (self.folder / CHECKPOINT_FILE).write_bytes(msgpack.packb(tree, strict_types=True))

    def _put(self, key: str, value: Any) -> None:
        *parents, last = key.split("/")
        node = self._state
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value


def chunk_shape(shape: tuple[int, ...], most: int) -> list[int]:
    """Returns the chunks T5X cuts an array into that lies on one host.

    The whole array, or while that has more than `most` elements, its largest dimension (of equal
    ones the first) at the next smaller of the sizes that divide it.

        (4096, 10240), 2**24    ->    [4096, 2560] -> ... until at most 16,777,216 elements
    """
    divisors = [_divisors_down(size) for size in shape]
    chunk = [next(one) for one in divisors]
    while math.prod(chunk) > most:
        largest = chunk.index(max(chunk))
        chunk[largest] = next(divisors[largest])
    return chunk


def _divisors_down(size: int) -> Iterator[int]:
    return (one for one in range(size, 0, -1) if size % one == 0)


def _sorted(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {name: _sorted(value) for name, value in sorted(node.items())}
