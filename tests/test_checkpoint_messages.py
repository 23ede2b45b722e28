"""What is said of a checkpoint whose arrays cannot be read: the reason, once, and no traceback."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp

from flan_train import checkpoints


def test_a_file_that_was_cut_is_told_readably(
    tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    saved = checkpoints.Checkpoints(tmp_path / "run", checkpoints.CheckpointConfig())
    params = {f"p{i}": jnp.arange(4000, dtype=jnp.float32) * 1.7 for i in range(12)}
    saved.save(7, params, {"count": jnp.zeros(3)}, {"epoch": 1}, {})
    saved.close()
    data = max((saved.path(7) / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(data, data.stat().st_size // 2)
    child = subprocess.run(
        [sys.executable, "-m", "flan_train.cli", "checkpoint", "verify", str(tmp_path / "run")],
        cwd=repository,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == 2, child.stderr
    said = child.stdout + child.stderr
    for word in ("Traceback", "Event loop is closed", "bound method", "Exception:"):
        assert word not in said
    assert "7/params cannot be read: " in child.stdout
    assert "OUT_OF_RANGE" in child.stdout or "DATA_LOSS" in child.stdout
