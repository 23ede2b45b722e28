"""A training process killed at random moments: what it comes to is what it would have come to.

The long version is benchmarks/kill_resume.py.
"""

from __future__ import annotations

import pathlib
import random

import pytest

from tests import killed_run
from tests.killed_run import Job, Tally


def kill_and_compare(folder: pathlib.Path, kills: int, aims: tuple[str, ...], steps: int) -> Tally:
    """Leaves one run in peace, kills another again and again, and compares them."""
    programs, tally = folder / "programs", Tally()
    whole, job = (Job(folder / name, programs, steps, 4, True) for name in ("whole", "killed"))
    typical = killed_run.undisturbed(whole)
    killed_run.kill_at_random(job, random.Random(6), typical, kills, tally, aims)
    expected = killed_run.content(whole.run, whole.store)
    assert sum(name.startswith("log, ") for name in expected) == steps
    assert not killed_run.differing_bits(expected, killed_run.content(job.run, job.store))
    assert not killed_run.leftovers(job.run, job.store)
    return tally


def test_killed_in_a_save_and_in_an_evaluation(tmp_path: pathlib.Path) -> None:
    # A launch may be through before the moment that a kill waits for is seen: then once more.
    for attempt in range(5):
        tally = kill_and_compare(tmp_path / str(attempt), 2, ("save", "evaluation"), 12)
        if tally.kills:
            break
    assert tally.kills
    assert tally.phases.keys() & {"save", "evaluation"}


@pytest.mark.slow
def test_killed_anywhere(tmp_path: pathlib.Path) -> None:
    aims = ("any", "prepare", "step", "save", "evaluation")
    assert kill_and_compare(tmp_path, 10, aims, 40).kills


def test_what_differs_is_counted_in_bits() -> None:
    one = {"same": b"abc", "flipped": b"\x00\xff", "longer": b"ab", "only here": b"a"}
    two = {"same": b"abc", "flipped": b"\x01\xfe", "longer": b"a"}
    assert killed_run.differing_bits(one, two) == {"flipped": 2, "longer": 8, "only here": 8}
    assert killed_run.differing_bits(one, one) == {}
