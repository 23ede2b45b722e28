"""TensorBoard's curves: scalars appended to an event file, in the caller's thread.

The log is what a run is judged by; curves are for looking on. So where they cannot be written, on a
full disk for instance, they end with a warning and the run goes on. tensorboardX's SummaryWriter is
not used: its thread ends at the first error, and whoever then adds to its queue waits for ever.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping

# Each goes through to the disk, which on a slow one takes a moment.
SECONDS_BETWEEN_FLUSHES = 30.0


class Curves:
    """Writes scalars to a new event file in a folder.

    Args:
      folder: where TensorBoard looks; made where it is missing.
      purge_step: TensorBoard forgets what earlier files say of this step and later ones; None: of
        none.
      warn: takes the line that says that no more is written; called at most once.
    """

    def __init__(
        self, folder: pathlib.Path, purge_step: int | None, warn: Callable[[str], None]
    ) -> None:
        # Imported late: it pulls in PyTorch wherever that is installed.
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2

        self._folder, self._warn = folder, warn
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._events: event_file_writer.EventsWriter | None = None
        self._flush_at = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._events = event_file_writer.EventsWriter(str(folder / "events"))
            if purge_step is not None:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                purge = event_pb2.Event(wall_time=time.time(), step=purge_step, session_log=start)
                self._events.write_event(purge)
        except OSError as error:
            self._give_up(error)

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each of the curves that are named."""
        if self._events is None:
            return
        values = [
            self._summary.Value(tag=name, simple_value=float(value))
            for name, value in scalars.items()
        ]
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        try:
            self._events.write_event(event)
            if time.monotonic() >= self._flush_at:
                self._flush()
        except OSError as error:
            self._give_up(error)

    def flush(self) -> None:
        """Brings all points to the disk."""
        try:
            self._flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Brings all points to the disk, and closes the file."""
        try:
            if self._events is not None:
                self._events.close()
        except OSError as error:
            self._give_up(error)
        self._events = None

    def _flush(self) -> None:
        if self._events is not None:
            self._events.flush()
            self._flush_at = time.monotonic() + SECONDS_BETWEEN_FLUSHES

    def _give_up(self, error: OSError) -> None:
        self._events = None
        self._warn(
            f"WARNING: TensorBoard's curves end here: {error.strerror or error} ({self._folder}); "
            "the run goes on, and its log has all of them"
        )
