"""A trace of updates: that the files are there, and hold those updates and no others."""

from __future__ import annotations

import gzip
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from flan_train import step_trace
from flan_train.errors import UserError


@jax.jit
def update(x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ x)


def traced(folder: pathlib.Path | None, start: int, last: int) -> list[str]:
    """Runs updates start + 1 to last as the main loop does; returns what was said."""
    said, x = [], jnp.ones((64, 64))
    with step_trace.StepTrace(folder, start, last) as trace:
        for number in range(start + 1, last + 1):
            with trace.step(number, x):
                x = update(x)
            if line := trace.ended(number, x):
                said.append(line)
    return said


def step_numbers(folder: pathlib.Path) -> list[int]:
    """The steps that the trace for XProf holds."""
    (path,) = folder.rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    found = []
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == step_trace.STEP_NAME:
                    found.append(int(dict(event.stats)["step_num"]))
    return sorted(found)


@pytest.mark.parametrize(
    ("start", "last", "steps"), [(0, 9, [3, 4, 5]), (20, 24, [23, 24]), (7, 8, [8]), (5, 5, [])]
)
def test_the_trace_holds_these_updates(
    tmp_path: pathlib.Path, start: int, last: int, steps: list[int]
) -> None:
    folder = tmp_path / "profile"
    said = traced(folder, start, last)
    if not steps:
        assert not folder.exists()
        assert said == []
        return
    assert step_numbers(folder) == steps
    assert len(said) == 1
    assert f"tensorboard --logdir {folder}" in said[0]
    # The same for Perfetto, which shows what the updates ran.
    (path,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = {event.get("name", "") for event in events}
    assert step_trace.STEP_NAME in names
    assert any("dot" in name or "tanh" in name or "update" in name for name in names)


def test_nothing_is_traced_without_a_folder(tmp_path: pathlib.Path) -> None:
    assert traced(None, 0, 6) == []
    assert not list(tmp_path.iterdir())


def test_a_run_that_ends_in_the_middle_ends_the_trace(tmp_path: pathlib.Path) -> None:
    with step_trace.StepTrace(tmp_path, 0, 9) as trace:
        for number in range(1, 5):
            with trace.step(number, jnp.ones(3)):
                update(jnp.ones((8, 8)))
    assert step_numbers(tmp_path) == [3, 4]
    traced(tmp_path / "another", 0, 3)  # a trace that was left open would refuse a second one


def test_a_folder_that_cannot_be_made(tmp_path: pathlib.Path) -> None:
    (tmp_path / "profile").write_text("a file")
    with pytest.raises(UserError, match="MODEL_DIR cannot be written"):
        traced(tmp_path / "profile", 0, 4)
