"""Small Hugging Face folders, written by hand."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

from flan_train.convert import hf_files
from flan_train.convert.hf_config import config_to_hf
from flan_train.convert.hf_table import flat, sources
from flan_train.models import t5
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
TIED = seeded.CROSSED["t5_gated_tied"]
TABLE_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")

Tensors = dict[str, np.ndarray]


def tensors_of(config: t5.T5Config, dtype: Any = np.float32) -> Tensors:
    """Returns a model's tensors under their Hugging Face names."""
    arrays = flat(seeded.params(config))
    found = {}
    for source in sources(config):
        for i, name in enumerate(source.theirs):
            one = arrays[source.ours][i] if source.stacked else arrays[source.ours]
            found[name] = np.ascontiguousarray(one.T if source.transposed else one).astype(dtype)
    return found


def written(tensors: Tensors) -> list[hf_files.Written]:
    """Returns float32 tensors as the writer takes them."""
    return [
        hf_files.Written(name, "F32", tensor.shape, lambda tensor=tensor: iter([tensor]))
        for name, tensor in tensors.items()
    ]


def folder_of(
    path: pathlib.Path, config: t5.T5Config, tensors: Tensors, extra: dict[str, Any] | None = None
) -> pathlib.Path:
    """Writes a Hugging Face folder by hand and returns it."""
    path.mkdir()
    described = config_to_hf(config) | (extra or {})
    (path / "config.json").write_text(json.dumps(described))
    safetensors.numpy.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def assert_same_bits(one: Tensors, other: Tensors) -> None:
    """Asserts equal names, data types and bits."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.tobytes() == other[name].tobytes(), name
