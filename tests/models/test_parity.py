"""Our numbers beside those of Hugging Face's T5: golden files, and live with PyTorch."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train import decode
from flan_train.convert import hf
from flan_train.models import t5
from tests.models import seeded

TOLERANCE = 1e-4
# Which examples share a row: all three are in the first, and the other rows are padding alone.
ROWS: list[list[int]] = [[2, 0, 1], [], []]
ROOM = (200, 24)  # one shape for padded and packed, so that each model is compiled once

forward = jax.jit(t5.apply, static_argnums=1)


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one golden file."""
    path = pathlib.Path(__file__).parent.parent / "golden" / f"hf_{name}.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def worst(ours: np.ndarray, theirs: np.ndarray, real: np.ndarray) -> float:
    """Returns the largest difference of logits at real tokens, and checks that all are finite."""
    assert np.isfinite(ours).all()
    return float(np.abs(ours - theirs)[real == 1].max())


def roomy(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the batch with padding up to ROOM."""
    lengths = {"encoder": ROOM[0], "decoder": ROOM[1]}
    return {
        key: np.pad(value, ((0, 0), (0, lengths[key.split("_")[0]] - value.shape[1])))
        for key, value in batch.items()
    }


@pytest.mark.parametrize("name", seeded.ALL)
def test_logits_equal_hugging_face_padded_and_packed(name: str) -> None:
    config, saved = seeded.ALL[name], golden(name)
    params = seeded.params(config)
    batch = {key: saved[key] for key in saved if key.startswith(("encoder_", "decoder_"))}
    found = np.asarray(forward(params, config, roomy(batch)))
    assert np.isfinite(found).all()
    found = found[:, : saved["logits"].shape[1]]
    assert worst(found, saved["logits"], batch["decoder_segment_ids"]) < TOLERANCE

    found = np.asarray(forward(params, config, roomy(seeded.packed(batch, ROWS))))
    assert np.isfinite(found).all()
    for example, part in seeded.unpacked_logits(found, batch, ROWS).items():
        np.testing.assert_allclose(
            part, saved["logits"][example, : len(part)], atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("name", ["t5_1_1_small", "t5_1_0_small"])
def test_long_targets_equal_hugging_face(name: str) -> None:
    config, saved = seeded.ALL[name], golden(name)
    batch = {key.removeprefix("long/"): saved[key] for key in saved if key.startswith("long/")}
    theirs = batch.pop("logits")
    logits = np.asarray(forward(seeded.params(config), config, batch))
    assert worst(logits, theirs, batch["decoder_segment_ids"]) < TOLERANCE


@pytest.mark.parametrize("name", ["t5_1_1_base", "t5_1_0_xl", "t5_relu_untied"])
def test_greedy_decoding_equals_hugging_face(name: str) -> None:
    config, saved = seeded.ALL[name], golden(name)
    length = saved["generated"].shape[1]
    ours = decode.greedy(seeded.params(config), config, saved["prompts"], max_length=length)
    np.testing.assert_array_equal(ours, saved["generated"])


def test_the_golden_files_hold_rows_that_end_early() -> None:
    assert (golden("t5_1_1_base")["generated"] == 1).any()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["t5_1_1_small", "t5_1_0_xxl"])
def test_live_hugging_face_with_its_own_random_weights(name: str, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; golden files stand in")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from flan_train.convert.hf_config import config_to_hf
    from tests.golden import make_hf_goldens as maker

    config = seeded.ALL[name]
    torch.manual_seed(3)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config_to_hf(config))
    ).eval()
    with torch.no_grad():
        if not config.tie_embeddings:
            model.lm_head.weight = torch.nn.Parameter(
                torch.randn(config.vocab_size, config.embed_dim)
            )
        for key, value in model.named_parameters():
            if "layer_norm" not in key:
                value.copy_(torch.randn_like(value) * (0.3 if "shared" in key else 0.2))
    model.save_pretrained(tmp_path / "hf")
    with hf.opened(tmp_path / "hf") as folder:
        params, read = folder.params(), folder.config
    assert dataclasses.replace(read, dropout_rate=0.0) == config
    batch = seeded.padded(f"{name}/live", [(9, 5), (140, 7)])
    ours = np.asarray(forward(params, config, batch))
    assert worst(ours, maker.logits(model, batch), batch["decoder_segment_ids"]) < TOLERANCE
    prompts = jnp.asarray(batch["encoder_input_tokens"])
    ours = decode.greedy(params, config, prompts, max_length=8)
    np.testing.assert_array_equal(ours, maker.generate(model, np.asarray(prompts), 8))
