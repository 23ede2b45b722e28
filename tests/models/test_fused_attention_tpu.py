"""The fused attention compiled for TPUs of four kinds, none of which need be there."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from tests.models.compiled_for_tpu import BATCH, CHIPS, HEADS, LK, LQ

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, the compiler for TPUs, is not installed (pip install libtpu)",
)


@pytest.fixture(scope="module")
def compiled(repository: pathlib.Path) -> dict[str, dict[str, float]]:
    """What came out for each chip; a process of its own, since libtpu stays once it is loaded."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.compiled_for_tpu"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["chip"]: line for line in lines}


@pytest.mark.parametrize("chip", CHIPS)
def test_split_over_four_chips_it_compiles_and_keeps_its_results(
    compiled: dict[str, dict[str, float]], chip: str
) -> None:
    # Self-attention of both stacks and cross-attention, none of them computed twice.
    assert compiled[chip]["forward"] == 3
    assert compiled[chip]["backward"] == 3


@pytest.mark.parametrize("chip", CHIPS)
def test_the_compiler_counts_the_stated_work(
    compiled: dict[str, dict[str, float]], chip: str
) -> None:
    logits = BATCH // 2 * (HEADS // 2) * (LK * LK + LQ * LQ + LQ * LK)
    assert compiled[chip]["exponentials"] == 2 * logits
    products = 2 + 5
    assert compiled[chip]["flops"] == pytest.approx(logits * products * 128, rel=0.03)
