"""What a run tells while it trains: log.jsonl, TensorBoard, and a bar or plain lines.

A line of log.jsonl covers the updates since the line before it. What it adds up goes into every
checkpoint, so that the lines of a resumed run are those of an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from flan_train.curves import Curves
from flan_train.errors import UserError, not_written

LOG = "log.jsonl"
METRICS = "metrics"
# Where there is no terminal, a line this often is enough.
SECONDS_BETWEEN_LINES = 10.0
# The bar says from here on that the loop waits for batches.
SHOWN_WAIT = 0.01
_WINDOW_FIELDS = ("steps", "skipped", "seconds", "waited")
_TOKENS = ("encoder_tokens", "decoder_tokens")
GOODPUT = "goodput"
_NO_CURVES = ("step", "time", GOODPUT)
UPDATED_PARAMETERS = "the norm of the updated parameters"
# What the loss-spike guard says of one update; adding it up would mean nothing.
_GUARD_METRICS = ("skipped", "skipped_in_row", "median_loss")


@dataclasses.dataclass
class Window:
    """Sums over the updates since the last line of the log.

    Attributes:
      slots: encoder and decoder places of a batch, padding included.
      steps: number of updates.
      skipped: how many of them the loss-spike guard did not apply; None without a guard.
      places: encoder and decoder places of their batches.
      seconds: wall-clock time they took; evaluation, saving and compiling not counted.
      waited: how many of those seconds the loop stood waiting for a batch.
      sums: the step's metrics, added up; of a skipped update only its numbers of tokens.
    """

    slots: tuple[int, int]
    steps: int = 0
    skipped: int | None = None
    places: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    waited: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Adds one update's metrics, scalars on the host."""
        self.steps += 1
        self.places = (self.places[0] + self.slots[0], self.places[1] + self.slots[1])
        if "skipped" in metrics:
            self.skipped = (self.skipped or 0) + int(metrics["skipped"])
        for name, value in metrics.items():
            counts = name in _TOKENS if metrics.get("skipped") else name not in _GUARD_METRICS
            if counts:
                self.sums[name] = self.sums.get(name, 0.0) + float(value)

    @property
    def applied(self) -> int:
        """Updates that were applied; without one there is no loss, and so no line."""
        return self.steps - (self.skipped or 0)

    def state(self) -> dict[str, Any]:
        """Returns all of it as what JSON holds, exactly; empty without an update."""
        if not self.steps:
            return {}
        fields = {name: getattr(self, name) for name in _WINDOW_FIELDS}
        return fields | {"places": list(self.places), "sums": dict(self.sums)}

    @classmethod
    def restored(cls, slots: tuple[int, int], state: Mapping[str, Any] | None) -> Window:
        """Returns the window that `state` came from; a new one for None.

        Raises:
          UserError: it is no such state.
        """
        if not state:
            return cls(slots)
        try:
            skipped = state["skipped"]
            encoder, decoder = state["places"]
            return cls(
                slots,
                steps=int(state["steps"]),
                skipped=None if skipped is None else int(skipped),
                places=(int(encoder), int(decoder)),
                seconds=float(state["seconds"]),
                waited=float(state["waited"]),
                sums={str(name): float(value) for name, value in dict(state["sums"]).items()},
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                "what a checkpoint holds of the log cannot be read",
                where="the checkpoint's item `data`, its part `window`",
                expected=f"the sums since the last line of the log ({error})",
                fix="resume from another checkpoint: rename this one's folder",
            ) from error

    def entry(self, step: int) -> dict[str, Any]:
        """Returns the line for the updates up to `step`, of which one at least was applied.

        `loss`, `z_loss` and `accuracy` are per target token over all of them; `grad_norm` and
        `learning_rate` are means over updates; `tokens` are places and `useful_tokens` those that
        hold a token; `time` is in seconds since 1970; `input_wait` is the part of the time that the
        loop waited for a batch, 0 to 1. Under a loss-spike guard the first five are of the updates
        that were applied, and `skipped_updates` counts the others.
        """
        weight = self.sums["weight"] or 1.0
        encoder, decoder = self.sums["encoder_tokens"], self.sums["decoder_tokens"]
        seconds = max(self.seconds, 1e-9)
        return {
            "step": step,
            "time": round(time.time(), 3),
            "loss": self.sums["loss"] / weight,
            "z_loss": self.sums["z_loss"] / weight,
            "accuracy": self.sums["correct"] / weight,
            "tokens": sum(self.places),
            "useful_tokens": int(encoder + decoder),
            "useful_tokens_per_second": round((encoder + decoder) / seconds, 1),
            "step_seconds": round(self.seconds / self.steps, 6),
            "input_wait": round(self.waited / seconds, 6),
            "fill_encoder": encoder / self.places[0],
            "fill_decoder": decoder / self.places[1],
            "learning_rate": self.sums["learning_rate"] / self.applied,
            "grad_norm": self.sums["grad_norm"] / self.applied,
            **({} if self.skipped is None else {"skipped_updates": self.skipped}),
        }


def first_not_finite(metrics: Sequence[tuple[int, Mapping[str, Any]]]) -> tuple[int, str] | None:
    """Returns the first step with something that is not finite, and what that is, or None.

    Args:
      metrics: (step, the update's metrics) pairs, ascending. Parameters that an update has blown
        up show in their norm, before the next update's loss does. Of an update that the loss-spike
        guard skipped only that norm counts.
    """
    for step, one in metrics:
        if one.get("skipped") and math.isfinite(one["param_norm"]):
            continue
        for name, what in (
            ("loss", "the loss"),
            ("grad_norm", "the gradient"),
            ("param_norm", UPDATED_PARAMETERS),
        ):
            if not math.isfinite(one[name]):
                return step, what
    return None


def truncate_log(
    path: pathlib.Path,
    step: int,
    step_of: Callable[[Mapping[str, Any]], int] = lambda entry: int(entry["step"]),
) -> None:
    """Takes out of a log what came after `step`, and a last line that was cut off.

    What a run logged after its last checkpoint happens again when it resumes.

    Args:
      path: the file, a JSON object a line; nothing happens without it.
      step: the last one that is kept.
      step_of: the step that an entry belongs to.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        try:
            if step_of(json.loads(line)) <= step:
                kept.append(line + b"\n")
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_bytes(b"".join(kept))
    os.replace(temporary, path)


class RunLog:
    """Writes the log of a run and shows how far it is; use it as a context."""

    def __init__(
        self,
        model_dir: pathlib.Path,
        *,
        first_step: int,
        last_step: int,
        console: Console,
        writes: bool = True,
    ) -> None:
        """Opens the files; what they hold of steps after `first_step` is taken out.

        Args:
          model_dir: the run directory; must exist.
          first_step: updates already made.
          last_step: updates made when the run ends.
          console: where to show progress.
          writes: False on all hosts but one.
        """
        self._console = console
        self._writes = writes
        self._last_step = last_step
        self._last_line = -math.inf
        self._facts = "starting"

        def whole() -> Column:
            # On a narrow terminal the bar gives way, not the numbers.
            return Column(no_wrap=True)

        self._bar = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}", table_column=whole()),
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            TextColumn("ETA", table_column=whole()),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=whole()),
            console=console,
            disable=not (console.is_terminal and writes),
        )
        self._task = self._bar.add_task(self._facts, total=last_step, completed=first_step)
        if writes:
            self._path = model_dir / LOG
            truncate_log(self._path, first_step)
            # Open for the whole run; `__exit__` closes it.
            self._file = self._path.open("a", encoding="utf-8")
            self._curves = Curves(
                model_dir / METRICS, first_step + 1 if first_step else None, self.say
            )
        self._begun, self._first_step = time.monotonic(), first_step

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if not self._writes:
            return
        self._curves.close()
        try:
            self._file.close()
        except OSError as failed:
            # Why the run ends is told before what is lost of the log.
            if error is None:
                raise not_written("MODEL_DIR", self._path.parent, failed) from failed

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._writes:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def rewind(self, step: int) -> None:
        """Takes out of the log what came after `step`; the run goes on from there."""
        self._bar.update(self._task, completed=step)
        if not self._writes:
            return
        self._file.close()
        truncate_log(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")

    def show_phase(self, text: str | None) -> None:
        """Says on the bar what is going on in place of training (an evaluation); None ends it."""
        self._bar.update(self._task, description=self._facts if text is None else text)

    def show_step(self, step: int) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=step)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Appends a line to the log, and shows it."""
        speed, fill = (
            entry["useful_tokens_per_second"],
            (entry["fill_encoder"], entry["fill_decoder"]),
        )
        self._facts = (
            f"loss {entry['loss']:.4f}  {_short(speed)} tok/s  "
            f"fill {100 * fill[0]:.0f}/{fill[1]:.0%}"
        )
        if entry["input_wait"] >= SHOWN_WAIT:
            self._facts += f"  wait {entry['input_wait']:.0%}"
        self._bar.update(self._task, completed=entry["step"], description=self._facts)
        if not self._writes:
            return
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise not_written("MODEL_DIR", self._path, error) from error
        curves = {f"train/{name}": value for name, value in entry.items() if name not in _NO_CURVES}
        curves |= {f"{GOODPUT}/{part}": share for part, share in entry.get(GOODPUT, {}).items()}
        self._curves.add(entry["step"], curves)
        now = time.monotonic()
        last = entry["step"] >= self._last_step
        if self._bar.disable and (last or now - self._last_line >= SECONDS_BETWEEN_LINES):
            self._last_line = now
            done = entry["step"] - self._first_step
            left = (now - self._begun) / max(done, 1) * (self._last_step - entry["step"])
            self.say(
                f"step {entry['step']:,}/{self._last_step:,}  loss {entry['loss']:.4f}  "
                f"{speed:,.0f} useful tokens/s  fill {fill[0]:.0%} + {fill[1]:.0%}  "
                f"input wait {entry['input_wait']:.1%}  "
                f"ETA {_clock(left)}"
            )

    def write_scores(self, suite: str, step: int, means: Mapping[str, float]) -> None:
        """Adds a suite's mean scores to TensorBoard."""
        if self._writes:
            self._curves.add(step, {f"eval/{suite}/{name}": each for name, each in means.items()})
            self._curves.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _short(count: float) -> str:
    """Returns a count in at most six characters: 950, 11.6k, 1.2M."""
    if count < 999.5:
        return f"{count:.0f}"
    return f"{count / 1e3:.1f}k" if count < 999_950 else f"{count / 1e6:.1f}M"
