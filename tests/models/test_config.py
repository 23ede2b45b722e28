"""T5Config refuses what no T5 can have, and the gin files give the published sizes."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from typing import Any

import gin
import pytest

from flan_train.errors import UserError
from flan_train.models import t5
from tests.models import seeded

CONFIG = seeded.SIZES["t5_1_1_small"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embed_dim", 0, "whole number from 1"),
        ("num_heads", 2.5, "whole number from 1"),
        ("mlp_dim", True, "whole number from 1"),
        ("vocab_size", 2**31, "whole number from 1"),
        ("mlp_activation", "gated-silu", "did you mean gated-gelu"),
        ("remat_policy", "ful", "did you mean full"),
        ("dtype", "bfloat", "did you mean bfloat16"),
        ("tie_embeddings", 1, "True or False"),
        ("scan_layers", "yes", "True or False"),
        ("dropout_rate", 1.0, "from 0 up to"),
        ("dropout_rate", "0.1", "from 0 up to"),
        ("norm_epsilon", 0, "above 0"),
        ("relative_buckets", 6, "multiple of 4"),
        ("relative_max_distance", 16, "more than half of relative_buckets"),
    ],
)
def test_impossible_values_are_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        dataclasses.replace(CONFIG, **{field: value})
    assert f"T5Config.{field}" in str(caught.value)


@pytest.fixture
def _clean_gin(repository: pathlib.Path) -> Any:
    gin.clear_config()
    gin.add_config_file_search_path(str(repository / "flan_train"))
    yield
    gin.clear_config()


@pytest.mark.usefixtures("_clean_gin")
@pytest.mark.parametrize("size", ["small", "base", "large", "xl", "xxl"])
@pytest.mark.parametrize("version", ["1_1", "1_0"])
def test_gin_files_give_the_size_they_name(
    version: str, size: str, repository: pathlib.Path
) -> None:
    path = repository / "t5x_configs" / "models" / f"t5_{version}_{size}.gin"
    gin.parse_config_file(str(path))
    config = t5.T5Config(**gin.get_bindings("flan_train.models.t5.T5Config"))
    stated = re.search(r": ([\d,]+) parameters", path.read_text("utf-8"))
    assert stated is not None
    assert t5.count_params(config) == int(stated.group(1).replace(",", ""))
    assert config.tie_embeddings == (version == "1_0")
    assert (config.dropout_rate, config.scan_layers) == (0.0, True)
    assert (config.remat_policy, config.dtype) == ("none", "float32")
    # The reduced models of the parity tests have this size's proportions.
    small = seeded.SIZES[f"t5_{version}_{size}"]
    for ratio in (
        lambda c: c.num_heads * c.head_dim / c.embed_dim,
        lambda c: c.mlp_dim / c.embed_dim,
    ):
        assert ratio(small) == pytest.approx(ratio(config))
    assert small.mlp_activation == config.mlp_activation


@pytest.mark.usefixtures("_clean_gin")
def test_macros_reach_the_config(repository: pathlib.Path) -> None:
    gin.parse_config_file(str(repository / "t5x_configs" / "models" / "t5_1_1_small.gin"))
    gin.parse_config(
        'DROPOUT_RATE = 0.05\nSCAN_LAYERS = False\nREMAT_POLICY = "dots"\n'
        'ACTIVATION_DTYPE = "bfloat16"'
    )
    config = t5.T5Config(**gin.get_bindings("flan_train.models.t5.T5Config"))
    assert (config.dropout_rate, config.scan_layers) == (0.05, False)
    assert (config.remat_policy, config.dtype) == ("dots", "bfloat16")
