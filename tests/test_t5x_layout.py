"""Names and shapes of T5X's two networks: which model they are, and what differs is listed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flan_train import t5x_layout
from flan_train.errors import UserError
from flan_train.models import t5
from flan_train.t5x_params import shapes_of
from tests import t5x_folder
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
Shapes = dict[str, tuple[int, ...]]


def shapes(layout: str, config: t5.T5Config = UNTIED) -> Shapes:
    """Returns the names and shapes of a model in one of T5X's layouts."""
    wanted = t5x_layout.sources(shapes_of(t5.abstract_params(config)), layout)
    return {key: source.key_shape for source in wanted for key in source.keys}


@pytest.mark.parametrize("name", seeded.ALL)
@pytest.mark.parametrize("layout", t5x_layout.LAYOUTS)
def test_the_model_follows_from_the_shapes(layout: str, name: str) -> None:
    there = shapes(layout, seeded.ALL[name])
    assert t5x_layout.layout_of(there, "") == layout
    assert t5x_layout.config_of(there, layout, "") == seeded.ALL[name]


def test_names_and_shapes_are_those_that_t5x_uses() -> None:
    params = t5x_folder.flat_params(UNTIED)
    assert shapes("unrolled") == {k: v.shape for k, v in t5x_folder.unrolled(params).items()}
    expected = {k: v.shape for k, v in t5x_folder.scanned(params, UNTIED).items()}
    assert shapes("scanned") == expected
    # 3 layers, 16 wide, 4 heads of 8, 24 in the MLP, 32 buckets.
    assert expected["encoder/encoder/attention/query/kernel"] == (16, 3, 4, 8)
    assert expected["encoder/encoder/attention/out/kernel"] == (4, 3, 8, 16)
    assert expected["encoder/encoder/mlp/wo/kernel"] == (24, 3, 16)
    assert expected["encoder/encoder/pre_mlp_layer_norm/scale"] == (16, 3)
    assert expected["encoder/encoder/relpos_bias/rel_embedding"] == (4, 3, 32)
    assert expected["encoder/encoder_norm/scale"] == (16,)


def test_scanned_arrays_there_and_back() -> None:
    params = t5x_folder.flat_params(UNTIED)
    theirs = t5x_folder.scanned(params, UNTIED)
    for source in t5x_layout.sources({k: v.shape for k, v in params.items()}, "scanned"):
        if source.scanned:
            array = theirs[source.keys[0]]
            np.testing.assert_array_equal(source.from_scanned(array), params[source.ours])
            np.testing.assert_array_equal(source.to_scanned(params[source.ours]), array)


def _set(name: str, shape: tuple[int, ...]) -> Callable[[Shapes], object]:
    return lambda there: there.update({name: shape})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda there: there.pop("token_embedder/embedding"), "embedding is missing"),
        (_set("token_embedder/embedding", (16,)), r"of the shape \[16\]"),
        (_set("encoder/relpos_bias/rel_embedding", (5, 32)), "which 5 heads do not divide"),
        (_set("encoder/relpos_bias/rel_embedding", (0, 32)), "of the shape"),
        (_set("encoder/relpos_bias/rel_embedding", (4, 3)), "relative_buckets = 3"),
        (_set("encoder/layers_9000/mlp/wi/kernel", (16, 24)), "says it has 9001 layers"),
        (_set("token_embedder/embedding", (2**39, 16)), "vocab_size = 549755813888"),
    ],
)
def test_shapes_of_no_t5(change: Callable[[Shapes], object], message: str) -> None:
    there = shapes("unrolled")
    change(there)
    with pytest.raises(UserError, match=message):
        t5x_layout.config_of(there, "unrolled", "there")


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match="are not those of a T5 of T5X's") as caught:
        t5x_layout.layout_of({"decoder/blocks/kernel": 0}, "there")
    assert "decoder/blocks/kernel" in str(caught.value)


def test_what_differs_is_listed_on_both_sides() -> None:
    wanted = shapes("unrolled")
    there = {name: np.empty(shape, np.int8) for name, shape in wanted.items()}
    there["encoder/layers_7/mlp/wi/kernel"] = there.pop("encoder/layers_0/mlp/wi/kernel")
    there["encoder/encoder_norm/scale"] = np.empty(15, np.int8)
    with pytest.raises(UserError) as caught:
        t5x_layout.check_keys(there, wanted, "there")
    text = str(caught.value)
    assert "only in the checkpoint: encoder/layers_7/mlp/wi/kernel" in text
    assert "only in the model: encoder/layers_0/mlp/wi/kernel" in text
    assert "encoder/encoder_norm/scale: [15] in the checkpoint, [16] in the model" in text
