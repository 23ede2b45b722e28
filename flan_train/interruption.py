"""Stopping on request: SIGTERM (a preemption notice) and the keyboard.

The first signal asks: the loop finishes its update, saves, and leaves by `Interruption`. The second
one ends the process where it is; files are written whole or not at all, so nothing is torn by that.
A thread of its own reads the signals, for the main one may be inside XLA for minutes.

Several processes must stop at the same update. There SIGTERM is JAX's own (its preemption service
takes it with `jax.distributed.initialize`): a notice to any of them reaches all, and JAX names
the call of `Notice.reached` at which each of them gets True.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Some launchers send one signal twice: to the process, and to the group that it is in.
SECONDS_OF_ONE_REQUEST = 1.0
_END = 0  # no signal has this number
_SHOW_CURSOR = "\x1b[?25h"


class Interruption(BaseException):
    """The run stops because it was asked to. No Exception: nothing in between may handle it.

    Attributes:
      number: the signal.
      step: of the checkpoint that the run goes on from; None if it has none of its own.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        super().__init__(f"stopped by {name_of(number)}")
        self.number = number
        self.step = step

    @property
    def exit_code(self) -> int:
        """0 where a scheduler asked; 130, as shells have it, for the keyboard."""
        return 130 if self.number == signal.SIGINT else 0

    @property
    def is_told(self) -> bool:
        """Whether this process says so; of several that train together only the first does."""
        import jax

        return not _is_shared() or jax.process_index() == 0

    def advice(self, model_dir: str, command: str) -> list[str]:
        """Returns what is kept, and how to go on, in lines."""
        if self.step is None:
            kept = "before the first update; what was prepared is kept"
        else:
            kept = f"everything up to step {self.step:,} is in {model_dir}"
        at = "" if self.step is None else f" at step {self.step:,}"
        return [f"stopped by {name_of(self.number)}: {kept}", f"to go on{at}:", f"  {command}"]


def name_of(number: int) -> str:
    """Returns what a user calls a signal."""
    return "the keyboard" if number == signal.SIGINT else signal.Signals(number).name


class Notice:
    """Whether the run is asked to stop; says no for ever unless `handled` made it."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._listens = False
        self._agreed = False
        self._calls = 0
        self._at_once = False
        self._step: int | None = None
        self._since = 0.0

    def reached(self) -> bool:
        """Returns whether to stop here. All processes call this in the same places, as often."""
        if not self._listens:
            return False
        if not _is_shared():
            return self.number is not None
        from jax.experimental import multihost_utils

        if not self._agreed:
            # JAX agrees on one call's number, which no process has reached yet.
            self._calls += 1
            self._agreed = bool(multihost_utils.reached_preemption_sync_point(self._calls))
            if self._agreed:
                self.number = self.number or signal.SIGTERM
                self._since = time.monotonic()
                _own_terminate(self._handle)
        return self._agreed

    def stop(self, step: int | None = None) -> None:
        """Raises Interruption if the run is to stop here; `step` is that of its checkpoint."""
        if self.reached():
            assert self.number is not None
            raise Interruption(self.number, step)

    @contextlib.contextmanager
    def at_once(self, step: int | None = None) -> Iterator[None]:
        """Inside, a signal raises Interruption wherever the main thread is.

        For work that keeps what is finished and cannot ask. One process of several waits for the
        others instead: what it leaves alone would hang them.

        Args:
          step: of the checkpoint that the run goes on from.
        """
        self.stop(step)
        self._at_once, self._step = not _is_shared(), step
        try:
            yield
        finally:
            self._at_once = False
        self.stop(step)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # In the main thread, between two instructions of Python.
        if self._at_once:
            self._at_once = False
            raise Interruption(number, self._step)

    def _received(self, number: int) -> None:
        # In the thread that reads the signals.
        now = time.monotonic()
        if self.number is not None:
            if now - self._since >= SECONDS_OF_ONE_REQUEST:
                _leave(number)
            return
        self.number, self._since = number, now
        print(
            f"{name_of(number)}: stopping as soon as all is kept (once more: at once)",
            file=sys.stderr,
            flush=True,
        )
        if number == signal.SIGINT and _is_shared():
            # JAX tells the other processes of this signal only.
            os.kill(os.getpid(), signal.SIGTERM)


_current = Notice()


def current() -> Notice:
    """Returns the notice of the `handled` context that is open; else one that never says yes."""
    return _current


@contextlib.contextmanager
def handled() -> Iterator[Notice]:
    """Takes SIGTERM and SIGINT while inside, and gives them back afterwards.

    Outside of the main thread, which alone may take signals, it changes nothing.
    """
    global _current
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    notice._listens = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    reader = threading.Thread(target=_read, args=(reading, notice), daemon=True)
    reader.start()
    # JAX's preemption service takes SIGTERM outside of Python, where `getsignal` cannot see it.
    own = SIGNALS[1:] if _is_shared() else SIGNALS
    before = {number: signal.signal(number, notice._handle) for number in own}
    outer, _current = _current, notice
    try:
        yield notice
    finally:
        _current = outer
        notice._at_once = False
        for number, taken in before.items():
            signal.signal(number, taken)
        signal.set_wakeup_fd(woken)
        os.write(writing, bytes([_END]))
        reader.join()
        os.close(reading)
        os.close(writing)


def _read(reading: int, notice: Notice) -> None:
    while True:
        for number in os.read(reading, 64):
            if number == _END:
                return
            if number in SIGNALS:
                notice._received(number)


def _is_shared() -> bool:
    """Returns whether several processes train together. Does not start JAX's backends."""
    import jax

    return bool(jax.distributed.is_initialized()) and jax.process_count() > 1


def _own_terminate(handle: signal._HANDLER) -> None:
    # From here on JAX has nothing more to tell: a further SIGTERM is to end this process.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handle)


def _leave(number: int) -> None:
    """Ends the process without cleaning up: that could wait for what is to be ended."""
    print(f"{name_of(number)} again: ended at once", file=sys.stderr, flush=True)
    if sys.stdout.isatty():
        sys.stdout.write(_SHOW_CURSOR)  # which a progress bar hides
        sys.stdout.flush()
    os._exit(128 + number)
