"""Where the time of a launch goes: a stopwatch of parts that add up to the whole.

Only one part runs at a time: a part that begins inside another interrupts it. What belongs to no
part is "other", so the shares always add up to one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator

# What the parts of the stopwatch are called where their shares are shown, in this order.
SHOWN = {
    "train": "steps",
    "input": "input wait",
    "evaluate": "evaluation",
    "save": "saves",
    "compile": "compilation",
    "restore": "restore",
    "initialise": "initialisation",
    "prepare": "preparation",
    "start": "start",
}
OTHER = "other"


class Stopwatch:
    """Adds up wall-clock time by part.

    Args:
      began: where the whole began, on `time.monotonic`'s clock; the time up to now is the part
        "start". None: now.
    """

    def __init__(self, began: float | None = None) -> None:
        now = time.monotonic()
        self.began = now if began is None else min(began, now)
        self.parts: dict[str, float] = {}
        if began is not None:
            self.parts["start"] = now - self.began
        self._inner = 0.0  # what parts inside of the one that runs have taken of it

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds to a part."""
        self.parts[name] = self.parts.get(name, 0.0) + seconds

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Adds the time that the context takes to a part, without the parts inside of it."""
        begun, outer = time.monotonic(), self._inner
        self._inner = 0.0
        try:
            yield
        finally:
            taken = time.monotonic() - begun
            self.add(name, max(taken - self._inner, 0.0))
            self._inner = outer + taken

    def text(self) -> str:
        """Returns every part in seconds, in words."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.parts.items())

    def wall(self) -> float:
        """Returns the seconds since the whole began."""
        return time.monotonic() - self.began

    def shares(self) -> dict[str, float]:
        """Returns the share of each part in the wall time so far, 0 to 1; they add up to 1.

        The names are those of `SHOWN`; a part that took no time is left out, and "other" is what
        belongs to none.
        """
        known = sum(self.parts.values())
        # A part that still runs is not in `parts`, and clocks are read at slightly other moments.
        whole = max(self.wall(), known, 1e-9)
        parts = {shown: self.parts[name] for name, shown in SHOWN.items() if self.parts.get(name)}
        parts[OTHER] = max(whole - sum(parts.values()), 0.0)
        return {name: seconds / whole for name, seconds in parts.items()}

    def goodput(self) -> str:
        """Returns the shares in words: the line of the log."""
        shares = ", ".join(f"{name} {share:.1%}" for name, share in self.shares().items())
        return f"goodput of this launch: {shares} of {self.wall():,.1f} s"


def process_began() -> float:
    """Returns when this process began, on `time.monotonic`'s clock.

    Where the system does not tell (it is read from Linux's /proc), now.
    """
    now = time.monotonic()
    try:
        fields = pathlib.Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()
        up = float(pathlib.Path("/proc/uptime").read_text("utf-8").split()[0])
        ticks = float(fields[19])  # field 22 of proc(5): the two before the name's end are gone
        return now - max(up - ticks / os.sysconf("SC_CLK_TCK"), 0.0)
    except (OSError, ValueError, IndexError):
        return now
