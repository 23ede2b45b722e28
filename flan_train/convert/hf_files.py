"""Safetensors folders as Hugging Face lays them out: one file, or several with an index.

Numbers are read and written in blocks of rows with plain file calls: pages of a memory map would
count as this process's memory.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from flan_train.convert import hf_header
from flan_train.convert.hf_header import shown
from flan_train.convert.slices import row_blocks
from flan_train.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_GB = 5.0  # 10^9 bytes, as transformers counts
STORE_SHARD_GB = 1.0  # in an object store, to which a file is sent as a whole
DTYPES: dict[str, Any] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}


class TensorFiles:
    """The tensors of a folder by name; a context manager. Numbers are not read until asked for."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._tensors: dict[str, tuple[str, hf_header.Tensor]] = {}  # name -> file, where in it
        self._open: tuple[str, BinaryIO] | None = None

    def __enter__(self) -> TensorFiles:
        single, index = self.folder / SINGLE, self.folder / INDEX
        if single.is_file():
            self._add(SINGLE)
        elif index.is_file():
            self._add_indexed(index)
        else:
            pickled = sorted(path.name for path in self.folder.glob("pytorch_model*.bin"))
            raise UserError(
                f"{self.folder} has no {SINGLE} and no {INDEX}",
                where=f"it has {', '.join(pickled[:4])}" if pickled else str(self.folder),
                expected="weights as safetensors",
                fix="PyTorch's pickled weights are not read, as a pickle can run code: load the"
                " model with transformers and save_pretrained() it"
                if pickled
                else "download the model's safetensors files into this folder",
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _add(self, file: str) -> None:
        for name, tensor in hf_header.read(self.folder / file).items():
            if name in self._tensors:
                raise UserError(
                    f"the tensor {shown(name)} is there more than once",
                    where=f"{self.folder}: {self._tensors[name][0]} and {file}",
                    expected="every tensor in one file",
                )
            self._tensors[name] = file, tensor

    def _add_indexed(self, index: pathlib.Path) -> None:
        weights = read_json(index).get("weight_map")
        if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
            raise UserError(
                "the index has no weight_map", where=str(index), expected="tensor -> file name"
            )
        for file in sorted(set(weights.values())):
            # A file name from a downloaded index must not lead out of the folder.
            if pathlib.PurePath(file).name != file or "\\" in file or "\0" in file:
                raise UserError(
                    f"the index names '{shown(file)}'",
                    where=str(index),
                    expected="a file of its folder",
                )
            if not os.path.isfile(self.folder / file):  # no error for a name of any length
                raise UserError(
                    f"{shown(file)} is missing from {self.folder}",
                    where=str(index),
                    expected="every file the index names",
                    fix="download it into this folder",
                )
            self._add(file)
        there = {name: file for name, (file, _) in self._tensors.items()}
        if weights != there:
            elsewhere = sorted(
                name for name in weights.keys() | there if weights.get(name) != there.get(name)
            )
            raise UserError(
                f"the index and the files of {self.folder} disagree about {len(elsewhere)} tensors",
                where=", ".join(map(shown, elsewhere[:8])),
                expected="each tensor in the file the index names, and no others",
            )

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape."""
        return self._tensors[name][1].shape

    def dtype(self, name: str) -> str:
        """Returns a tensor's data type as safetensors calls it: F32, BF16 ..."""
        return self._tensors[name][1].dtype

    def blocks(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields (rows, numbers as stored) of a tensor, BLOCK_BYTES of float32 at most.

        Args:
          name: a tensor whose data type is in DTYPES.

        Raises:
          UserError: the file cannot be read any more, or is shorter than it was.
        """
        file, tensor = self._tensors[name]
        dtype = DTYPES[tensor.dtype]
        width = math.prod(tensor.shape[1:])
        position = tensor.start
        for rows in row_slices(tensor.shape):
            count = (rows.stop - rows.start) * width
            try:
                stream = self._stream(file)
                stream.seek(position)
                content = stream.read(count * dtype.itemsize)
                if len(content) < count * dtype.itemsize:
                    raise OSError("it has become shorter")
            except OSError as error:
                raise UserError(
                    f"{self.folder / file} cannot be read ({error})",
                    where=name,
                    expected="a file that stays as it is",
                ) from error
            position += len(content)
            numbers = np.frombuffer(content, dtype)
            yield rows, numbers.reshape(rows.stop - rows.start, *tensor.shape[1:])

    def _stream(self, file: str) -> BinaryIO:
        # One at a time: an index may name more files than a process may open.
        if self._open is None or self._open[0] != file:
            self._close()
            self._open = file, (self.folder / file).open("rb")
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def row_slices(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yields the rows of each block of a tensor; one empty block of a tensor without numbers."""
    rows = max(1, row_blocks(shape)[0])
    for start in range(0, max(1, shape[0]), rows):
        yield slice(start, min(start + rows, shape[0]))


def to_float32(numbers: np.ndarray) -> np.ndarray:
    """Returns bfloat16, float16 or float32 numbers as float32, which holds them all exactly."""
    if numbers.dtype == ml_dtypes.bfloat16:
        # By shifting: a conversion need not keep the bits of what is not a number.
        return (numbers.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32, copy=False)


def from_float32(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Returns float32 numbers in a data type of DTYPES, rounded to the nearest where need be."""
    numbers = np.ascontiguousarray(numbers)
    bits = numbers.view(np.uint32)
    if dtype == "BF16" and not (bits & 0xFFFF).any():
        return (bits >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)
    return numbers.astype(DTYPES[dtype], copy=False)


@dataclasses.dataclass(frozen=True)
class Written:
    """A tensor to write: its blocks (rows of the first axis, any numbers of `dtype`) in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Its size in a file."""
        return math.prod(self.shape) * int(DTYPES[self.dtype].itemsize)


def write_tensors(
    folder: pathlib.Path, tensors: Sequence[Written], shard_bytes: int = int(SHARD_GB * 1e9)
) -> None:
    """Writes tensors as one file, or as several of at most `shard_bytes` bytes with an index.

    A tensor larger than that gets a file of its own. Blocks are asked for in the order of
    `tensors`, one at a time.
    """
    shards: list[list[Written]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    if len(shards) == 1:
        _write_file(folder / SINGLE, shards[0])
        return
    weights: dict[str, str] = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard)
        weights |= dict.fromkeys((tensor.name for tensor in shard), file)
    total = sum(tensor.nbytes for tensor in tensors)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weights})


def _write_file(path: pathlib.Path, tensors: Sequence[Written]) -> None:
    header, places = hf_header.write((t.name, t.dtype, t.shape) for t in tensors)
    with path.open("wb") as file:
        file.write(header)
        for tensor in tensors:
            place = places[tensor.name]
            file.seek(place.start)
            for block in tensor.blocks():
                assert block.dtype == DTYPES[tensor.dtype], (tensor.name, block.dtype)
                file.write(np.ascontiguousarray(block).view(np.uint8).data)
            assert file.tell() == place.stop, tensor.name


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file; UserError if it is missing, broken or repeats a key."""
    if not path.is_file():  # a pipe of that name would never end
        raise UserError(
            f"{path.name} is missing from {path.parent}",
            where=str(path),
            expected="a Hugging Face model folder",
            fix="download it into this folder",
        )
    try:
        if (size := path.stat().st_size) > hf_header.JSON_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        value = hf_header.parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error})", where=str(path), expected="a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no object", where=str(path), expected="a JSON object")
    return value


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file as Hugging Face does: indented, sorted keys, a newline at the end."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
