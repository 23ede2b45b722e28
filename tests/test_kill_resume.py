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
    """Leaves one run in peace, kills others again and again, and compares them with it.

    Goes on until there were so many kills, one in each phase that is aimed at among them.
    """
    required = tuple(aim for aim in aims if aim in killed_run.REQUIRED)
    programs, tally, draw = folder / "programs", Tally(required=required), random.Random(6)
    whole = Job(folder / "whole", programs, steps, 4, True)
    typical = killed_run.undisturbed(whole)
    expected = killed_run.content(whole.run, whole.store)
    assert sum(name.startswith("log, ") for name in expected) == steps
    # A launch may be through before the moment that a kill waits for is seen: then once more.
    while tally.runs < 6 and (tally.kills < kills or tally.missing()):
        job = Job(folder / f"killed-{tally.runs}", programs, steps, 4, True)
        wanted = max(kills - tally.kills, len(tally.missing()))
        killed_run.kill_at_random(job, draw, typical, wanted, tally, aims)
        assert not killed_run.differing_bits(expected, killed_run.content(job.run, job.store))
        assert not killed_run.leftovers(job.run, job.store)
    return tally


def test_killed_in_a_step_and_in_a_save(tmp_path: pathlib.Path) -> None:
    tally = kill_and_compare(tmp_path, 2, ("step", "save"), 12)
    assert not tally.missing()
    assert tally.kills >= 2


@pytest.mark.slow
def test_killed_in_each_phase(tmp_path: pathlib.Path) -> None:
    tally = kill_and_compare(tmp_path, 4, killed_run.REQUIRED, 16)
    assert not tally.missing()
    assert tally.kills >= 4


@pytest.mark.slow
def test_killed_anywhere(tmp_path: pathlib.Path) -> None:
    tally = kill_and_compare(tmp_path, 12, ("any", *killed_run.REQUIRED), 40)
    assert not tally.missing()
    assert tally.kills >= 12


def test_what_differs_is_counted_in_bits() -> None:
    one = {"same": b"abc", "flipped": b"\x00\xff", "longer": b"ab", "only here": b"a"}
    two = {"same": b"abc", "flipped": b"\x01\xfe", "longer": b"a"}
    assert killed_run.differing_bits(one, two) == {"flipped": 2, "longer": 8, "only here": 8}
    assert killed_run.differing_bits(one, one) == {}
