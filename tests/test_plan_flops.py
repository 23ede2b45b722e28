"""What a T5 needs, by its formula."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from flan_train.models import t5
from flan_train.plan_flops import model_flops

MODEL = t5.T5Config(
    vocab_size=512,
    embed_dim=128,
    num_heads=2,
    head_dim=64,
    mlp_dim=256,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
    attention="plain",
    scan_layers=False,
)


@pytest.mark.parametrize("activation", ["gated-gelu", "relu"])
def test_the_formula_is_the_work_of_the_compiled_forward_pass(activation: str) -> None:
    model = dataclasses.replace(MODEL, mlp_activation=activation)
    rows, inputs, targets = 2, 128, 64
    batch = {
        **{f"encoder_{name}": jax.ShapeDtypeStruct((rows, inputs), jnp.int32) for name in _NAMES},
        **{f"decoder_{name}": jax.ShapeDtypeStruct((rows, targets), jnp.int32) for name in _NAMES},
    }
    forward = jax.jit(lambda params, batch: t5.apply(params, model, batch))
    compiled = forward.lower(t5.abstract_params(model), batch).compile()
    # Normalisation, softmax and masks come on top of the multiplications of matrices.
    work = compiled.cost_analysis()["flops"]
    assert model_flops(model, rows, inputs, targets) / 3 == pytest.approx(work, rel=0.08)
    assert model_flops(model, rows, inputs, targets) / 3 < work


_NAMES = ("input_tokens", "segment_ids", "positions")


def test_the_work_of_the_largest_model() -> None:
    xxl = dataclasses.replace(
        MODEL,
        vocab_size=32128,
        embed_dim=4096,
        num_heads=64,
        mlp_dim=10240,
        num_encoder_layers=24,
        num_decoder_layers=24,
    )
    found = model_flops(xxl, 64, 1024, 256)
    # Six operations a parameter and place, roughly: the places of inputs pass the encoder alone.
    per_place = (4.7e9 * 64 * 1024 + 6.3e9 * 64 * 256) * 6
    assert found == pytest.approx(per_place, rel=0.15)
    assert model_flops(xxl, 128, 1024, 256) == pytest.approx(2 * found)
