from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train.mixtures import Member, MixtureDefinition, rates

NAMES = st.text("abcdefgh", min_size=1, max_size=3)
COUNTS = st.dictionaries(NAMES, st.integers(0, 10**7), min_size=1, max_size=12)
SHARES = st.dictionaries(NAMES, st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=20).filter(
    lambda shares: sum(shares.values()) > 0
)


def flat(counts: dict[str, int], cap: int | None = None) -> MixtureDefinition:
    return MixtureDefinition("m", tuple(Member(name) for name in counts), cap=cap)


@given(st.integers(0, 10**9), st.none() | st.integers(1, 10**6))
def test_capped(count: int, cap: int | None) -> None:
    weight = rates.capped(count, cap)
    assert weight <= count
    assert cap is None or weight <= cap
    assert weight in (count, cap)


def test_a_negative_count() -> None:
    with pytest.raises(ValueError, match="cannot be negative: -1"):
        rates.capped(-1, None)


@given(COUNTS, st.none() | st.integers(1, 1000))
def test_shares_sum_to_one_in_proportion_to_capped_counts(
    counts: dict[str, int], cap: int | None
) -> None:
    shares = rates.shares(flat(counts, cap), counts, lookup=lambda name: None)
    total = sum(rates.capped(count, cap) for count in counts.values())
    if total == 0:
        assert shares == {}
        return
    assert math.isclose(sum(shares.values()), 1, rel_tol=1e-12)
    for name, count in counts.items():
        expected = rates.capped(count, cap) / total
        assert math.isclose(shares.get(name, 0.0), expected, rel_tol=1e-12)


def test_nested_mixtures_keep_their_proportions() -> None:
    inner = MixtureDefinition("M", (Member("a"), Member("b")), cap=100)
    other = MixtureDefinition("N", (Member("c"),))
    outer = MixtureDefinition("O", (Member("M", 1.0), Member("N", 3.0)))
    known = {"M": inner, "N": other}
    counts = {"a": 300, "b": 100, "c": 5}
    assert rates.shares(outer, counts, known.get) == {"a": 0.125, "b": 0.125, "c": 0.75}
    # A task without examples is left out, and its own mixture is renormalised.
    assert rates.shares(outer, {**counts, "b": 0}, known.get) == {"a": 0.25, "c": 0.75}
    assert rates.placed_shares(outer, counts, known.get) == {
        ("M", "a"): 0.125,
        ("M", "b"): 0.125,
        ("N", "c"): 0.75,
    }
    # A mixture without examples leaves everything to the others.
    assert rates.shares(outer, {"a": 300, "b": 100}, known.get) == {"a": 0.5, "b": 0.5}
    assert rates.shares(outer, {}, known.get) == {}


def test_a_task_in_two_mixtures_gets_both_parts() -> None:
    known = {
        "M": MixtureDefinition("M", (Member("a"), Member("b"))),
        "N": MixtureDefinition("N", (Member("a"),)),
    }
    outer = MixtureDefinition("O", (Member("M", 1.0), Member("N", 1.0)))
    assert rates.shares(outer, {"a": 10, "b": 10}, known.get) == {"a": 0.75, "b": 0.25}


def test_the_published_inversion_rate() -> None:
    """0.3 against 1 is 23 % (facts section 2)."""
    from flan_train import mixtures

    counts = dict.fromkeys(mixtures.tasks_of("cot"), 1000)
    shares = rates.shares(mixtures.get("cot"), counts)
    inverted = sum(share for task, share in shares.items() if task.endswith("_inv"))
    assert inverted == pytest.approx(0.3 / 1.3)


@given(SHARES, st.integers(0, 10**7))
def test_apportion_sums_exactly_and_stays_within_one(shares: dict[str, float], total: int) -> None:
    handed = rates.apportion(shares, total)
    assert sum(handed.values()) == total
    assert set(handed) == set(shares)
    whole = math.fsum(shares.values())
    for name, share in shares.items():
        assert abs(handed[name] - share / whole * total) < 1 + 1e-6
        assert share > 0 or handed[name] == 0
    ordered = sorted(shares, key=lambda name: shares[name])
    for smaller, larger in itertools.pairwise(ordered):
        if shares[smaller] < shares[larger]:
            assert handed[smaller] <= handed[larger]


def test_apportion_breaks_ties_by_name() -> None:
    assert rates.apportion({"b": 1.0, "a": 1.0, "c": 1.0}, 4) == {"b": 1, "a": 2, "c": 1}
    assert rates.apportion({"a": 0.1}, 7) == {"a": 7}
    assert rates.apportion({"a": 0.5, "b": 0.5}, 0) == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("shares", "total"),
    [({"a": -1.0}, 3), ({"a": 1.0}, -3), ({"a": float("nan")}, 3), ({"a": float("inf")}, 3)],
)
def test_apportion_refuses_nonsense(shares: dict[str, float], total: int) -> None:
    with pytest.raises(ValueError, match="cannot apportion"):
        rates.apportion(shares, total)


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}])
def test_apportion_needs_a_share(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="every share is 0"):
        rates.apportion(shares, 3)


def test_a_task_in_two_places_has_the_sum_of_both() -> None:
    known = {
        "M": MixtureDefinition("M", (Member("a"), Member("b"))),
        "N": MixtureDefinition("N", (Member("b"),)),
    }
    outer = MixtureDefinition("O", (Member("M", 1.0), Member("N", 1.0)))
    counts = {"a": 3, "b": 1}
    assert rates.shares(outer, counts, known.get) == {"a": 0.375, "b": 0.625}
    placed = rates.placed_shares(outer, counts, known.get)
    assert placed == {("M", "a"): 0.375, ("M", "b"): 0.125, ("N", "b"): 0.5}
