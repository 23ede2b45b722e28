"""What a run does about losses: it stops at one that is not finite, and acts on loss spikes.

The step itself decides what a spike is (`loss_guard`); here its decisions are read, once a line of
the log, and written to skipped.jsonl with the examples that the batch held.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from flan_train import checkpoints, errors, loss_guard, progress, run_record, scores
from flan_train.batches import TrainBatches
from flan_train.loss_guard import GuardConfig
from flan_train.train_step import Metrics

SKIPPED = "skipped.jsonl"


@dataclasses.dataclass(frozen=True)
class Pending:
    """An update whose metrics are still on the devices, and the data position before it."""

    step: int
    position: dict[str, int]
    metrics: Metrics


class Rewind(NamedTuple):
    """Where a run goes back to: a checkpoint's step, and the data position behind the spike."""

    spike: int
    step: int
    position: dict[str, int]


class LossWatch:
    """Looks at the losses of a run; all processes do so alike.

    Attributes:
      anchor: the step of the last periodic checkpoint, which a rewind goes back to. Not one that
        was saved because the run was to stop: without the interruption there would be none.
      rewinds: how many there were.
      passed_over: sequences that were passed over by them.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        guard: GuardConfig,
        saved: checkpoints.Checkpoints,
        reader: TrainBatches,
        *,
        first_step: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Goes on where a run was.

        Args:
          folder: the run directory.
          guard: what is done about spikes.
          saved: the run's checkpoints.
          reader: tells which examples a batch held.
          first_step: updates made; 0 at the start of a run.
          state: what `state` gave for the checkpoint of that step.

        Raises:
          UserError: it is no such state.
        """
        self._file = folder / SKIPPED
        self._folder, self._guard, self._saved, self._reader = folder, guard, saved, reader
        self._writes = jax.process_index() == 0
        self.anchor: int | None = first_step or None
        self.rewinds = self.passed_over = 0
        if state and guard.action == loss_guard.REWIND:
            try:
                anchor = state["anchor"]
                self.anchor = None if anchor is None else int(anchor)
                self.rewinds, self.passed_over = int(state["rewinds"]), int(state["passed_over"])
            except (KeyError, TypeError, ValueError) as error:
                raise errors.UserError(
                    "what a checkpoint holds of loss spikes cannot be read",
                    where="the checkpoint's item `data`, its part `spikes`",
                    expected=f"anchor, rewinds and passed_over ({error})",
                    fix="resume from another checkpoint: rename this one's folder",
                ) from error
        if self._writes:
            # What comes again is written again; a rewind was decided at the step it went back to.
            progress.truncate_log(
                self._file,
                first_step,
                lambda one: int(one["to"]) + 1 if "to" in one else one["step"],
            )

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint has to hold; empty where nothing can be rewound."""
        if not self._guard.is_on or self._guard.action != loss_guard.REWIND:
            return {}
        return {
            "anchor": self.anchor,
            "rewinds": self.rewinds,
            "passed_over": self.passed_over,
        }

    def held(self) -> list[int]:
        """Returns the steps whose checkpoints must not be removed: the run may return to them."""
        return [self.anchor] if self.state() and self.anchor is not None else []

    def look(
        self, pending: Sequence[Pending], fetched: Sequence[Mapping[str, Any]]
    ) -> Rewind | None:
        """Checks the updates since the last look, before anything of them is saved.

        Args:
          pending: these updates, ascending.
          fetched: their metrics, on the host.

        Returns:
          Where to go back to, where there was a spike and the guard says so.

        Raises:
          UserError: a number is not finite, or there were too many spikes.
        """
        self._check_finite(pending, fetched)
        spikes = [
            (one, seen) for one, seen in zip(pending, fetched, strict=True) if seen.get("skipped")
        ]
        # Without a checkpoint there is nothing to go back to; the update was skipped anyway.
        if not spikes or self._guard.action == loss_guard.SKIP or self.anchor is None:
            for one, seen in spikes:
                self._write(one, seen, {"action": loss_guard.SKIP})
                if seen["skipped_in_row"] >= self._guard.limit:
                    raise self._too_many(one.step, f"{self._guard.limit:,} in a row")
            return None
        one, seen = spikes[0]
        if self.rewinds == self._guard.limit:
            raise self._too_many(one.step, f"{self.rewinds + 1:,} in all")
        batches = one.step - self.anchor
        about = {"action": loss_guard.REWIND, "to": self.anchor, "batches": batches}
        self._write(one, seen, about)
        self.rewinds += 1
        self.passed_over += batches * self._reader.batch_size
        after = [other.position for other in pending if other.step == one.step + 1]
        return Rewind(one.step, self.anchor, after[0] if after else self._reader.state())

    def _write(self, one: Pending, seen: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        weight = float(seen["weight"])
        loss, median = float(seen["loss"]) / (weight or 1.0), float(seen["median_loss"])
        entry = {
            "step": one.step,
            **about,
            # JSON has no NaN and no infinity.
            "loss": loss if math.isfinite(loss) else None,
            "median_loss": median if math.isfinite(median) else None,
            **self._batch(one.position),
        }
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def _batch(self, position: Mapping[str, int]) -> dict[str, Any]:
        """Returns what `flan-train inspect` needs to show a batch."""
        return {
            "position": dict(position),
            # It is looked at from anywhere; PREPARED_DIR may be relative.
            "prepared": str(self._reader.prepared.path.absolute()),
            "examples": self._reader.describe(position),
        }

    def _too_many(self, step: int, what: str) -> errors.UserError:
        file = self._folder / SKIPPED
        return errors.UserError(
            f"too many loss spikes: {what}, at step {step:,}",
            where=f"{file} has their losses and examples",
            expected=f"losses up to {self._guard.factor:g} times the median of "
            f"{self._guard.window:,}, and fewer spikes than LOSS_SPIKE_LIMIT = "
            f"{self._guard.limit:,}",
            fix=f"lower LEARNING_RATE, raise LOSS_SPIKE_FACTOR or LOSS_SPIKE_LIMIT, or look at the "
            f"examples: flan-train inspect {file}",
        )

    def _check_finite(
        self, pending: Sequence[Pending], fetched: Sequence[Mapping[str, Any]]
    ) -> None:
        """Stops the run at the first update that is not finite, before it is saved.

        Raises:
          UserError: names the step, the tasks and examples of its batch and the checkpoint before.
        """
        steps = [one.step for one in pending]
        found = progress.first_not_finite(list(zip(steps, fetched, strict=True)))
        if found is None:
            return
        bad, what = found
        about = self._batch(pending[steps.index(bad)].position)
        where = run_record.describe_examples(about["examples"])
        file = self._folder / run_record.NOT_FINITE
        if self._writes:
            text = json.dumps({"step": bad, "what": what, **about}, indent=1, ensure_ascii=False)
            scores.write_whole(file, text + "\n")
        where += f"; all of them in {file}, which `flan-train inspect {file}` shows"
        try:
            self._saved.wait()
        except errors.UserError as error:  # what is not finite is to be told all the same
            where += f"; besides, {error.what}"
        good = self._saved.latest_step()
        again = "launching again unchanged fails at the same step"
        change = "lower LEARNING_RATE or raise WARMUP_STEPS, or look at these examples"
        # The guard judges losses and gradients, not what the optimizer makes of them.
        if what != progress.UPDATED_PARAMETERS and not self._guard.is_on:
            change += ", or let a guard pass over such batches (LOSS_SPIKE_FACTOR)"
        raise errors.UserError(
            f"{what} is not finite at step {bad}",
            where=where,
            expected="finite numbers",
            fix=f"{again}: first {change}; the last checkpoint whose update was finite is "
            f"{self._saved.path(good)}, which the next launch resumes from (should it fail at once "
            "again, remove that checkpoint or start a new MODEL_DIR)"
            if good is not None
            else f"{again}: {change}; there is no checkpoint yet",
        )
