"""Reading one checkpoint's folder, and finding out that it is not what was written.

`meta` holds under "checksums" what the other items were when they were saved: "params" and
"opt_state" (path -> `checkpoint_checksums.checksums`), "shapes" (of both, path -> "float32[8,4]"),
"data" and "meta" (a digest of what JSON holds). A folder of a converter may have some of these
alone, and one of an older version none.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp

from flan_train import (
    checkpoint_checksums,
    checkpoint_failures,
    checkpoint_remote,
    checkpoint_room,
    errors,
    storage,
)
from flan_train.checkpoint_names import FOLDER, JSON_FILE

log = logging.getLogger(__name__)

CHECKSUMS = "checksums"
_LISTED = 8  # differing parameters that a message shows
# What a restored array is written in: reading a part of one reads little else.
CHUNK_BYTES = 64 * 2**20
# Each of Orbax's data files holds about so much: an object store takes a file as a whole.
FILE_BYTES = 256 * 2**20
# What reading may raise though the files are whole: there is no room for the arrays.
_NOT_OF_FILES = (MemoryError, jax.errors.JaxRuntimeError)
_KINDS = {"params": "model", "opt_state": "optimizer"}


class DamagedCheckpoint(errors.UserError):
    """A checkpoint that cannot be read, or holds other numbers than were saved.

    Args:
      what: one sentence, what is wrong.
      where: the file or folder.
      arrays: the paths of those that are not as they were saved, where that is known.
    """

    def __init__(self, what: str, where: str, arrays: list[str] | None = None) -> None:
        self.arrays = arrays or []
        super().__init__(
            what,
            where=where,
            expected="a checkpoint whose files are whole",
            fix="use an earlier checkpoint, or copy this one anew",
        )


def with_checksums(
    meta: Mapping[str, Any],
    arrays: Mapping[str, Any],
    data: Any = None,
    counted: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] | None = None,
) -> dict[str, Any]:
    """Returns `meta` with the checksums of what is saved beside it.

    Args:
      meta: what is to be known of the checkpoint.
      arrays: item ("params", "opt_state") -> tree of JAX or numpy arrays.
      data: the position in the data; None where there is none.
      counted: item -> checksums and what `described` returns, of one that is not whole in memory.
    """
    pairs: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
        name: (_checksums(tree), described(tree)) for name, tree in arrays.items()
    }
    pairs |= counted or {}
    found: dict[str, Any] = {name: sums for name, (sums, _) in pairs.items()}
    found["shapes"] = {name: shapes for name, (_, shapes) in pairs.items()}
    if data is not None:
        found["data"] = checkpoint_checksums.digest(data)
    sealed = {**meta, CHECKSUMS: found}
    found["meta"] = checkpoint_checksums.digest(sealed)
    return sealed


def save_arguments(tree: Any) -> ocp.args.PyTreeSave:
    """Returns how Orbax is to write arrays: in chunks of which others than the writer read a few.

    A run on one device would write a layer stack of gigabytes as one chunk.
    """
    how = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), tree)
    return ocp.args.PyTreeSave(tree, save_args=how, ocdbt_target_data_file_size=FILE_BYTES)


def read_meta(path: storage.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a checkpoint's `meta` without its checksums, and the checksums (empty: none kept).

    Raises:
      DamagedCheckpoint: it cannot be read, was altered, or is of another step than the folder says.
    """
    folder = path / "meta"
    meta = _read_json(folder)
    recorded = meta.pop(CHECKSUMS, {})
    try:
        seal = recorded.get("meta")
        unsealed = {name: value for name, value in recorded.items() if name != "meta"}
        whole = seal in (None, checkpoint_checksums.digest({**meta, CHECKSUMS: unsealed}))
        whole = whole and all(isinstance(recorded.get(name, {}), dict) for name in _KINDS)
    except AttributeError:
        whole = False
    if not whole:
        raise DamagedCheckpoint("meta is not what was saved", str(folder / JSON_FILE))
    of_a_run = path.parent.name == FOLDER and path.name.isdecimal()
    if of_a_run and meta.get("step", int(path.name)) != int(path.name):
        raise DamagedCheckpoint(
            f"the checkpoint is of step {meta['step']}, but its folder is called {path.name}",
            str(path),
        )
    return meta, recorded


def read_data(path: storage.Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's position in the data.

    Raises:
      DamagedCheckpoint: it cannot be read, or was altered.
    """
    data = _read_json(path / "data")
    if recorded.get("data") not in (None, checkpoint_checksums.digest(data)):
        raise DamagedCheckpoint("data is not what was saved", str(path / "data" / JSON_FILE))
    return data


def read_arrays(path: storage.Path, item: str, abstract: Any, recorded: Mapping[str, Any]) -> Any:
    """Returns the arrays of an item as they are on the disk; `compare` tells whether to trust them.

    Each process reads what its own devices hold, chunks in parallel.

    Args:
      path: the checkpoint.
      item: "params" or "opt_state".
      abstract: shapes, types and shardings of the arrays; None for numpy arrays of whatever is
        there. The types that were saved are read.
      recorded: the checksums.

    Raises:
      UserError: they are those of another model or optimizer.
      DamagedCheckpoint: they cannot be read.
    """
    folder = path / item
    checkpoint_failures.told_once()
    there = check_same(path, item, abstract, recorded)
    if abstract is None:
        checkpoint_room.check_memory(size(there), str(folder))
        placed = None
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), there)
        restore = ocp.args.PyTreeRestore(restore_args=arguments)
    else:
        stored = _leaves(there)
        placed = jax.tree_util.tree_map_with_path(
            lambda key, leaf: _placed(leaf, stored[_name(key)].dtype), abstract
        )
        arguments = ocp.checkpoint_utils.construct_restore_args(placed)
        restore = ocp.args.PyTreeRestore(item=placed, restore_args=arguments)
    if isinstance(folder, storage.RemotePath):
        return _read_by_tensorstore(folder, lambda: checkpoint_remote.read(folder, placed))
    reader = ocp.PyTreeCheckpointHandler()
    try:
        return reader.restore(folder, args=restore)
    except _NOT_OF_FILES:
        raise
    except Exception as error:  # Orbax and TensorStore raise many types for a damaged folder
        raise _unreadable(folder, error) from error
    finally:
        reader.close()


def compare(path: storage.Path, item: str, arrays: Any, recorded: Mapping[str, Any]) -> None:
    """Raises DamagedCheckpoint when arrays that were read are not those that were saved."""
    if item not in recorded:
        return
    differing = checkpoint_checksums.differing(recorded[item], _checksums(arrays))
    if differing:
        listed = ", ".join(differing[:_LISTED])
        more = f" and {len(differing) - _LISTED} more" if len(differing) > _LISTED else ""
        raise DamagedCheckpoint(
            f"{item} of {path} are not what was saved: the checksums of {len(differing)} of "
            f"{len(recorded[item])} arrays differ: {listed}{more}",
            str(path / item),
            differing,
        )


def as_asked(arrays: Any, abstract: Any) -> Any:
    """Returns arrays in the types of `abstract`; as they are where it is None."""
    if abstract is None:
        return arrays
    return jax.tree.map(
        lambda array, leaf: array if array.dtype == leaf.dtype else array.astype(leaf.dtype),
        arrays,
        abstract,
    )


def check_same(path: storage.Path, item: str, abstract: Any, recorded: Mapping[str, Any]) -> Any:
    """Returns what describes an item's arrays on the disk, once it is what it should be.

    Args:
      path: the checkpoint.
      item: "params" or "opt_state".
      abstract: what is wanted; None for anything.
      recorded: the checksums.

    Raises:
      UserError: they are those of another model or optimizer; lists what differs.
      DamagedCheckpoint: the description cannot be read, or is not what was saved.
    """
    folder = path / item
    there = _array_metadata(folder)
    if not isinstance(folder, storage.RemotePath):
        # What Orbax takes as it is said: chunks that no memory holds would end the process.
        _read_by_tensorstore(folder, lambda: checkpoint_remote.Arrays(folder).shapes)
    saved = recorded.get("shapes", {}).get(item)
    if saved is not None and saved != described(there):
        raise DamagedCheckpoint("the arrays have other shapes than were saved", str(folder))
    if abstract is not None:
        _check_same(folder, there, abstract, _KINDS[item])
    return there


def described(tree: Any) -> dict[str, str]:
    """Returns path -> type and shape of each array, such as "float32[8,4]"."""
    return {
        name: f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
        for name, leaf in _leaves(tree).items()
    }


def size(tree: Any) -> int:
    """Returns the bytes of all arrays."""
    return sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree)
    )


def _checksums(tree: Any) -> dict[str, str]:
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
        return checkpoint_checksums.checksums(tree)
    return checkpoint_checksums.of_numpy(tree)


def _read_json(folder: storage.Path) -> dict[str, Any]:
    file = folder / JSON_FILE
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error
    return cast(dict[str, Any], value)


def _array_metadata(folder: storage.Path) -> Any:
    """Returns the tree of what has a `shape` and a `dtype` in an item's folder."""
    if isinstance(folder, storage.RemotePath):
        return _read_by_tensorstore(folder, lambda: checkpoint_remote.described(folder))
    # The handler alone: a Checkpointer around it would look for a commit marker inside the item.
    reader = ocp.PyTreeCheckpointHandler()
    try:
        tree = reader.metadata(folder).tree
        described(tree)
        return tree
    except _NOT_OF_FILES:
        raise
    except Exception as error:  # as above
        raise _unreadable(folder, error) from error
    finally:
        reader.close()


def _read_by_tensorstore(folder: storage.Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(folder, error) from error


def _placed(leaf: Any, dtype: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _leaves(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _check_same(folder: storage.Path, there: Any, wanted: Any, kind: str) -> None:
    """Raises UserError that lists what differs, on both sides."""
    theirs, ours = (
        {name: tuple(leaf.shape) for name, leaf in _leaves(tree).items()}
        for tree in (there, wanted)
    )
    if theirs == ours:
        return
    lines = []
    for title, keys in (
        ("only in the checkpoint", [k for k in theirs if k not in ours]),
        (f"only in this {kind}", [k for k in ours if k not in theirs]),
    ):
        lines += [f"{title}: {k} {list((theirs | ours)[k])}" for k in sorted(keys)[:_LISTED]]
        if len(keys) > _LISTED:
            lines.append(f"{title}: {len(keys) - _LISTED} more")
    differing = [k for k in sorted(ours) if k in theirs and ours[k] != theirs[k]]
    lines += [
        f"{k}: {list(theirs[k])} in the checkpoint, {list(ours[k])} in this {kind}"
        for k in differing[:_LISTED]
    ]
    if len(differing) > _LISTED:
        lines.append(f"{len(differing) - _LISTED} more of other shapes")
    raise errors.UserError(
        f"the checkpoint is of another {kind}\n    " + "\n    ".join(lines),
        where=str(folder),
        expected=f"{len(ours)} arrays of the shapes of this {kind}",
        fix="use the model's gin file that the checkpoint was made with"
        if kind == "model"
        else "keep OptimizerConfig as it was, or start anew from the parameters with "
        "INITIAL_CHECKPOINT_PATH",
    )


def _unreadable(path: storage.Path, error: Exception) -> errors.UserError:
    cause: BaseException = error
    while cause.__cause__ is not None:  # Orbax tells where, TensorStore what
        cause = cause.__cause__
    lines = storage.without_details(str(cause)).strip().splitlines()
    reason = next((line.strip() for line in lines if line.strip()), type(cause).__name__)[:300]
    what = f"{path} cannot be read: {reason}"
    if isinstance(error, PermissionError) or "PERMISSION_DENIED" in str(error):
        return errors.UserError(
            what, expected="files that this user may read", fix="ask for the right to read them"
        )
    return DamagedCheckpoint(what, str(path))
