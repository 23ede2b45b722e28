"""The loss-spike guard: which updates are not applied, decided inside the jitted step.

An update is refused when its loss per target token is above `factor` times the median of the last
`window` accepted ones, or when its loss or gradient is not finite. Until so many were accepted only
the latter counts. The past losses are part of the train state and of checkpoints, so that a resumed
run decides as an undisturbed one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np

from flan_train.errors import UserError, check_number, unknown_name

SKIP, REWIND = "skip", "rewind"


@gin.register(module="flan_train.loss_guard")
@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """What counts as a loss spike, and what is done about it.

    Attributes:
      factor: of the median loss, above which a loss is a spike; None: no guard.
      action: "skip" does not apply the update; "rewind" goes back to the last checkpoint and passes
        over the batches from there to the spike.
      window: accepted updates that the median is taken over.
      limit: updates refused in a row ("skip") or rewinds of the run in all ("rewind") after which
        the run stops.

    Raises:
      UserError: a field has a value that it cannot have.
    """

    factor: float | None = None
    action: str = SKIP
    window: int = 50
    limit: int = 10

    def __post_init__(self) -> None:
        check_number("LOSS_SPIKE_FACTOR", self.factor, minimum=1, optional=True)
        if self.action not in (SKIP, REWIND):
            raise unknown_name(
                "action on a loss spike", self.action, (SKIP, REWIND), "LOSS_SPIKE_ACTION"
            )
        check_number("LOSS_SPIKE_WINDOW", self.window, whole=True, minimum=1)
        check_number("LOSS_SPIKE_LIMIT", self.limit, whole=True, minimum=1)

    @property
    def is_on(self) -> bool:
        """Whether there is a guard."""
        return self.factor is not None


OFF = GuardConfig()


class GuardState(NamedTuple):
    """What the guard remembers.

    Attributes:
      losses: float32 [window], the last accepted losses per target token, as a ring.
      accepted: int32 scalar, how many there were in all.
      in_row: int32 scalar, updates refused since the last accepted one.
    """

    losses: Any
    accepted: Any
    in_row: Any


def initial(config: GuardConfig) -> GuardState | None:
    """Returns the state before the first update, on the host; None without a guard."""
    if not config.is_on:
        return None
    return GuardState(np.zeros(config.window, np.float32), np.int32(0), np.int32(0))


def judge(
    config: GuardConfig,
    state: GuardState,
    metrics: Mapping[str, jax.Array],
    grad_norm: jax.Array,
) -> tuple[jax.Array, GuardState, dict[str, jax.Array]]:
    """Returns whether an update is refused, the state after it, and what the log wants to know.

    Args:
      config: with a factor.
      state: before the update.
      metrics: float32 sums `loss` and `weight` over the batch.
      grad_norm: of the gradient.

    Returns:
      A bool scalar, the state, and float32 scalars `skipped` (0 or 1), `skipped_in_row` and
      `median_loss` (NaN while the window is not full).
    """
    assert config.factor is not None
    has_targets = metrics["weight"] > 0
    loss = metrics["loss"] / jnp.where(has_targets, metrics["weight"], 1.0)
    full = state.accepted >= config.window
    median = jnp.median(state.losses)
    spike = full & (loss > config.factor * median)
    refused = spike | ~jnp.isfinite(loss) | ~jnp.isfinite(grad_norm)
    # A batch without a target has no loss to remember.
    counts = ~refused & has_targets
    ring = state.losses.at[state.accepted % config.window].set(loss)
    after = GuardState(
        losses=jnp.where(counts, ring, state.losses),
        accepted=state.accepted + counts.astype(jnp.int32),
        in_row=jnp.where(refused, state.in_row + 1, 0),
    )
    seen = {
        "skipped": refused.astype(jnp.float32),
        "skipped_in_row": after.in_row.astype(jnp.float32),
        "median_loss": jnp.where(full, median, jnp.nan),
    }
    return refused, after, seen


def chosen(refused: jax.Array, before: Any, after: Any) -> Any:
    """Returns the tree `before` where an update is refused, else `after`."""
    return jax.tree.map(lambda old, new: jnp.where(refused, old, new), before, after)


def to_plain(state: GuardState) -> dict[str, Any]:
    """Returns the state as what JSON holds, exactly; the losses oldest first."""
    losses, accepted, in_row = (np.asarray(part) for part in state)
    count, size = int(accepted), len(losses)
    kept = [losses[number % size].item() for number in range(max(0, count - size), count)]
    return {"losses": kept, "accepted": count, "in_row": int(in_row)}


def from_plain(config: GuardConfig, plain: Mapping[str, Any] | None) -> GuardState | None:
    """Returns the state that `to_plain` gave, for a window that may be another one now.

    None without a guard; what a run without a guard has left is the initial state.

    Raises:
      UserError: it is no such state.
    """
    state = initial(config)
    if state is None or plain is None:
        return state
    try:
        losses = np.asarray(plain["losses"], np.float32)[-config.window :]
        # Fewer than a larger window wants: the others are still to come.
        accepted = int(plain["accepted"]) if len(losses) == config.window else len(losses)
        places = np.arange(accepted - len(losses), accepted) % config.window
        state.losses[places] = losses
        return GuardState(state.losses, np.int32(accepted), np.int32(plain["in_row"]))
    except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise UserError(
            "the state of the loss-spike guard cannot be read",
            where="the checkpoint's item `data`",
            expected=f"losses, accepted, in_row ({error})",
            fix="resume from another checkpoint, or without a guard: LOSS_SPIKE_FACTOR = None",
        ) from error
