"""The shares of a launch's time: parts that interrupt each other, and what is left over."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flan_train import goodput


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from([*goodput.SHOWN, "unnamed"]), st.floats(0, 1e6, allow_nan=False), max_size=6
    ),
    st.one_of(st.none(), st.floats(0, 1e6)),
)
def test_shares_add_up_to_one(parts: dict[str, float], before: float | None) -> None:
    watch = goodput.Stopwatch(None if before is None else time.monotonic() - before)
    for name, seconds in parts.items():
        watch.add(name, seconds)
    shares = watch.shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares.values())
    assert set(shares) <= {*goodput.SHOWN.values(), goodput.OTHER}
    if before:
        assert watch.parts["start"] > before - 1e-6


def test_a_part_inside_of_another_interrupts_it() -> None:
    watch = goodput.Stopwatch()
    with watch.of("evaluate"):
        time.sleep(0.02)
        with watch.of("save"):
            time.sleep(0.03)
            with watch.of("restore"):
                time.sleep(0.01)
        with watch.of("save"):
            time.sleep(0.01)
    wall = watch.wall()
    assert watch.parts["evaluate"] >= 0.02
    assert watch.parts["save"] >= 0.04
    assert watch.parts["restore"] >= 0.01
    assert sum(watch.parts.values()) <= wall
    # Of the whole nothing is counted twice, and next to nothing is lost.
    assert watch.shares()[goodput.OTHER] < 0.5


def test_a_part_that_fails_is_counted() -> None:
    watch = goodput.Stopwatch()
    with pytest.raises(KeyError), watch.of("evaluate"), watch.of("save"):
        raise KeyError("here")
    assert set(watch.parts) == {"evaluate", "save"}


def test_the_line_of_the_log() -> None:
    watch = goodput.Stopwatch(time.monotonic() - 100)
    watch.parts.clear()
    for name, seconds in (("save", 5.0), ("train", 60.0), ("input", 1.0), ("evaluate", 20.0)):
        watch.add(name, seconds)
    assert watch.goodput() == (
        "goodput of this launch: steps 60.0%, input wait 1.0%, evaluation 20.0%, saves 5.0%, "
        "other 14.0% of 100.0 s"
    )


def test_a_process_knows_when_it_began() -> None:
    code = "from flan_train import goodput; print(goodput.process_began())"
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # The system counts in hundredths of a second.
    assert before - 0.1 <= float(done.stdout) <= time.monotonic()
