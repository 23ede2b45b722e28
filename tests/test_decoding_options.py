"""The benchmark of option scoring: what it asks, and a tiny run of it."""

from __future__ import annotations

import pathlib

import pytest


@pytest.fixture
def options(repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """The benchmark's module."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import decoding_options

    return decoding_options


def test_prompts_and_options_are_as_long_as_it_says(options) -> None:
    prompts, listed = options.examples(20, 32_000)
    assert (len(prompts), len(listed)) == (20, 20)
    assert all(400 <= len(prompt) <= 500 and prompt[-1] == 1 for prompt in prompts)
    assert {len(one) for one in listed} == {4}
    assert {len(option) for one in listed for option in one} == {2, 3, 4}


@pytest.mark.torch
def test_a_tiny_run_compares_the_same_numbers(options) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {
        "embed_dim": 16,
        "num_heads": 2,
        "mlp_dim": 32,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
    }
    speed, difference = options.measure(2, 1, (3,), sizes)
    assert set(speed) == {"name", "ours", "peer", "peer_name", "ratio", "unit"}
    assert speed["ratio"] == pytest.approx(speed["ours"] / speed["peer"])
    assert "batch 3" in speed["peer_name"]
    assert 0 <= difference["ours"] < options.TOLERANCE
