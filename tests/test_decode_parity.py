"""Outputs equal those of Hugging Face's `generate`, token for token: golden files, and live."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from flan_train import decode
from flan_train.models import t5
from tests.golden import make_decode_goldens as goldens
from tests.models import seeded


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one golden file."""
    with np.load(goldens.FOLDER / f"decode_{name}.npz") as arrays:
        return dict(arrays)


def params_of(name: str) -> t5.Params:
    """Returns a golden model's parameters."""
    if name == "random":
        return seeded.params(goldens.CONFIG)
    tree: t5.Params = {}
    for path, leaf in golden(name).items():
        if not path.startswith("params/"):
            continue
        *parents, last = path.removeprefix("params/").split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf.astype(np.float32)
    return tree


def check(params: t5.Params, tokens: np.ndarray, theirs: dict[str, np.ndarray]) -> set[int]:
    """Holds our outputs against theirs and returns the lengths that occurred."""
    generator = decode.Generator(params, goldens.CONFIG, batch_size=64, eos_id=goldens.EOS)
    prompts = [row[: np.count_nonzero(row)] for row in tokens]

    def run(sampling: decode.Sampling) -> tuple[np.ndarray, np.ndarray]:
        texts = np.zeros((len(prompts), goldens.NEW_TOKENS), np.int8)
        scores = np.zeros(len(prompts))
        found: Any = generator.generate(prompts, max_length=goldens.NEW_TOKENS, sampling=sampling)
        for index, (output,) in found:
            length = len(output.tokens) + output.ended
            texts[index, : len(output.tokens)] = output.tokens
            if output.ended:
                texts[index, length - 1] = goldens.EOS
            scores[index] = output.log_probability / length**sampling.length_penalty
        return texts, scores

    greedy = run(decode.Sampling())[0]
    np.testing.assert_array_equal(greedy, theirs["greedy"])
    for penalty in goldens.PENALTIES:
        texts, scores = run(decode.Sampling("beam", beams=goldens.BEAMS, length_penalty=penalty))
        np.testing.assert_array_equal(texts, theirs[f"beam_{penalty}"], err_msg=str(penalty))
        np.testing.assert_allclose(scores, theirs[f"scores_{penalty}"], rtol=1e-4, atol=1e-4)
    return {int(np.count_nonzero(row)) for row in greedy}


@pytest.mark.parametrize("name", goldens.MODELS)
def test_greedy_and_beam_outputs_equal_hugging_face_on_200_prompts(name: str) -> None:
    lengths = check(params_of(name), goldens.prompts(), golden(name))
    # Outputs that end early and outputs that are cut both occur.
    assert min(lengths) < 8
    assert max(lengths) == goldens.NEW_TOKENS or name == "trained"


@pytest.mark.torch
@pytest.mark.parametrize("name", goldens.MODELS)
def test_live_outputs_equal_hugging_face_on_200_prompts(name: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed; golden files stand in")
    pytest.importorskip("transformers", reason="transformers is not installed")
    # Other weights and prompts than the files hold.
    params = goldens.trained(120) if name == "trained" else seeded.params(goldens.CONFIG, "live")
    tokens = goldens.prompts(f"live/{name}")
    check(params, tokens, goldens.generated(params, tokens))
