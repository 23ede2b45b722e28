"""config.json of Hugging Face: which T5 it says, and what it says wrongly."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from flan_train.convert import hf
from flan_train.convert.hf_config import config_from_hf, config_to_hf
from flan_train.errors import UserError
from flan_train.models import t5
from tests.convert.hf_folder import (
    UNTIED,
    folder_of,
    tensors_of,
)
from tests.models import seeded


@pytest.mark.parametrize("config", seeded.ALL.values(), ids=seeded.ALL)
def test_config_round_trip(config: t5.T5Config) -> None:
    assert config_from_hf(config_to_hf(config), where="") == config


def test_configs_of_older_and_newer_transformers() -> None:
    old = {
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_heads": 8,
        "num_layers": 6,
    }
    small = config_from_hf(old, where="")
    assert (small.mlp_activation, small.tie_embeddings) == ("relu", True)
    assert (small.num_decoder_layers, small.relative_max_distance) == (6, 128)
    newer = old | {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert not config_from_hf(newer, where="").tie_embeddings
    assert not config_from_hf(old | {"tie_word_embeddings": False}, where="").tie_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bart"}, "type 'bart'"),
        ({"d_model": None}, "lacks d_model"),
        ({"feed_forward_proj": "gated-silu"}, "'gated-silu', which is not supported"),
        ({"is_gated_act": True}, "is_gated_act is True"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'"),
        ({"num_heads": 0}, "num_heads = 0 cannot be"),
        ({"num_layers": 10**9}, "says it has 1000000001 layers"),
        ({"relative_attention_num_buckets": 32.0}, "relative_attention_num_buckets is 32.0"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is 1000"),
        ({"model_type": ["t5"] * 999}, r"\.\.\."),
    ],
)
def test_other_configs_are_refused(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    theirs = folder_of(tmp_path / "hf", UNTIED, tensors_of(UNTIED), change)
    with pytest.raises(UserError, match=message) as caught:
        hf.hf_to_flan(theirs, tmp_path / "flan")
    assert "config.json" in str(caught.value)
    assert not (tmp_path / "flan").exists()
