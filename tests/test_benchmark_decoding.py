"""The benchmark of generation runs on a tiny model and writes its figures."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.torch
def test_a_tiny_run_writes_its_figures(repository: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    script, path = repository / "benchmarks" / "decoding.py", tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(script), "--quick", "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    # The script itself ends with an error where the two sides' outputs differ.
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text("utf-8"))
    assert {row["name"].partition(" ")[0] for row in rows} == {"greedy:", "option"}
    for row in rows:
        assert set(row) == {"name", "ours", "peer", "peer_name", "ratio", "unit"}
        assert row["ours"] is not None


def test_an_unknown_section_is_refused(repository: pathlib.Path) -> None:
    script = repository / "benchmarks" / "decoding.py"
    done = subprocess.run(
        [sys.executable, str(script), "--only", "beams"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unknown sections beams; there are greedy, options" in done.stderr
