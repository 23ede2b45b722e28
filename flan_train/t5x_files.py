"""Native T5X checkpoint folders as files from anywhere: which leaves there are, and their numbers.

Such a folder (google-research/t5x, format version 3) holds a flax msgpack file `checkpoint` and one
zarr v2 folder for each large array, which the msgpack file refers to by a relative path. Nothing of
what the files say is believed before it has been compared with what lies on the disk: paths stay
inside the folder, and a shape allocates nothing until there are bytes enough to fill it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
import tensorstore as ts

from flan_train import storage
from flan_train.errors import UserError
from flan_train.t5x_arrays import (
    DTYPES,
    MAX_RANK,
    StoredArray,
    check_array,
    checked_shape,
    damaged_array,
)

CHECKPOINT_FILE = "checkpoint"
ARRAY_EXTENSION, SCALAR_EXTENSION = 1, 3  # flax.serialization's codes

_VERSIONS = (2, 3)
_DRIVERS = ("file", "gfile", "gcs")  # of a spec; only its path counts, the folder is where it is
_MAX_FILE_BYTES = 4 * 2**30
_MAX_DEPTH = 16
_MAX_KEYS = 2**17
_MAX_NAME = 1024
_READING = (ValueError, OSError, RuntimeError)  # what TensorStore raises
_STEP_FOLDER = re.compile(r"checkpoint_(\d{1,18})")


@dataclasses.dataclass(frozen=True)
class InlineArray:
    """An array that the msgpack file holds."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.array.shape

    @property
    def dtype(self) -> str:
        """Its type by name, one of DTYPES."""
        return self.array.dtype.name


Leaf = StoredArray | InlineArray


def is_t5x(path: storage.AnyPath) -> bool:
    """Returns whether this is a native T5X checkpoint: a folder with the file `checkpoint`.

    The file itself will do, as in T5X. A folder of ours never holds a file of that name.
    """
    path = storage.located(path)
    file = path if path.name == CHECKPOINT_FILE and path.is_file() else path / CHECKPOINT_FILE
    return file.is_file() and not (file.parent / "params").exists()


def steps_inside(path: storage.AnyPath) -> list[int]:
    """Returns the steps of the T5X checkpoints in a T5X MODEL_DIR, ascending."""
    path = storage.located(path)
    if not path.is_dir():
        return []
    found = ((_STEP_FOLDER.fullmatch(one.name), one) for one in path.iterdir())
    return sorted(int(match.group(1)) for match, one in found if match and is_t5x(one))


class T5XFolder:
    """A native T5X checkpoint whose msgpack file has been read; arrays are read one by one.

    Attributes:
      path: the folder.
      leaves: every array of the training state by its key, such as
        "target/encoder/encoder_norm/scale" or "state/param_states/.../v_row".
      version: the format's version.

    Raises:
      UserError: the folder or its file is missing, damaged, or says what no T5X would.
    """

    def __init__(self, path: storage.AnyPath) -> None:
        path = storage.located(path)
        if not is_t5x(path):
            steps = steps_inside(path)
            raise UserError(
                f"{path} is no native T5X checkpoint",
                expected=f"a folder checkpoint_<step> with the file {CHECKPOINT_FILE} in it",
                fix=f"name one of the checkpoints in it, such as {path / f'checkpoint_{steps[-1]}'}"
                if steps
                else "name the folder that T5X wrote for one step",
            )
        self.file = path if path.is_file() else path / CHECKPOINT_FILE
        self.path = self.file.parent
        tree = _unpacked(self.file)
        self.version = tree.get("version")
        if type(self.version) is not int or self.version not in _VERSIONS:
            raise self._damaged(f"its version is {str(self.version)[:40]}")
        state = tree.get("optimizer")
        if not isinstance(state, dict):
            raise self._damaged("it has no training state under the key 'optimizer'")
        self.leaves: dict[str, Leaf] = {}
        self._checked: set[str] = set()
        self._last: tuple[str, Any] | None = None
        self._add(state, "", 0)

    def keys(self, prefix: str) -> dict[str, Leaf]:
        """Returns the leaves under a prefix such as "target/", by the rest of their keys."""
        return {
            key.removeprefix(prefix): leaf
            for key, leaf in self.leaves.items()
            if key.startswith(prefix)
        }

    @property
    def step(self) -> int:
        """The step T5X had made, pre-training included.

        Raises:
          UserError: it is not there, or no whole number.
        """
        leaf = self.leaves.get("state/step")
        if (
            not isinstance(leaf, InlineArray)
            or leaf.array.size != 1
            or leaf.array.dtype.kind != "i"
            or int(leaf.array.reshape(())) < 0
        ):
            raise self._damaged("its step is missing, or no whole number")
        return int(leaf.array.reshape(()))

    def check(self, key: str) -> None:
        """Raises the UserError that `read` would for what can be seen without reading numbers."""
        leaf = self.leaves[key]
        if isinstance(leaf, StoredArray) and key not in self._checked:
            # What no update has been added to is zero, and tensorstore may leave zeros out.
            fresh = key.startswith("state/") and self.step == 0
            try:
                check_array(leaf, sparse=fresh)
            except OSError as error:
                raise damaged_array(leaf, str(error.strerror)) from error
            if isinstance(self.path, storage.RemotePath):  # each look costs several requests there
                self._checked.add(key)

    def read(self, key: str, box: tuple[slice, ...] = ()) -> np.ndarray:
        """Returns one array, or the part of it that `box` names, in the type it is stored in.

        Raises:
          UserError: its files are missing or damaged, or not what the msgpack file says.
        """
        return self.started(key, box)()

    def started(self, key: str, box: tuple[slice, ...] = ()) -> Callable[[], np.ndarray]:
        """Begins what `read` does; returns what waits for it. Both raise as `read` does."""
        leaf = self.leaves[key]
        if isinstance(leaf, InlineArray):
            part = leaf.array[box]
            return lambda: part
        try:
            array = self._opened(key, leaf)
            reading = array[box].read() if box else array.read()
        except _READING as error:
            raise _damaged_by(leaf, error) from error

        def finished() -> np.ndarray:
            try:
                return np.asarray(reading.result())
            except _READING as error:
                raise _damaged_by(leaf, error) from error

        return finished

    def chunk(self, key: str) -> tuple[int, ...]:
        """Returns the shape of the chunks that an array is stored in; raises as `read` does."""
        leaf = self.leaves[key]
        if isinstance(leaf, InlineArray):
            return leaf.array.shape
        try:
            return tuple(self._opened(key, leaf).chunk_layout.read_chunk.shape)
        except _READING as error:
            raise _damaged_by(leaf, error) from error

    def _opened(self, key: str, leaf: StoredArray) -> Any:
        # The parts of an array are asked for one after the other.
        if self._last is None or self._last[0] != key:
            self.check(key)
            spec = {"driver": "zarr", "kvstore": storage.kvstore(leaf.folder)}
            opening = ts.open(spec, open=True, read=True, write=False, context=storage.context())
            self._last = key, opening.result()
        return self._last[1]

    def _add(self, node: Mapping[str, Any], prefix: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._damaged(f"its state is nested more than {_MAX_DEPTH} levels deep")
        for name, value in node.items():
            if not name or "/" in name or not name.isprintable():
                raise self._damaged(f"it has the name {name[:80]!a}")
            key = prefix + name
            if isinstance(value, dict) and not {"driver", "kvstore"} <= value.keys():
                self._add(value, f"{key}/", depth + 1)
            elif isinstance(value, dict):
                self.leaves[key] = self._stored(key, value)
            elif isinstance(value, np.ndarray):
                self.leaves[key] = InlineArray(value)
            elif type(value) is int and -(2**31) <= value < 2**31:
                self.leaves[key] = InlineArray(np.asarray(value, np.int32))
            elif value is not None:  # the state of a parameter that is not trained
                raise self._damaged(f"{key} is of the kind {type(value).__name__}")

    def _stored(self, key: str, spec: Mapping[str, Any]) -> StoredArray:
        store, described = spec["kvstore"], spec.get("metadata")
        if not isinstance(store, dict) or not isinstance(described, dict):
            raise self._damaged(f"{key} has no description of its array")
        if spec["driver"] != "zarr" or store.get("driver") not in _DRIVERS or "transform" in spec:
            raise self._damaged(
                f"{key} is stored as {str(spec['driver'])[:40]!a} on "
                f"{str(store.get('driver'))[:40]!a}"
            )
        shape = checked_shape(described.get("shape"))
        if shape is None:
            raise self._damaged(f"{key} has the shape {str(described.get('shape'))[:80]!a}")
        dtype = spec.get("dtype", described.get("dtype"))
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise self._damaged(f"{key} is of the data type {str(dtype)[:40]!a}")
        # Beside the kvstore before tensorstore 0.1.14.
        return StoredArray(
            self._inside(key, store.get("path", spec.get("path"))), shape, dtype, self.path
        )

    def _inside(self, key: str, name: object) -> storage.Path:
        parts = name.rstrip("/").split("/") if isinstance(name, str) else []
        fits = (
            isinstance(name, str)
            and len(name) <= _MAX_NAME
            and name.isprintable()
            and "\\" not in name
            and all(part not in ("", ".", "..") for part in parts)
        )
        # A name too odd to stand for a file must not reach the operating system either.
        if not fits or not parts:
            raise self._damaged(f"{key} lies in {str(name)[:80]!a}, outside of the folder")
        return self.path.joinpath(*parts)

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self.file} is no T5X training state: {what}",
            expected="a checkpoint that T5X wrote, format version 3",
            fix="copy it anew from where it comes from",
        )


def _damaged_by(leaf: StoredArray, error: Exception) -> UserError:
    return damaged_array(leaf, str(error).strip().splitlines()[0][:300])


def _unpacked(file: storage.Path) -> dict[str, Any]:
    try:
        data = storage.read_limited(file, _MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read: {error}",
            expected="the file of a T5X checkpoint: large arrays have folders of their own",
        ) from error
    if data.startswith(b"model_checkpoint_path"):
        raise UserError(
            f"{file} belongs to a TensorFlow checkpoint, not to a native T5X one",
            expected="the msgpack file that T5X writes",
            fix="convert it with T5X first (t5x/scripts/convert_tf_checkpoint.py)",
        )
    try:
        tree = msgpack.unpackb(
            data,
            ext_hook=_extension,
            object_pairs_hook=_unique,
            max_array_len=MAX_RANK,
            max_map_len=_MAX_KEYS,
            max_str_len=_MAX_NAME,
            max_bin_len=len(data),
            max_ext_len=len(data),
        )
        if not isinstance(tree, dict):
            raise ValueError(f"it holds a {type(tree).__name__}")
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise UserError(
            f"{file} cannot be read as msgpack: {str(error)[:200] or type(error).__name__}",
            expected="the whole file, as T5X wrote it",
            fix="copy it anew from where it comes from",
        ) from error
    return tree


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise ValueError(f"a name is of the kind {type(name).__name__}")
        if name in found:
            raise ValueError(f"the name {name[:80]!a} is there twice")
        found[name] = value
    return found


def _extension(code: int, data: bytes) -> np.ndarray:
    if code not in (ARRAY_EXTENSION, SCALAR_EXTENSION):
        raise ValueError(f"an object of the unknown kind {code}")
    value = msgpack.unpackb(
        data, max_array_len=MAX_RANK, max_map_len=0, max_str_len=32, max_ext_len=0
    )
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("an array without shape, type and numbers")
    shape, name, buffer = checked_shape(value[0]), value[1], value[2]
    if shape is None or not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"an array of shape {str(value[0])[:80]} and type {str(name)[:40]!a}")
    dtype = DTYPES[name][1]
    if not isinstance(buffer, bytes) or math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"an array of shape {list(shape)} with other than so many numbers")
    return np.frombuffer(buffer, dtype).reshape(shape)
