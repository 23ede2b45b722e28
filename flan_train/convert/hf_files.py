"""Safetensors folders as Hugging Face lays them out: one file, or several with an index."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from flan_train.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


class TensorFiles:
    """The tensors of a folder by name; a context manager. Nothing is read until asked for."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._open: dict[str, Any] = {}  # file name -> open file
        self._file: dict[str, str] = {}  # tensor -> file name

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
                where=f"it has {', '.join(pickled)}" if pickled else str(self.folder),
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
        for file in self._open.values():
            file.__exit__(kind, error, traceback)

    def _add(self, name: str) -> None:
        path = self.folder / name
        try:
            file = safetensors.safe_open(path, framework="np")
            file.__enter__()
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({error})",
                where=str(path),
                expected="a whole safetensors file",
                fix="download it again",
            ) from error
        self._open[name] = file
        for tensor in file.keys():  # noqa: SIM118  the object is no mapping
            if tensor in self._file:
                raise UserError(
                    f"the tensor {tensor} is there more than once",
                    where=f"{self.folder}: {self._file[tensor]} and {name}",
                    expected="every tensor in one file",
                )
            self._file[tensor] = name

    def _add_indexed(self, index: pathlib.Path) -> None:
        weights = read_json(index).get("weight_map")
        if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
            raise UserError(
                "the index has no weight_map", where=str(index), expected="tensor -> file name"
            )
        for name in sorted(set(weights.values())):
            # A file name from a downloaded index must not lead out of the folder.
            if pathlib.PurePath(name).name != name or "\\" in name:
                raise UserError(
                    f"the index names {name!r}", where=str(index), expected="a file of its folder"
                )
            if not (self.folder / name).is_file():
                raise UserError(
                    f"{name} is missing from {self.folder}",
                    where=str(index),
                    expected="every file the index names",
                    fix="download it into this folder",
                )
            self._add(name)
        if weights != self._file:
            elsewhere = sorted(
                tensor
                for tensor in weights.keys() | self._file.keys()
                if weights.get(tensor) != self._file.get(tensor)
            )
            raise UserError(
                f"the index and the files of {self.folder} disagree about {len(elsewhere)} tensors",
                where=", ".join(elsewhere[:8]),
                expected="each tensor in the file the index names, and no others",
            )

    @property
    def names(self) -> list[str]:
        """Every tensor's name."""
        return list(self._file)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape from the header alone."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Returns a tensor's data type as safetensors calls it: F32, BF16 ..."""
        return str(self._slice(name).get_dtype())

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor."""
        return self._open[self._file[name]].get_tensor(name)

    def _slice(self, name: str) -> Any:
        return self._open[self._file[name]].get_slice(name)


def write_tensors(
    folder: pathlib.Path,
    tensors: Iterable[tuple[str, np.ndarray]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors as one file, or as several of at most `shard_bytes` bytes with an index.

    Holds one file's tensors in memory at a time.
    """
    shards: list[list[str]] = []
    batch: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        part = folder / f"part-{len(shards)}"
        safetensors.numpy.save_file(batch, part, metadata={"format": "pt"})
        shards.append(list(batch))
        batch.clear()

    for name, tensor in tensors:
        if batch and sum(t.nbytes for t in batch.values()) + tensor.nbytes > shard_bytes:
            flush()
        batch[name] = tensor
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (folder / "part-0").rename(folder / SINGLE)
        return
    weights: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{i}").rename(folder / file)
        weights |= dict.fromkeys(names, file)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weights})


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file; UserError if it is missing, broken or repeats a key."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in pairs:
            if key in found:
                raise ValueError(f"the key {key} is there more than once")
            found[key] = item
        return found

    try:
        value = json.loads(path.read_text("utf-8"), object_pairs_hook=unique)
    except FileNotFoundError as error:
        raise UserError(
            f"{path.name} is missing from {path.parent}",
            where=str(path),
            expected="a Hugging Face model folder",
            fix="download it into this folder",
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error})", where=str(path), expected="a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no object", where=str(path), expected="a JSON object")
    return value


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file as Hugging Face does: indented, sorted keys, a newline at the end."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", "utf-8")
