"""Progress bars of preparing: one for the mixture, one for each task that is being rendered."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """What is shown on the terminal (on stderr) while tasks are rendered."""

    def __init__(self, name: str, tasks: int, *, enabled: bool = True) -> None:
        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            # In a file, or a pipe, bars that vanish leave nothing but empty lines.
            disable=not (enabled and console.is_terminal),
            transient=True,
        )
        self._total = self._bars.add_task(f"preparing {name}", total=tasks, note="tasks")
        self._rows = 0
        self._running: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, task: str) -> None:
        """Adds a bar for a task."""
        self._running[task] = self._bars.add_task(f"  {task}", total=None, note="rows")

    def advance(self, task: str, rows: int) -> None:
        """Counts rows of a task."""
        self._rows += rows
        if task in self._running:
            self._bars.advance(self._running[task], rows)
        self._bars.update(self._total, note=f"tasks, {self._rows:,} rows")

    def finish(self, task: str) -> None:
        """Takes a task's bar away and counts the task."""
        if task in self._running:
            self._bars.remove_task(self._running.pop(task))
        self._bars.advance(self._total)

    @contextlib.contextmanager
    def listening(self, events: Any) -> Iterator[None]:
        """Takes (task, "start" | "rows" | "finish", number) from a queue while inside."""
        thread = threading.Thread(target=self._listen, args=(events,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            events.put(None)
            thread.join(timeout=5)

    def _listen(self, events: Any) -> None:
        while (event := events.get()) is not None:
            task, kind, number = event
            if kind == "start":
                self.start(task)
            elif kind == "rows":
                self.advance(task, number)
            else:
                self.finish(task)
