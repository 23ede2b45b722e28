"""Folders that transformers writes and reads itself; needs PyTorch."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from flan_train import checkpoints
from flan_train.convert import hf
from flan_train.convert.hf_config import config_to_hf
from flan_train.models import t5
from tests.convert.hf_folder import (
    TIED,
    assert_same_bits,
)
from tests.models import seeded


@pytest.mark.torch
@pytest.mark.parametrize("name", ["t5_1_1_small", "t5_1_0_small"])
def test_live_round_trip_through_transformers(name: str, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tests.golden import make_hf_goldens as maker

    config = seeded.ALL[name]
    model = maker.reference(config, seeded.params(config)).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "hf")
    hf.hf_to_flan(tmp_path / "hf", tmp_path / "flan")
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    assert_same_bits(
        safetensors.numpy.load_file(tmp_path / "back" / "model.safetensors"),
        safetensors.numpy.load_file(tmp_path / "hf" / "model.safetensors"),
    )
    batch = seeded.padded(name, [(5, 3), (8, 4)])
    one, other = (
        transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / folder).float().eval()
        for folder in ("hf", "back")
    )
    np.testing.assert_array_equal(maker.logits(one, batch), maker.logits(other, batch))

    # A folder of ours alone, without anything kept from theirs.
    checkpoints.save_params(
        tmp_path / "run", seeded.params(config), {"model": vars(config) | {"dropout_rate": 0.0}}
    )
    hf.flan_to_hf(tmp_path / "run", tmp_path / "fresh")
    fresh = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "fresh").eval()
    expected = maker.logits(maker.reference(config, seeded.params(config)), batch)
    np.testing.assert_array_equal(maker.logits(fresh, batch), expected)


@pytest.mark.torch
def test_live_mt5_computes_the_same(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tests.golden import make_hf_goldens as maker

    config = dataclasses.replace(TIED, tie_embeddings=False)
    batch = seeded.padded("mt5", [(5, 3), (8, 4)])
    described = config_to_hf(config) | {"model_type": "mt5"}
    torch.manual_seed(0)
    model = transformers.MT5ForConditionalGeneration(transformers.MT5Config(**described)).eval()
    # Its output has weights of its own, as in every published mT5.
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(tmp_path / "hf")
    hf.hf_to_flan(tmp_path / "hf", tmp_path / "flan")
    params, meta = checkpoints.load_params(tmp_path / "flan")
    ours = t5.apply(params, t5.T5Config(**meta["model"]), batch)
    expected = maker.logits(model, batch)
    kept = np.asarray(batch["decoder_segment_ids"]) > 0
    np.testing.assert_allclose(np.asarray(ours)[kept], expected[kept], rtol=1e-4, atol=1e-4)

    hf.flan_to_hf(tmp_path / "flan", tmp_path / "back")
    back = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "back").eval()
    np.testing.assert_array_equal(maker.logits(back, batch), expected)
    hf.flan_to_hf(tmp_path / "flan", tmp_path / "half", dtype="bfloat16", shard_gb=1e-5)
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 1
    half = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "half")
    assert half.dtype == torch.bfloat16
    rounded = model.to(torch.bfloat16).state_dict()
    for name, tensor in half.state_dict().items():
        assert torch.equal(tensor.float(), rounded[name].float()), name
