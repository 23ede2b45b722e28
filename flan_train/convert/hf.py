"""Hugging Face T5 folders (config.json and safetensors) to parameters-only folders, and back.

Both directions are bit-exact: bfloat16 and float16 fit into float32, and what a folder said beyond
its numbers (data types, its own configuration, names stored twice) is kept in the checkpoint's
meta for the way back. Numbers pass in blocks of at most 64 MiB (`slices.BLOCK_BYTES`), however
large the model; no pickle is read or written.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flan_train import checkpoint_names, checkpoints
from flan_train.convert.checkpoint import compare, config_of
from flan_train.convert.destination import check_new, written_whole
from flan_train.convert.hf_config import (
    config_to_hf,
    generation_config,
    with_dtype,
)
from flan_train.convert.hf_files import (
    DTYPES,
    SHARD_GB,
    Written,
    from_float32,
    row_slices,
    write_json,
    write_tensors,
)
from flan_train.convert.hf_folder import META_KEY, names, opened, some
from flan_train.convert.hf_table import LM_HEAD, SHARED, TOKEN_TABLES, Source, sources
from flan_train.convert.slices import Checksums, ParamsReader, ParamsWriter
from flan_train.errors import UserError, check_number, unknown_name
from flan_train.models import t5

# What a folder may be written in; float16 would overflow where a T5's activations are large.
WRITTEN_DTYPES = {"float32": "F32", "bfloat16": "BF16"}


def hf_to_flan(
    source: str | pathlib.Path, destination: str | pathlib.Path, *, dry_run: bool = False
) -> str:
    """Writes a parameters-only folder from a Hugging Face T5 folder; returns a line about it.

    Args:
      source: a folder with config.json and model.safetensors or model.safetensors.index.json,
        in float32, bfloat16 or float16.
      destination: the folder to make; INITIAL_CHECKPOINT_PATH takes it.
      dry_run: check names, shapes and data types, and write nothing.

    Raises:
      UserError: a folder or file is missing or unreadable, the model is no T5, tensors are
        missing, unexpected or of the wrong shape (all are listed), or the destination exists or
        cannot be written.
    """
    path, destination = pathlib.Path(source), pathlib.Path(destination)
    check_new(destination)
    with opened(path) as folder:
        if not dry_run:
            shapes = {array.ours: array.shape for array in folder.sources}
            chunks = {array.ours: array.chunk_shape for array in folder.sources}
            with ParamsWriter(destination, shapes, chunks) as writer:
                for array, layer, rows, block in folder.blocks():
                    writer.write(array.ours, array.index(layer, rows), block)
                writer.commit(folder.meta())
        return _summary(path, destination, folder.config, folder.dtypes(), dry_run)


def flan_to_hf(
    source: str | pathlib.Path,
    destination: str | pathlib.Path,
    *,
    dtype: str | None = None,
    shard_gb: float = SHARD_GB,
    dry_run: bool = False,
) -> str:
    """Writes a Hugging Face T5 folder from a checkpoint; returns a line about it.

    Args:
      source: a parameters-only folder or a run's `checkpoints/<step>`; for the step, "selected"
        or "latest" will do.
      destination: the folder to make. One that came from Hugging Face gets the data types,
        configuration and repeated names it came with; any other is float32.
      dtype: "float32" or "bfloat16" for every tensor instead; bfloat16 rounds to the nearest.
      shard_gb: weights of more than so many 10^9 bytes are written as several files with an index.
      dry_run: check the names and shapes of the checkpoint, and write nothing.

    Raises:
      UserError: the checkpoint is missing, cannot be read, is not of the model it says or not what
        was saved, there is no such data type, or the destination exists or cannot be written.
    """
    if dtype is not None and dtype not in WRITTEN_DTYPES:
        raise unknown_name("data type", dtype, WRITTEN_DTYPES, where="--dtype")
    check_number("--shard_gb", shard_gb, above=0)
    path, destination = checkpoint_names.local_folder(source), pathlib.Path(destination)
    check_new(destination)
    meta = checkpoints.read_meta(path)
    config, kept = config_of(meta, path), _kept(meta, path)
    reader = _checked(path, config)
    main = kept.get("dtype", "F32")
    dtypes = {name: kept.get("other_dtypes", {}).get(name, main) for name in names(config)}
    theirs = kept.get("config") or with_dtype(config_to_hf(config), "float32")
    if dtype is not None:
        dtypes = dict.fromkeys(dtypes, WRITTEN_DTYPES[dtype])
        theirs = with_dtype(theirs, dtype)
    tables = kept.get("token_tables", [SHARED])
    generation = kept["generation_config"] if kept else generation_config()
    if not dry_run:
        with written_whole(destination) as unfinished:
            write_json(unfinished / "config.json", theirs)
            if generation:
                write_json(unfinished / "generation_config.json", generation)
            passed = Checksums({array.ours: array.shape for array in sources(config)})
            tensors = list(_their_tensors(reader, config, dtypes, tables, passed))
            write_tensors(unfinished, tensors, int(shard_gb * 1e9))
            compare(path, passed)
    return _summary(path, destination, config, dtypes.values(), dry_run)


def _their_tensors(
    reader: ParamsReader,
    config: t5.T5Config,
    dtypes: Mapping[str, str],
    tables: Sequence[str],
    passed: Checksums,
) -> Iterator[Written]:
    """Yields the tensors to write; `passed` counts each array's numbers in when they are read."""

    def blocks(source: Source, layer: int, dtype: str, first: bool) -> Iterator[np.ndarray]:
        for rows in row_slices(source.tensor_shape):
            index = source.index(layer, rows)
            block = reader.read(source.ours, index)
            if first:
                passed.add(source.ours, index, block)
            yield from_float32(block.T if source.transposed else block, dtype)

    for source in sources(config):
        for layer, name in enumerate(source.theirs):
            for number, stored in enumerate(tables if name == SHARED else [name]):
                kind = dtypes[name]
                numbers = functools.partial(blocks, source, layer, kind, number == 0)
                yield Written(stored, kind, source.tensor_shape, numbers)


def _kept(meta: Mapping[str, Any], source: pathlib.Path) -> dict[str, Any]:
    """Returns what `HfFolder.meta` kept, or nothing for a checkpoint that is a run's own."""
    kept = meta.get(META_KEY)
    if kept is None:
        return {}
    try:
        kinds = [kept["dtype"], *kept["other_dtypes"].values()]
        if not (
            set(kinds) <= DTYPES.keys()
            and set(kept["token_tables"]) <= {*TOKEN_TABLES, LM_HEAD}
            and kept["token_tables"]
            and isinstance(kept["config"], dict)
            and isinstance(kept["generation_config"], dict | None)
        ):
            raise ValueError("a value that conversion does not write")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"what {source} says of the folder it came from cannot be used ({error})",
            where=f"{source}/meta, key '{META_KEY}'",
            expected="what flan-train convert hf-to-flan writes",
            fix=f"convert it again, or remove the key '{META_KEY}' for a plain float32 folder",
        ) from error
    return dict(kept)


def _checked(source: pathlib.Path, config: t5.T5Config) -> ParamsReader:
    """Returns a reader of a checkpoint's arrays, which are those of its model."""
    reader = ParamsReader(checkpoint_names.local_folder(source) / "params")
    wanted = {array.ours: array.shape for array in sources(config)}
    there, expected = set(reader.paths), set(wanted)
    differing = {
        f"{path} {list(reader.shape(path))}, not {list(wanted[path])}"
        for path in sorted(there & expected)
        if reader.shape(path) != wanted[path]
    }
    if there != expected or differing:
        raise UserError(
            f"the arrays of {source} are not those of the model its meta describes",
            where=f"missing: {some(expected - there)}; unexpected: {some(there - expected)}; "
            f"other shape: {some(differing)}",
            expected="the parameter tree of that T5Config",
        )
    return reader


def _summary(
    source: pathlib.Path,
    destination: pathlib.Path,
    config: t5.T5Config,
    dtypes: Iterable[str],
    dry_run: bool,
) -> str:
    kinds = ", ".join(sorted({str(DTYPES[name]) for name in dtypes}))
    what = f"{t5.count_params(config):,} parameters ({kinds} outside, float32 inside)"
    if dry_run:
        return f"{source} can be converted: {what}; nothing was written"
    return f"{source} -> {destination}: {what}"
