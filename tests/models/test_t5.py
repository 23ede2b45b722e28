"""The model as a whole: sizes, ways of running it, packing, dropout."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from flan_train.convert.hf_table import flat
from flan_train.models import t5
from flan_train.models.layers import dropout, unconstrained
from tests.models import seeded

CONFIG = dataclasses.replace(
    seeded.CROSSED["t5_relu_untied"], num_encoder_layers=2, num_decoder_layers=2
)
LENGTHS = [(9, 4), (5, 6), (7, 1), (3, 5), (0, 0)]  # the last row is padding alone

forward = jax.jit(t5.apply, static_argnums=1)


@functools.cache
def initial() -> t5.Params:
    """Returns parameters of CONFIG as T5 draws them."""
    return jax.jit(t5.init_params, static_argnums=0)(CONFIG, jax.random.key(0))


@functools.cache
def batch() -> dict[str, np.ndarray]:
    """Returns four examples, one a row, and a row of padding."""
    return seeded.padded("model", LENGTHS)


def published(version: str, *sizes: int) -> t5.T5Config:
    """Returns a published size: embed, heads, mlp, layers and, where it is not 64, head dim."""
    embed, heads, mlp, layers, head_dim = (*sizes, 64)[:5]
    like = seeded.SIZES[f"t5_{version}_small"]
    return dataclasses.replace(
        like,
        vocab_size=32128,
        embed_dim=embed,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=mlp,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
    )


@pytest.mark.parametrize(
    ("version", "sizes", "count"),
    [
        ("1_1", (512, 6, 1024, 8), 76_961_152),
        ("1_1", (768, 12, 2048, 12), 247_577_856),
        ("1_1", (1024, 16, 2816, 24), 783_150_080),
        ("1_1", (2048, 32, 5120, 24), 2_849_757_184),
        ("1_1", (4096, 64, 10240, 24), 11_135_332_352),
        ("1_0", (512, 8, 2048, 6), 60_506_624),
        ("1_0", (768, 12, 3072, 12), 222_903_552),
        ("1_0", (1024, 16, 4096, 24), 737_668_096),
        ("1_0", (1024, 32, 16384, 24, 128), 2_851_598_336),
        ("1_0", (1024, 128, 65536, 24, 128), 11_307_321_344),
    ],
)
def test_published_sizes_have_the_published_number_of_parameters(
    version: str, sizes: tuple[int, ...], count: int
) -> None:
    assert t5.count_params(published(version, *sizes)) == count


def test_shapes_axes_and_arrays_are_one_tree() -> None:
    shapes, axes = flat(t5.abstract_params(CONFIG)), flat(t5.param_axes(CONFIG))
    arrays = flat(initial())
    assert shapes.keys() == axes.keys() == arrays.keys()
    for path, leaf in shapes.items():
        assert arrays[path].shape == leaf.shape, path
        assert arrays[path].dtype == leaf.dtype == jnp.float32, path
        assert len(axes[path]) == len(leaf.shape), path
        assert (axes[path][0] == "layers") == ("/layers/" in path), path
    assert shapes["encoder/layers/attention/query/kernel"].shape == (2, 16, 32)
    assert axes["encoder/layers/attention/query/kernel"] == ("layers", "embed", "heads")
    assert axes["decoder/layers/mlp/wo/kernel"] == ("layers", "mlp", "embed")
    assert axes["decoder/relpos_bias/rel_embedding"] == ("heads", "buckets")


def test_tied_models_have_no_output_projection() -> None:
    assert "logits_dense" in t5.abstract_params(CONFIG)["decoder"]
    tied = dataclasses.replace(CONFIG, tie_embeddings=True)
    assert "logits_dense" not in t5.abstract_params(tied)["decoder"]


def test_initial_standard_deviations() -> None:
    arrays = flat(initial())
    expected = {
        "token_embedder/embedding": 1.0,
        "encoder/relpos_bias/rel_embedding": 16**-0.5,
        "encoder/layers/attention/query/kernel": (16 * 8) ** -0.5,
        "encoder/layers/attention/key/kernel": 16**-0.5,
        "decoder/layers/self_attention/value/kernel": 16**-0.5,
        "decoder/layers/encoder_decoder_attention/out/kernel": 32**-0.5,
        "encoder/layers/mlp/wi/kernel": 16**-0.5,
        "encoder/layers/mlp/wo/kernel": 24**-0.5,
        "decoder/logits_dense/kernel": 16**-0.5,
    }
    for path, std in expected.items():
        assert np.std(arrays[path]) == pytest.approx(std, rel=0.15), path
    assert (np.asarray(arrays["decoder/decoder_norm/scale"]) == 1).all()
    kernels = np.asarray(arrays["encoder/layers/attention/key/kernel"])
    assert not np.allclose(kernels[0], kernels[1])


@functools.cache
def loss_and_gradient(scan_layers: bool, remat_policy: str) -> tuple[float, dict[str, Any]]:
    """Returns a loss with dropout on, and its gradient, for one way of running the layers."""
    config = dataclasses.replace(
        CONFIG, scan_layers=scan_layers, remat_policy=remat_policy, dropout_rate=0.2
    )

    key = jax.random.key(5, impl="rbg")  # compiles in half the time of the default kind

    def loss(params: t5.Params) -> jax.Array:
        logits = t5.apply(params, config, batch(), dropout_key=key)
        return jnp.mean(jnp.square(logits)[batch()["decoder_segment_ids"] == 1])

    value, gradient = jax.jit(jax.value_and_grad(loss))(initial())
    return float(value), flat(gradient)


@pytest.mark.parametrize(
    ("scan_layers", "remat_policy"),
    [(False, "none"), (True, "full"), (True, "dots")],
)
def test_every_way_of_running_gives_the_same_numbers(scan_layers: bool, remat_policy: str) -> None:
    value, gradient = loss_and_gradient(True, "none")
    other, other_gradient = loss_and_gradient(scan_layers, remat_policy)
    assert other == pytest.approx(value, rel=1e-5)
    for path, array in gradient.items():
        scale = float(jnp.abs(array).max())
        assert scale > 0, path
        np.testing.assert_allclose(
            other_gradient[path] / scale, array / scale, atol=1e-5, err_msg=path
        )


def test_packed_rows_equal_unpacked_ones() -> None:
    alone = np.asarray(forward(initial(), CONFIG, batch()))
    rows = [[3, 0], [1, 2]]
    together = np.asarray(forward(initial(), CONFIG, seeded.packed(batch(), rows)))
    assert np.isfinite(together).all()
    for example, part in seeded.unpacked_logits(together, batch(), rows).items():
        np.testing.assert_allclose(part, alone[example, : len(part)], atol=1e-5)


def test_nothing_crosses_a_segment_border_and_nothing_looks_ahead() -> None:
    rows = [[3, 0], [1, 2]]
    packed = seeded.packed(batch(), rows)
    before = np.asarray(forward(initial(), CONFIG, packed))
    changed = {key: value.copy() for key, value in packed.items()}
    segments = changed["encoder_segment_ids"]
    changed["encoder_input_tokens"][segments == 2] = 5
    targets = changed["decoder_segment_ids"]
    changed["decoder_input_tokens"][targets == 2] = 6
    changed["decoder_input_tokens"][1, 3:6] = 7  # the end of the second row's first segment
    after = np.asarray(forward(initial(), CONFIG, changed))
    same = (targets == 1) & ~((np.arange(targets.shape[1]) >= 3) & (np.arange(2)[:, None] == 1))
    np.testing.assert_array_equal(after[same], before[same])
    assert not np.allclose(after[targets == 2], before[targets == 2])


def test_a_row_of_padding_leaves_everything_finite() -> None:
    assert batch()["decoder_segment_ids"][-1].sum() == 0
    assert np.isfinite(np.asarray(forward(initial(), CONFIG, batch()))).all()
    _, gradient = loss_and_gradient(True, "none")
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in gradient.values())


def test_bfloat16_activations_stay_near_float32_and_logits_are_float32() -> None:
    config = dataclasses.replace(CONFIG, dtype="bfloat16")

    def loss(params: t5.Params) -> tuple[jax.Array, jax.Array]:
        logits = t5.apply(params, config, batch())
        return jnp.mean(logits**2), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(initial())
    assert logits.dtype == jnp.float32
    real = batch()["decoder_segment_ids"] == 1
    exact = np.asarray(forward(initial(), CONFIG, batch()))[real]
    assert np.abs(np.asarray(logits)[real] - exact).max() < 0.1 * exact.std() + 0.05
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_dropout_follows_its_key_and_is_off_without_one() -> None:
    config = dataclasses.replace(CONFIG, dropout_rate=0.3)
    run = jax.jit(lambda key: t5.apply(initial(), config, batch(), dropout_key=key))
    one, again, other = (np.asarray(run(jax.random.key(i, impl="rbg"))) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    off = jax.make_jaxpr(lambda: t5.apply(initial(), config, batch()))()
    assert "random_bits" not in str(off)


def test_dropout_keeps_the_mean_and_drops_whole_columns() -> None:
    x = jnp.ones((2, 3, 4000))
    y = np.asarray(dropout(x, 0.25, jax.random.key(0)))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (y == y[:, :1]).all()
    assert y.mean() == pytest.approx(1.0, abs=0.03)
    assert dropout(x, 0.25, None) is x


def test_constrain_sees_every_activation_with_an_axis_name_a_dimension() -> None:
    seen = set()

    class Recording:
        platform = "cpu"

        def __call__(self, x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
            assert len(axes) == x.ndim
            seen.add(axes)
            return x

        def parts(self, axis: str) -> int:
            assert axis == "vocab"
            return 2

        per_shard = unconstrained.per_shard

    config = dataclasses.replace(CONFIG, attention="plain")
    jax.eval_shape(lambda: t5.apply(initial(), config, batch(), constrain=Recording()))
    assert seen == {
        ("batch", "length", "embed"),
        ("batch", "length", "heads"),
        ("batch", "heads", "length", "kv"),
        ("batch", "length", "mlp"),
        ("batch", "length", "vocab"),
        ("heads", None, None),
        ("vocab", None),
    }


def test_a_parameter_tree_of_another_model_is_refused() -> None:
    other = dataclasses.replace(CONFIG, mlp_activation="gated-gelu")
    with pytest.raises((KeyError, ValueError, AttributeError)):
        t5.apply(initial(), other, batch())


def test_the_annotated_shapes_are_checked() -> None:
    encode = jaxtyped(t5.encode, typechecker=beartype)
    tokens = batch()["encoder_input_tokens"]
    with pytest.raises(TypeCheckError, match="segment_ids"):
        encode(initial(), CONFIG, tokens, tokens[:, 1:])
    with pytest.raises(TypeCheckError, match="tokens"):
        encode(initial(), CONFIG, tokens.astype(np.float32), tokens)
