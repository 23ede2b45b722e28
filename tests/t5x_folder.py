"""Native T5X checkpoints written by hand: msgpack, JSON and gzip, nothing of the product's."""

from __future__ import annotations

import gzip
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from flan_train.models import t5
from tests.models import seeded

ZARR_DTYPES = {"float32": "<f4", "bfloat16": "bfloat16"}


def inline(array: np.ndarray) -> msgpack.ExtType:
    """Returns an array as flax keeps it in msgpack."""
    fields = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(fields))


def stored(
    folder: pathlib.Path, name: str, array: np.ndarray, chunks: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Writes a zarr folder and returns what T5X's msgpack file says of it, as written to gs://."""
    described = {
        "chunks": list(chunks or array.shape),
        "compressor": {"id": "gzip", "level": 1},
        "shape": list(array.shape),
    }
    path = folder / name
    path.mkdir(parents=True)
    zarr = described | {
        "dtype": ZARR_DTYPES[array.dtype.name],
        "fill_value": None,
        "filters": None,
        "order": "C",
        "zarr_format": 2,
    }
    (path / ".zarray").write_text(json.dumps(zarr))
    chunks = chunks or array.shape
    grid = [-(-size // chunk) for size, chunk in zip(array.shape, chunks, strict=True)]
    for place in np.ndindex(*grid):
        block = np.zeros(chunks, array.dtype)
        part = array[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, chunks, strict=True))]
        block[tuple(slice(0, size) for size in part.shape)] = part
        file = path / ".".join(map(str, place))
        file.write_bytes(gzip.compress(block.tobytes(), 1))
    store = {"bucket": "t5x-dummy-bucket", "driver": "gcs", "path": f"{name}/"}
    return {"driver": "zarr", "dtype": array.dtype.name, "kvstore": store, "metadata": described}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of a mapping from paths."""
    tree: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *parents, last = key.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def unrolled(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns our flat parameters under the names of T5X's network t5."""
    found = {}
    for path, array in params.items():
        if "/layers/" in path:
            for i, layer in enumerate(array):
                found[path.replace("/layers/", f"/layers_{i}/")] = layer
        else:
            found[path] = array
    return found


def scanned(params: Mapping[str, np.ndarray], config: t5.T5Config) -> dict[str, np.ndarray]:
    """Returns our flat parameters under the names of T5X's network scalable_t5."""
    heads = (config.num_heads, config.head_dim)
    layers = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    found = {}
    for path, array in params.items():
        stack, kind = path.split("/")[0], path.split("/")[-2]
        if kind in ("query", "key", "value"):
            array = np.einsum("LDHK->DLHK", array.reshape(*array.shape[:2], *heads))
        elif kind == "out":
            array = np.einsum("LHKD->HLKD", array.reshape(len(array), *heads, -1))
        elif "/layers/" in path:
            array = array.swapaxes(0, 1)
        elif kind == "relpos_bias":
            array = np.stack([array] * layers[stack], axis=1)
        else:
            found[path] = array
            continue
        found[path.replace("/layers/", "/").replace("/", f"/{stack}/", 1)] = array
    return found


def write(
    folder: pathlib.Path,
    target: Mapping[str, np.ndarray],
    state: Mapping[str, Any] | None = None,
    step: int = 1_000_000,
    **changes: Any,
) -> pathlib.Path:
    """Writes a checkpoint and returns its folder; `changes` replace keys of its msgpack file."""
    folder.mkdir(parents=True)
    leaves: dict[str, Any] = {
        f"target/{key}": stored(folder, f"target.{key.replace('/', '.')}", array)
        for key, array in target.items()
    }
    leaves["state/step"] = inline(np.int32(step).reshape(()))
    for key, value in (state or {}).items():
        leaves[f"state/param_states/{key}"] = value
    tree = {"version": 3, "optimizer": nested(leaves)} | changes
    (folder / "checkpoint").write_bytes(msgpack.packb(tree))
    return folder


def flat_params(config: t5.T5Config, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Returns seeded parameters by path, rounded to `dtype`."""
    from flan_train.convert.hf_table import flat

    kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    return {path: array.astype(kind) for path, array in flat(seeded.params(config)).items()}
