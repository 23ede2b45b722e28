"""Losses against a plain numpy reference, and against what T5X computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import losses
from flan_train.errors import UserError
from flan_train.models.layers import unconstrained


def reference(
    logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, config: losses.LossConfig
) -> dict[str, float]:
    """The same sums, token by token in float64, from the definition KL(q || p)."""
    sums = {"loss": 0.0, "z_loss": 0.0, "weight": 0.0, "correct": 0.0}
    size = logits.shape[-1]
    for row, target, weight in zip(
        logits.reshape(-1, size).astype(np.float64), targets.ravel(), weights.ravel(), strict=True
    ):
        log_z = np.log(np.sum(np.exp(row - row.max()))) + row.max()
        p = np.exp(row - log_z)
        q = np.full(size, config.label_smoothing / (size - 1))
        q[target] = 1.0 - config.label_smoothing
        kept = q > 0
        sums["loss"] += weight * np.sum(q[kept] * np.log(q[kept] / p[kept]))
        sums["z_loss"] += weight * config.z_loss * log_z**2
        sums["weight"] += weight
        sums["correct"] += weight * (np.argmax(row) == target)
    return sums


def batch(seed: int, b: int = 2, length: int = 5, v: int = 13) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    logits = random.normal(0.0, 3.0, (b, length, v)).astype(np.float32)
    targets = random.integers(0, v, (b, length)).astype(np.int32)
    weights = random.integers(0, 2, (b, length)).astype(np.float32)
    return logits, targets, weights


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    z=st.sampled_from([0.0, 1e-4, 1e-2]),
)
def test_sums_equal_the_definition(seed: int, smoothing: float, z: float) -> None:
    config = losses.LossConfig(z_loss=z, label_smoothing=smoothing)
    logits, targets, weights = batch(seed)
    total, sums = losses.cross_entropy(
        jnp.asarray(logits), jnp.asarray(targets), jnp.asarray(weights), config
    )
    expected = reference(logits, targets, weights, config)
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, expected["loss"] + expected["z_loss"], rtol=1e-5, atol=1e-4)


def test_docstring_example() -> None:
    logits = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25]]]))
    total, sums = losses.cross_entropy(
        logits, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1)), losses.LossConfig()
    )
    np.testing.assert_allclose(total, 0.6931472, rtol=1e-6)
    np.testing.assert_allclose(sums["z_loss"], 0.0, atol=1e-12)
    assert float(sums["correct"]) == 1.0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradient_is_weighted_softmax_minus_target_plus_z_term(smoothing: float) -> None:
    config = losses.LossConfig(z_loss=1e-2, label_smoothing=smoothing)
    logits, targets, weights = batch(7)
    gradient = jax.grad(
        lambda x: losses.cross_entropy(x, jnp.asarray(targets), jnp.asarray(weights), config)[0]
    )(jnp.asarray(logits))
    x = logits.astype(np.float64)
    log_z = np.log(np.exp(x).sum(-1))
    p = np.exp(x - log_z[..., None])
    q = np.full_like(p, smoothing / (p.shape[-1] - 1))
    np.put_along_axis(q, targets[..., None], 1.0 - smoothing, -1)
    expected = (p - q + 2 * config.z_loss * log_z[..., None] * p) * weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_weightless_tokens_change_nothing_even_when_their_logits_are_huge() -> None:
    logits, targets, weights = batch(3)
    weights[0] = 0.0
    altered = logits.copy()
    altered[0] = 1e15
    results = [
        losses.cross_entropy(
            jnp.asarray(x), jnp.asarray(targets), jnp.asarray(weights), losses.LossConfig(0.0)
        )[0]
        for x in (logits, altered)
    ]
    np.testing.assert_array_equal(*results)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits, targets, weights = batch(5)
    low = jnp.asarray(logits, jnp.bfloat16)
    one = losses.cross_entropy(low, jnp.asarray(targets), jnp.asarray(weights), losses.LossConfig())
    two = losses.cross_entropy(
        low.astype(jnp.float32), jnp.asarray(targets), jnp.asarray(weights), losses.LossConfig()
    )
    assert one[0].dtype == jnp.float32
    np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_loss_equals_what_t5x_recorded(flan_data_dir, kind: str) -> None:  # type: ignore[no-untyped-def]
    file = flan_data_dir / "t5x_fixture" / "forward.npz"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    recorded = np.load(file)
    total, sums = losses.cross_entropy(
        jnp.asarray(recorded[f"{kind}/logits"]),
        jnp.asarray(recorded[f"{kind}/decoder_target_tokens"]),
        jnp.asarray(recorded[f"{kind}/decoder_loss_weights"]),
        losses.LossConfig(z_loss=1e-4),
    )
    np.testing.assert_allclose(total, recorded[f"{kind}/loss"], rtol=1e-6)
    np.testing.assert_allclose(sums["z_loss"], recorded[f"{kind}/z_loss"], rtol=1e-5)
    np.testing.assert_allclose(sums["weight"], recorded[f"{kind}/weight_sum"])


def plain_and_chunked(
    seed: int, length: int, config: losses.LossConfig, dtype: str = "float32"
) -> tuple[Any, Any]:
    """((total, sums), gradients of states and table) of whole logits and of chunked ones."""
    random = np.random.default_rng(seed)
    states = jnp.asarray(random.normal(0.0, 1.0, (2, length, 8)), dtype)
    table = jnp.asarray(random.normal(0.0, 1.0, (8, 13)), jnp.float32)
    targets = jnp.asarray(random.integers(0, 13, (2, length)), jnp.int32)
    weights = jnp.asarray(random.integers(0, 2, (2, length)), jnp.float32)

    def whole(states: jax.Array, table: jax.Array) -> Any:
        logits = jnp.einsum(
            "bld,dv->blv", states, table.astype(dtype), preferred_element_type=jnp.float32
        )
        return losses.cross_entropy(logits, targets, weights, config)

    def chunked(states: jax.Array, table: jax.Array) -> Any:
        return losses.chunked_cross_entropy(
            states, table, targets, weights, config, constrain=unconstrained
        )

    def both(function: Callable[..., Any]) -> Any:
        gradients = jax.grad(lambda *x: function(*x)[0] / 3.0, (0, 1))(states, table)
        return function(states, table), gradients

    return both(whole), both(chunked)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    length=st.sampled_from([1, 7, 8]),  # every other shape is compiled anew
    chunk=st.sampled_from([0, 1, 4, 10]),
    smoothing=st.sampled_from([0.0, 0.1]),
    z=st.sampled_from([0.0, 1e-2]),
)
def test_chunks_change_neither_the_loss_nor_its_gradient(
    seed: int, length: int, chunk: int, smoothing: float, z: float
) -> None:
    config = losses.LossConfig(z_loss=z, label_smoothing=smoothing, chunk=chunk)
    whole, chunked = plain_and_chunked(seed, length, config)
    for expected, found in zip(jax.tree.leaves(whole), jax.tree.leaves(chunked), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_chunks_in_bfloat16_differ_by_its_rounding_alone() -> None:
    whole, chunked = plain_and_chunked(0, 8, losses.LossConfig(chunk=4), "bfloat16")
    np.testing.assert_allclose(chunked[0][0], whole[0][0], rtol=1e-5)
    for expected, found in zip(whole[1], chunked[1], strict=True):
        assert found.dtype == expected.dtype
        scale = float(jnp.max(jnp.abs(expected.astype(jnp.float32))))
        np.testing.assert_allclose(
            found.astype(jnp.float32), expected.astype(jnp.float32), atol=2e-2 * scale
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_step_never_holds_all_logits_in_float32(dtype: str) -> None:
    config = losses.LossConfig(chunk=4)

    def loss(states: jax.Array, table: jax.Array) -> jax.Array:
        return losses.chunked_cross_entropy(
            states,
            table,
            jnp.zeros((2, 16), jnp.int32),
            jnp.ones((2, 16)),
            config,
            constrain=unconstrained,
        )[0]

    shapes = (jax.ShapeDtypeStruct((2, 16, 8), dtype), jax.ShapeDtypeStruct((8, 13), jnp.float32))
    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*shapes))
    assert "f32[2,4,13]" in program
    assert not re.search(r"f32\[(2,16,13|4,2,4,13)\]", program)


def test_a_chunk_below_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"LossConfig\.chunk"):
        losses.LossConfig(chunk=-1)


def test_of_equal_logits_the_first_counts_as_the_model_s_answer() -> None:
    logits = jnp.asarray(np.random.default_rng(0).integers(0, 3, (4, 50, 7)), jnp.float32)
    targets = jnp.asarray(np.random.default_rng(1).integers(0, 7, (4, 50)), jnp.int32)
    weights = jnp.ones((4, 50))
    _, sums = losses.cross_entropy(logits, targets, weights, losses.LossConfig())
    expected = int((np.argmax(logits, axis=-1) == np.asarray(targets)).sum())
    assert 0 < expected < 200
    assert int(sums["correct"]) == expected
