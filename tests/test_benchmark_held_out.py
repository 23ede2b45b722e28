"""The benchmark of random weights: its arithmetic."""

from __future__ import annotations

import pathlib

import pytest


def test_distance_from_chance_counts_examples_not_tasks(
    repository: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import held_out

    rows = {"a": {"exact_match": 0.5, "n": 10}, "b": {"exact_match": 0.2, "n": 90}}
    share, error, count = held_out.against_chance({"metrics": rows})
    assert (share, count) == (0.23, 100)
    assert error == pytest.approx(0.0433, abs=1e-4)
