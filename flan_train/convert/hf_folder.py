"""A Hugging Face T5 folder: checked against its own config.json, then read in blocks of rows."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from flan_train import __version__
from flan_train.convert.hf_config import config_from_hf
from flan_train.convert.hf_files import DTYPES, TensorFiles, read_json, to_float32
from flan_train.convert.hf_header import shown
from flan_train.convert.hf_table import LM_HEAD, SHARED, TOKEN_TABLES, UNREAD, Source, sources
from flan_train.errors import UserError
from flan_train.models import t5

META_KEY = "hugging_face"


class HfFolder:
    """A Hugging Face T5 folder whose names, shapes and data types have been checked."""

    def __init__(self, path: pathlib.Path, files: TensorFiles) -> None:
        self.path = path
        self.files = files
        self.hf_config = read_json(path / "config.json")
        generation = path / "generation_config.json"
        # Before the weights are written, which takes a while.
        self._generation = read_json(generation) if generation.is_file() else None
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
                where=f"missing: {some(missing)}; unexpected: {some(unexpected)}",
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
            pairs = zip(self.files.blocks(name), self.files.blocks(first), strict=True)
            if not all(np.array_equal(_bits(one), _bits(two)) for (_, one), (_, two) in pairs):
                raise UserError(
                    f"{name} and {first} of {self.path} differ",
                    where=name,
                    expected="two names of one token table",
                    fix="set tie_word_embeddings to false in config.json if the output is a"
                    " projection of its own"
                    if name == LM_HEAD
                    else "a T5 with two token tables cannot be represented",
                )

    def blocks(self) -> Iterator[tuple[Source, int, slice, np.ndarray]]:
        """Yields (array of ours, layer, rows of that layer's tensor, float32 as ours has them)."""
        for source in self.sources:
            for layer, name in enumerate(source.theirs):
                for rows, stored in self.files.blocks(self._stored(name)):
                    block = to_float32(stored)
                    yield source, layer, rows, block.T if source.transposed else block

    def params(self) -> t5.Params:
        """Returns the whole parameter tree, float32 numpy arrays."""
        arrays = {source.ours: np.empty(source.shape, np.float32) for source in self.sources}
        for source, layer, rows, block in self.blocks():
            arrays[source.ours][source.index(layer, rows)] = block
        tree: t5.Params = {}
        for path, array in arrays.items():
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
        dtypes = dict(zip(names(self.config), self.dtypes(), strict=True))
        main = max(DTYPES, key=lambda name: list(dtypes.values()).count(name))
        return {
            "step": 0,
            "config_hash": None,
            "manifest_hash": None,
            "code_version": __version__,
            "model": dataclasses.asdict(self.config),
            META_KEY: {
                "config": self.hf_config,
                "generation_config": self._generation,
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


def names(config: t5.T5Config) -> list[str]:
    """Returns a model's tensors under their Hugging Face names, in the order of `sources`."""
    return [name for source in sources(config) for name in source.theirs]


def some(names: set[str], limit: int = 8) -> str:
    """Returns the first names of a set for a message, and how many more there are."""
    listed = [shown(name) for name in sorted(names)[:limit]]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(listed) + more if names else "none"


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint32)
