"""The benchmark of training steps: its count of FLOPs, its refusals, and a tiny run."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from flan_train import train_step
from flan_train.models import t5


def test_flops_are_those_that_the_compiler_counts(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    from step_time_parts import work

    model = t5.T5Config(
        mlp_activation="gated-gelu",
        tie_embeddings=False,
        vocab_size=work.VOCABULARY,
        head_dim=work.HEAD_DIM,
        scan_layers=False,  # a loop's body is counted once
        attention="plain",
        **work.SIZES["tiny"],
    )
    rows, inputs, targets = 4, 64, 32
    batch = {
        name: jax.ShapeDtypeStruct(
            (rows, inputs if name in train_step.ENCODER_FEATURES else targets), jnp.int32
        )
        for name in (*train_step.ENCODER_FEATURES, *train_step.DECODER_FEATURES)
    }
    forward = jax.jit(lambda params, batch: t5.apply(params, model, batch))
    counted = forward.lower(t5.abstract_params(model), batch).cost_analysis()["flops"]
    # What is no product (norms, softmax, activations) is in the compiler's count alone.
    assert work.model_flops("tiny", rows, inputs, targets) / 3 == pytest.approx(counted, rel=0.05)
    assert counted > work.model_flops("tiny", rows, inputs, targets) / 3


def run(repository: pathlib.Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the benchmark."""
    others = {name: value for name, value in os.environ.items() if name != "FLAN_DATA_DIR"}
    return subprocess.run(
        [sys.executable, str(repository / "benchmarks" / "step_time.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=others | env,
    )


def test_what_cannot_be_is_refused(repository: pathlib.Path) -> None:
    done = run(repository, "--sizes", "small")
    assert done.returncode == 1
    assert "step_time needs real rows: set FLAN_DATA_DIR" in done.stderr
    done = run(repository, "--sizes", "huge")
    assert done.returncode == 2
    assert "unknown sizes huge; there are small, base, tiny" in done.stderr


@pytest.mark.slow
@pytest.mark.torch
def test_a_tiny_run_writes_its_figures(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "figures.json"
    done = run(repository, "--quick", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text("utf-8"))
    for row in rows:
        assert set(row) == {"name", "ours", "peer", "peer_name", "ratio", "unit"}
        assert row["ours"] > 0
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours"] / rows[0]["peer"])
    assert "times transformers" in done.stdout
    assert "compile 2 + 2 layers" in done.stdout
