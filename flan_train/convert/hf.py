"""Hugging Face T5 folders (config.json and safetensors) to parameters-only folders, and back.

Both directions are bit-exact: bfloat16 and float16 fit into float32, and what a folder said beyond
its numbers (data types, its own configuration, names stored twice) is kept in the checkpoint's
meta for the way back. Tensors pass one at a time; no pickle is read or written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from flan_train import __version__, checkpoints
from flan_train.convert.hf_config import config_from_hf, config_to_hf
from flan_train.convert.hf_files import TensorFiles, read_json, write_json, write_tensors
from flan_train.convert.hf_table import LM_HEAD, SHARED, TOKEN_TABLES, UNREAD, flat, sources
from flan_train.errors import UserError, check_writable, not_written
from flan_train.models import t5

META_KEY = "hugging_face"
DTYPES: dict[str, Any] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}


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
    source, destination = pathlib.Path(source), pathlib.Path(destination)
    _check_destination(destination)
    with opened(source) as folder:
        if not dry_run:
            checkpoints.save_params(destination, folder.params(), folder.meta())
        return _summary(source, destination, folder.config, folder.dtypes(), dry_run)


def flan_to_hf(
    source: str | pathlib.Path, destination: str | pathlib.Path, *, dry_run: bool = False
) -> str:
    """Writes a Hugging Face T5 folder from a checkpoint; returns a line about it.

    Args:
      source: a parameters-only folder or a run's `checkpoints/<step>`.
      destination: the folder to make. One that came from Hugging Face gets the data types,
        configuration and repeated names it came with; any other is float32.
      dry_run: read and check the checkpoint, and write nothing.

    Raises:
      UserError: the checkpoint is missing or not of the model it says, or the destination exists
        or cannot be written.
    """
    source, destination = pathlib.Path(source), pathlib.Path(destination)
    _check_destination(destination)
    params, meta = checkpoints.load_params(source)
    config = _config_of(meta, source)
    arrays = _checked(params, config, source)
    kept = meta.get(META_KEY) or {}
    main = kept.get("dtype", "F32")
    dtypes = {name: kept.get("other_dtypes", {}).get(name, main) for name in _names(config)}
    tables = kept.get("token_tables", [SHARED])
    if not dry_run:
        with _written_whole(destination) as unfinished:
            write_json(unfinished / "config.json", kept.get("config") or config_to_hf(config))
            if kept.get("generation_config"):
                write_json(unfinished / "generation_config.json", kept["generation_config"])
            write_tensors(unfinished, _their_tensors(arrays, config, dtypes, tables))
    return _summary(source, destination, config, dtypes.values(), dry_run)


class HfFolder:
    """A Hugging Face T5 folder whose names, shapes and data types have been checked."""

    def __init__(self, path: pathlib.Path, files: TensorFiles) -> None:
        self.path = path
        self.files = files
        self.hf_config = read_json(path / "config.json")
        self.config = config_from_hf(self.hf_config, where=str(path / "config.json"))
        layers = self.config.num_encoder_layers + self.config.num_decoder_layers
        if layers > len(files.names):
            raise UserError(
                f"{path} says it has {layers} layers, but holds {len(files.names)} tensors",
                where=str(path / "config.json"),
                expected="several tensors for each layer",
            )
        self.sources = sources(self.config)
        self.tables = self._check_names()
        self._check_tensors()
        self._check_tables()

    def _check_names(self) -> list[str]:
        wanted = {name for source in self.sources for name in source.theirs}
        tables = [*TOKEN_TABLES, *([LM_HEAD] if self.config.tie_embeddings else [])]
        present = [name for name in tables if name in self.files.names]
        # Any one of its names will do for the token table.
        missing = wanted - set(self.files.names) - set(tables if present else ())
        unexpected = set(self.files.names) - wanted - set(tables) - {UNREAD}
        if missing or unexpected:
            raise UserError(
                f"the tensors of {self.path} are not those of the T5 its config.json describes",
                where=f"missing: {_some(missing)}; unexpected: {_some(unexpected)}",
                expected=f"exactly the {len(wanted)} tensors of this configuration",
                fix="check tie_word_embeddings, feed_forward_proj and num_layers in config.json"
                " against the files",
            )
        return present

    def _stored(self, name: str) -> str:
        return self.tables[0] if name == SHARED else name

    def _check_tensors(self) -> None:
        wrong = []
        embedding = next(s.tensor_shape for s in self.sources if SHARED in s.theirs)
        expected = {name: s.tensor_shape for s in self.sources for name in s.theirs}
        expected |= dict.fromkeys(self.tables, embedding)
        for name, shape in expected.items():
            there = self.files.shape(self._stored(name))
            if there != shape:
                wrong.append(f"{name} is {there}, expected {shape}")
            elif self.files.dtype(self._stored(name)) not in DTYPES:
                wrong.append(f"{name} is {self.files.dtype(self._stored(name))}")
        if wrong:
            raise UserError(
                f"{len(wrong)} tensors of {self.path} have another shape or data type",
                where="; ".join(wrong[:8]) + ("; ..." if len(wrong) > 8 else ""),
                expected=f"the shapes config.json describes, as one of {', '.join(DTYPES)}",
            )

    def _check_tables(self) -> None:
        first, *others = self.tables
        for name in others:
            if not np.array_equal(_bits(self.files.read(name)), _bits(self.files.read(first))):
                raise UserError(
                    f"{name} and {first} of {self.path} differ",
                    where=name,
                    expected="two names of one token table",
                    fix="set tie_word_embeddings to false in config.json if the output is a"
                    " projection of its own"
                    if name == LM_HEAD
                    else "a T5 with two token tables cannot be represented",
                )

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (our path, float32 array) one after another."""
        for source in self.sources:
            array = np.empty(source.shape, np.float32)
            for i, name in enumerate(source.theirs):
                tensor = self.files.read(self._stored(name))
                array[i if source.stacked else ...] = tensor.T if source.transposed else tensor
            yield source.ours, array

    def params(self) -> t5.Params:
        """Returns the whole parameter tree, float32 numpy arrays."""
        tree: t5.Params = {}
        for path, array in self.arrays():
            *parents, last = path.split("/")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = array
        return tree

    def dtypes(self) -> list[str]:
        """Returns the data type of each tensor, in the order of `sources`."""
        names = [name for source in self.sources for name in source.theirs]
        return [self.files.dtype(self._stored(name)) for name in names]

    def meta(self) -> dict[str, Any]:
        """Returns the checkpoint's meta, with what the way back needs."""
        names = _names(self.config)
        dtypes = dict(zip(names, self.dtypes(), strict=True))
        main = max(DTYPES, key=lambda name: list(dtypes.values()).count(name))
        generation = self.path / "generation_config.json"
        return {
            "step": 0,
            "config_hash": None,
            "manifest_hash": None,
            "code_version": __version__,
            "model": dataclasses.asdict(self.config),
            META_KEY: {
                "config": self.hf_config,
                "generation_config": read_json(generation) if generation.is_file() else None,
                "dtype": main,
                "other_dtypes": {name: kind for name, kind in dtypes.items() if kind != main},
                "token_tables": self.tables,
            },
        }


@contextlib.contextmanager
def opened(path: str | pathlib.Path) -> Iterator[HfFolder]:
    """Opens a Hugging Face T5 folder and checks it; UserError says what does not fit."""
    path = pathlib.Path(path)
    if not path.is_dir():
        raise UserError(
            f"there is no folder {path}",
            expected="a Hugging Face model folder with config.json and model.safetensors",
            fix="download the model's files into a folder, and name that folder",
        )
    with TensorFiles(path) as files:
        yield HfFolder(path, files)


def _names(config: t5.T5Config) -> list[str]:
    return [name for source in sources(config) for name in source.theirs]


def _their_tensors(
    arrays: Mapping[str, np.ndarray],
    config: t5.T5Config,
    dtypes: Mapping[str, str],
    tables: Sequence[str],
) -> Iterator[tuple[str, np.ndarray]]:
    for source in sources(config):
        for i, name in enumerate(source.theirs):
            one = arrays[source.ours][i] if source.stacked else arrays[source.ours]
            one = one.T if source.transposed else one
            tensor = np.ascontiguousarray(one, dtype=DTYPES[dtypes[name]])
            for stored in tables if name == SHARED else [name]:
                yield stored, tensor


def _config_of(meta: Mapping[str, Any], source: pathlib.Path) -> t5.T5Config:
    try:
        return t5.T5Config(**meta["model"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{source} does not say which T5 it is ({error})",
            where=f"{source}/meta, key 'model'",
            expected="the fields of T5Config",
        ) from error


def _checked(params: t5.Params, config: t5.T5Config, source: pathlib.Path) -> dict[str, np.ndarray]:
    arrays = {path: np.asarray(leaf) for path, leaf in flat(params).items()}
    there = {path: array.shape for path, array in arrays.items()}
    wanted = {path: leaf.shape for path, leaf in flat(t5.abstract_params(config)).items()}
    if there != wanted:
        differing = {p for p in there.keys() & wanted.keys() if there[p] != wanted[p]}
        raise UserError(
            f"the arrays of {source} are not those of the model its meta describes",
            where=f"missing: {_some(wanted.keys() - there.keys())}; "
            f"unexpected: {_some(there.keys() - wanted.keys())}; other shape: {_some(differing)}",
            expected="the parameter tree of that T5Config",
        )
    return arrays


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint32)


def _some(names: set[str], limit: int = 8) -> str:
    shown = sorted(names)[:limit]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown) + more if names else "none"


def _check_destination(destination: pathlib.Path) -> None:
    if destination.exists():
        raise UserError(
            f"{destination} exists already", expected="a new folder", fix="name another"
        )
    check_writable("the folder", destination)


@contextlib.contextmanager
def _written_whole(destination: pathlib.Path) -> Iterator[pathlib.Path]:
    # Under another name until complete, so that a folder of that name is always a whole one.
    unfinished = destination.with_name(f".{destination.name}.writing-{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.rename(destination)
    except (OSError, safetensors.SafetensorError) as error:
        raise not_written("the folder", destination, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
