"""What is shown while suites are evaluated: a bar for all of them, and one for the suite at hand.

On a terminal these are bars. In a file or a pipe a line is written now and then instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from flan_train.prepare_progress import duration

_SECONDS_BETWEEN_LINES = 10.0
# A rate over less than this says nothing.
_SECONDS_OF_A_RATE = 1.0


class Pace:
    """How fast examples are evaluated; those that an earlier launch has left count for nothing."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self._clock = clock
        self._began = clock()
        self._found: int | None = None

    def reach(self, done: int, new: int = 1) -> None:
        """Says how many are done, of which the last `new` ones were evaluated just now."""
        if self._found is None:
            self._found = done - new
        self.done = done

    def rate(self) -> float | None:
        """Returns examples a second, once that can be said."""
        elapsed = self._clock() - self._began
        new = self.done - (self._found or 0)
        return new / elapsed if new and elapsed >= _SECONDS_OF_A_RATE else None

    def text(self) -> str:
        """Returns "320 of 1,531 examples, 12.5/s, 0:01:37 left"."""
        parts = [f"{self.done:,} of {self.total:,} examples"]
        rate = self.rate()
        if rate is not None:
            parts += [f"{rate:.1f}/s", f"{duration((self.total - self.done) / rate)} left"]
        return ", ".join(parts)


class Progress:
    """Bars on a terminal (on stderr), or a line now and then; a context.

    Args:
      suites: tasks and examples of each suite, by the name it is filed under.
      console: where; None for stderr.
      period: seconds between two lines.
    """

    def __init__(
        self,
        suites: Mapping[str, tuple[int, int]],
        *,
        console: Console | None = None,
        period: float = _SECONDS_BETWEEN_LINES,
    ) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True, highlight=False)
        self._suites = dict(suites)
        self._period = period
        self._said = time.monotonic()
        self._finished = 0
        self._pace = Pace(0)
        terminal = self._console.is_terminal
        self._bars = Bars(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
            console=self._console,
            # In a file, or a pipe, bars that vanish leave nothing but empty lines.
            disable=not terminal,
            transient=True,
        )
        total = sum(examples for _, examples in self._suites.values())
        self._all: Any = self._bars.add_task("evaluating", total=total, note=self._all_text())
        self._one: Any = self._bars.add_task("", total=None, note="")

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, suite: str) -> None:
        """Gives the second bar to a suite."""
        tasks, examples = self._suites[suite]
        self._pace = Pace(examples)
        noun = "task" if tasks == 1 else "tasks"
        label = f"  {suite} ({tasks:,} {noun})"
        self._bars.reset(self._one, description=label, total=examples, note=self._pace.text())

    def reach(self, done: int) -> None:
        """Says how many examples of the suite are done; called after each one."""
        self._pace.reach(done)
        self._bars.update(self._one, completed=done, note=self._pace.text())
        self._bars.update(self._all, completed=self._before() + done)
        now = time.monotonic()
        if self._bars.disable and now - self._said >= self._period:
            self._said = now
            suite = list(self._suites)[self._finished]
            self._console.print(
                f"evaluating {suite} ({self._all_text()}): {self._pace.text()}", markup=False
            )

    def finish(self) -> None:
        """Counts a suite."""
        self._finished += 1
        self._bars.update(self._all, completed=self._before(), note=self._all_text())

    def _before(self) -> int:
        done = list(self._suites.values())[: self._finished]
        return sum(examples for _, examples in done)

    def _all_text(self) -> str:
        return f"{self._finished} of {len(self._suites)} suites"
