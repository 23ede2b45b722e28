"""Watches a process of a run, and the others through their watchers; a program of its own.

python host_watch.py PID INDEX FD_OF_THE_PROCESS NAMES INDEX=FD ...

What ends a process (a signal, the kernel for want of memory, JAX when another process is gone) ends
its threads as well, and may do so before they have said a word. This program outlives it: it says
which process was lost first, has it told everywhere, and ends those that wait for the lost one.

Star-shaped: the watcher of process 0 hears from all others and tells them. Lines of JSON. It knows
the standard library alone, and so starts at once and is small. Processes also wait for one another
here, for as long as it takes: at places of the run that they name, and at its END.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

# How long a process may take to end by itself once the run is over.
SECONDS_TO_LEAVE = 10.0
# Where one gives up, the others often do so for the same reason, and say it better themselves.
SECONDS_TO_FAIL_AS_WELL = 3.0
SECONDS_BETWEEN_LOOKS = 0.2
_MAIN = -1
END = "end"


class Watch:
    """One watcher: reads from its process and from the other watchers until the run is over.

    Args:
      pid: the process that is watched.
      index: its number in the run.
      names: what each process is called, by its number.
      main: connection to the process.
      others: of process 0, to every other one; of those, to 0.
    """

    def __init__(
        self,
        pid: int,
        index: int,
        names: list[str],
        main: socket.socket,
        others: dict[int, socket.socket],
    ) -> None:
        self._pid, self._index, self._names = pid, index, names
        self._main, self._others = main, others
        self._buffers: dict[int, bytes] = {}
        self._at: dict[str, set[int]] = {}
        self._has_failed = False
        self._selector = selectors.DefaultSelector()
        for number, connection in ((_MAIN, main), *others.items()):
            connection.settimeout(SECONDS_TO_LEAVE)
            self._selector.register(connection, selectors.EVENT_READ, number)
        self._handle: int | None = None
        with contextlib.suppress(OSError, AttributeError):  # Linux has it; else it is looked after
            self._handle = os.pidfd_open(pid)
            self._selector.register(self._handle, selectors.EVENT_READ, None)

    def run(self) -> None:
        """Returns when the run is over, well or not."""
        while True:
            ready = self._selector.select(SECONDS_BETWEEN_LOOKS)
            # Its last words come before its end is noticed.
            for key, _ in sorted(ready, key=lambda pair: pair[0].data is None):
                over = False if key.data is None else self._hear(key.data, key.fileobj)
                if over:
                    return
            if not self._is_there() and self._own_is_lost():
                return

    def _hear(self, number: int, connection: Any) -> bool:
        """Takes what one connection has to say; returns whether the run is over."""
        try:
            data = connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data and number == _MAIN:
            if connection in self._selector.get_map():
                self._selector.unregister(connection)
            return False  # it is ending: its own end will tell
        if not data:
            return self._lost(number)
        *lines, self._buffers[number] = (self._buffers.get(number, b"") + data).split(b"\n")
        return any(self._obey(self._index if number == _MAIN else number, line) for line in lines)

    def _obey(self, number: int, line: bytes) -> bool:
        message = json.loads(line)
        if "end" in message:  # from process 0's watcher, as the next one
            return self._over(message)
        if "all_at" in message:
            return self._all_at(message)
        self._has_failed |= number == self._index and "failed" in message
        if self._index:
            try:
                _send(self._others[0], message)
            except OSError:
                return self._lost(0)
            return "failed" in message
        if "lost" in message:
            return self._lost(number)
        if "failed" in message:
            failed = {"end": message["failed"], "code": message["code"], "by": number}
            return self._over(failed | {"end": f"{self._names[number]} stopped: {failed['end']}"})
        there = self._at.setdefault(message["at"], set())
        there.add(number)
        return len(there) == len(self._names) and self._all_at({"all_at": message["at"]})

    def _all_at(self, message: Mapping[str, Any]) -> bool:
        """Tells that all have come to a place; returns whether it is the end of the run."""
        for connection in (self._main, *(() if self._index else self._others.values())):
            with contextlib.suppress(OSError):
                _send(connection, message)
        return bool(message["all_at"] == END)

    def _own_is_lost(self) -> bool:
        if select.select([self._main], [], [], 0)[0] and self._hear(_MAIN, self._main):
            return True  # it had said why
        if self._index == 0:
            return self._lost(0)
        with contextlib.suppress(OSError):
            _send(self._others[0], {"lost": True})
            # Another process may have been the first: then that is what is to be said.
            deadline = time.monotonic() + SECONDS_TO_LEAVE
            while (left := deadline - time.monotonic()) > 0:
                if select.select([self._others[0]], [], [], left)[0] and self._hear(
                    0, self._others[0]
                ):
                    return True
        return self._over(_end_of(self._names[self._index], self._index))

    def _lost(self, number: int) -> bool:
        """Says that a process is gone; returns True."""
        return self._over(_end_of(self._names[number], number))

    def _over(self, message: Mapping[str, Any]) -> bool:
        """Tells the others (of process 0), and this process; returns True."""
        if self._index == 0:
            for connection in self._others.values():
                with contextlib.suppress(OSError):
                    _send(connection, message)
        if message["code"] >= 0 and self._fails_as_well():
            # JAX ends at once, with words of its own, those that outlive process 0.
            if self._index == 0:
                self._wait_for_others()
            return True
        print(f"\nflan-train: {message['end']}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            _send(self._main, message)
        if not self._has_ended(SECONDS_TO_LEAVE):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        return True

    def _fails_as_well(self) -> bool:
        """Returns whether this process has said, or is about to, why it ends itself."""
        deadline = time.monotonic() + SECONDS_TO_FAIL_AS_WELL
        while not self._has_failed and (left := deadline - time.monotonic()) > 0:
            if not select.select([self._main], [], [], left)[0]:
                break
            try:
                data = self._main.recv(1 << 16)
            except OSError:
                break
            if not data:
                break
            self._has_failed = b'"failed"' in data
        return self._has_failed

    def _wait_for_others(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_LEAVE
        waiting = list(self._others.values())
        while waiting and (left := deadline - time.monotonic()) > 0:
            for connection in select.select(waiting, [], [], left)[0]:
                with contextlib.suppress(OSError):
                    if connection.recv(1 << 16):
                        continue
                waiting.remove(connection)

    def _has_ended(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._is_there() and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS / 4)
        return not self._is_there()

    def _is_there(self) -> bool:
        return os.getppid() == self._pid


def _end_of(name: str, number: int) -> dict[str, Any]:
    text = (
        f"{name} is lost: it was killed, or its machine cannot be reached\n"
        "  expected: every process of a run to last as long as the run\n"
        "  to do: look at the output of that process and at its machine's log (out of memory?), "
        "and start all processes again with the same commands: the run goes on from its newest "
        "checkpoint"
    )
    return {"end": text, "code": -1, "by": number}


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def main(arguments: list[str]) -> int:
    """Watches until the run is over; returns 0."""
    # What stops a run reaches its processes; they stop in order, and tell.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid, index, fd, names, *others = arguments
    connections = {int(number): int(each) for number, _, each in (o.partition("=") for o in others)}
    Watch(
        int(pid),
        int(index),
        json.loads(names),
        socket.socket(fileno=int(fd)),
        {number: socket.socket(fileno=each) for number, each in connections.items()},
    ).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
