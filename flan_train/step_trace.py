"""A trace of a few updates of a run, for XProf and TensorBoard's profile plugin.

The first two updates of a launch are passed over: they warm caches and allocators up. The trace
begins and ends between updates, with the devices idle, so it holds those updates and nothing else.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from flan_train.errors import not_written

FOLDER = "profile"
WARM_UP = 2
TRACED = 3
# What an update is called in the trace; viewers group events by it.
STEP_NAME = "train"


class StepTrace:
    """Traces updates WARM_UP + 1 to WARM_UP + TRACED of a launch; use it as a context.

    Of a launch that has fewer it traces those that there are, the last one at least.

    Args:
      folder: where the trace goes, as TensorBoard reads it; None switches it off.
      start: updates made before this launch.
      last: the update that ends the run.
    """

    def __init__(self, folder: pathlib.Path | None, start: int, last: int) -> None:
        self._folder = folder
        self._first = min(start + WARM_UP + 1, last)
        self._last = min(start + WARM_UP + TRACED, last)
        self._runs = False

    def __enter__(self) -> StepTrace:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runs:  # the run ends in the middle of it
            jax.profiler.stop_trace()

    @contextlib.contextmanager
    def step(self, number: int, before: Any) -> Iterator[None]:
        """The context of one update.

        Args:
          number: of the update, from 1.
          before: what the update waits for; the trace begins once it is there.

        Raises:
          UserError: the folder cannot be written to.
        """
        if self._folder is None or not self._first <= number <= self._last:
            yield
            return
        if not self._runs:
            jax.block_until_ready(before)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # the host's own calls would drown the step
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(self._folder, profiler_options=options)
            except OSError as error:
                raise not_written("MODEL_DIR", self._folder, error) from error
            self._runs = True
        with jax.profiler.StepTraceAnnotation(STEP_NAME, step_num=number):
            yield

    def ended(self, number: int, after: Any) -> str | None:
        """Ends the trace after its last update; returns the line that says so, or None.

        Args:
          number: of the update that was just given to the devices.
          after: what it leaves.
        """
        if not self._runs or number < self._last:
            return None
        jax.block_until_ready(after)
        jax.profiler.stop_trace()
        self._runs = False
        steps = f"step {number:,}" if number == self._first else f"steps {self._first:,}-{number:,}"
        return f"trace of {steps} in {self._folder}: tensorboard --logdir {self._folder}"
