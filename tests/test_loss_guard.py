"""The loss-spike guard by itself: what is refused, what is remembered, what a user may set."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train import errors, loss_guard
from flan_train.loss_guard import GuardConfig, GuardState


def start_of(config: GuardConfig) -> GuardState:
    state = loss_guard.initial(config)
    assert state is not None
    return GuardState(*map(jnp.asarray, state))


def run(config: GuardConfig, losses: list[float], weight: float = 4.0) -> tuple[list[int], Any]:
    """Which losses per token are refused, and the state after them."""
    state, refused = start_of(config), []
    for loss in losses:
        metrics = {"loss": jnp.float32(loss * weight), "weight": jnp.float32(weight)}
        one, state, seen = loss_guard.judge(config, state, metrics, jnp.float32(1.0))
        refused.append(int(one))
        assert bool(seen["skipped"]) == bool(one)
    return refused, state


def test_a_loss_above_the_median_of_the_window_is_refused() -> None:
    config = GuardConfig(2.0, window=3)
    # Until three were accepted nothing is a spike; the refused ones move no median.
    refused, state = run(config, [1.0, 9.0, 2.0, 4.1, 3.9, 7.7, 7.9, 3.9])
    assert refused == [0, 0, 0, 1, 0, 0, 1, 0]
    assert loss_guard.to_plain(state)["losses"] == pytest.approx([3.9, 7.7, 3.9])
    assert int(state.in_row) == 0


def test_what_is_not_finite_is_refused_from_the_start() -> None:
    refused, state = run(GuardConfig(2.0, window=2), [math.nan, math.inf, 1.0, math.nan])
    assert refused == [1, 1, 0, 1]
    assert loss_guard.to_plain(state) == {"losses": [1.0], "accepted": 1, "in_row": 1}
    metrics = {"loss": jnp.float32(1.0), "weight": jnp.float32(1.0)}
    config = GuardConfig(2.0)
    assert bool(loss_guard.judge(config, start_of(config), metrics, jnp.float32(jnp.inf))[0])


def test_a_batch_without_targets_is_neither_refused_nor_remembered() -> None:
    refused, state = run(GuardConfig(2.0, window=1), [1.0, 3.0], weight=0.0)
    assert refused == [0, 0]
    assert loss_guard.to_plain(state)["accepted"] == 0


@given(st.lists(st.floats(0, 100, width=32), max_size=12), st.integers(1, 5), st.integers(1, 5))
def test_the_state_survives_a_checkpoint(losses: list[float], window: int, other: int) -> None:
    size = max(1, window)
    ring = np.zeros(size, np.float32)
    for number, loss in enumerate(losses):
        ring[number % size] = loss
    state = GuardState(ring, np.int32(len(losses)), np.int32(2))
    plain = loss_guard.to_plain(state)
    same = loss_guard.from_plain(GuardConfig(2.0, window=window), plain)
    assert same is not None
    np.testing.assert_array_equal(same.losses, ring)
    assert (same.accepted, same.in_row) == (len(losses), 2)
    # Into a window of another size go the last ones that there are.
    changed = loss_guard.from_plain(GuardConfig(2.0, window=other), plain)
    assert changed is not None
    assert loss_guard.to_plain(changed)["losses"] == plain["losses"][-other:]


def test_without_a_guard_there_is_no_state() -> None:
    assert loss_guard.initial(loss_guard.OFF) is None
    assert loss_guard.from_plain(loss_guard.OFF, {"losses": [1.0]}) is None


@pytest.mark.parametrize(
    "plain", [{}, {"losses": "x", "accepted": 1, "in_row": 0}, {"losses": [1.0], "accepted": None}]
)
def test_a_state_that_cannot_be_read(plain: dict[str, Any]) -> None:
    with pytest.raises(errors.UserError, match="state of the loss-spike guard cannot be read"):
        loss_guard.from_plain(GuardConfig(2.0), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 0.9}, "LOSS_SPIKE_FACTOR cannot be 0.9"),
        ({"factor": 2.0, "action": "skp"}, "unknown action on a loss spike 'skp'"),
        ({"window": 0}, "LOSS_SPIKE_WINDOW cannot be 0"),
        ({"limit": 1.5}, "LOSS_SPIKE_LIMIT cannot be 1.5"),
    ],
)
def test_settings_that_there_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        GuardConfig(**change)
