"""Ranking by likelihood, and the filter of repetitions."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train.open_ended import kept_order

SCORES = st.lists(st.floats(-1e6, 0, allow_nan=False), min_size=1, max_size=9)


def test_a_worked_example() -> None:
    # The median is -22, half of it -11: what is better than that repeats itself.
    assert kept_order([-30.0, -4.0, -22.0, -26.0, -11.0]) == [4, 2, 3, 0]


def test_just_above_the_limit_is_dropped() -> None:
    assert kept_order([-20.0, -9.99, -20.0]) == [0, 2]
    assert kept_order([-20.0, -10.0, -20.0]) == [1, 0, 2]


def test_an_even_number_has_the_mean_of_the_middle_as_median() -> None:
    # -15 is the median, -7.5 the limit.
    assert kept_order([-10.0, -20.0, -7.0, -40.0]) == [0, 1, 3]


def test_the_length_plays_no_part() -> None:
    # Ten times the tokens at the same likelihood each: only the sum counts.
    assert kept_order([-200.0, -190.0, -180.0, -20.0]) == [2, 1, 0]


def test_equal_ones_stay_in_the_order_they_were_drawn() -> None:
    assert kept_order([-3.0, -3.0, -3.0]) == [0, 1, 2]
    assert kept_order([0.0, 0.0]) == [0, 1]
    assert kept_order([-5.0]) == [0]


@given(SCORES)
def test_what_is_kept(scores: list[float]) -> None:
    order = kept_order(scores)
    limit = statistics.median(scores) / 2
    assert order
    assert sorted(order) == [place for place, score in enumerate(scores) if score <= limit]
    assert [scores[place] for place in order] == sorted(
        (scores[place] for place in order), reverse=True
    )


@pytest.mark.parametrize("wrong", [[], [-1.0, 0.5], [-1.0, math.nan], [-math.inf, -1.0]])
def test_what_is_no_log_probability(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no output to choose from|is no log-probability"):
        kept_order(wrong)
