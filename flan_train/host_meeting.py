"""How the processes of a run find one another before JAX starts: process 0 listens, others call.

Each tells who it is, its versions and its settings; process 0 answers when all have come, or says
who has not. Lines of JSON over TCP on the coordinator's own port, which is free again afterwards:
the connections stay, for `host_watch`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flan_train import host_card
from flan_train.errors import UserError
from flan_train.host_card import Card, listed, missing, unheard

# Longer than any settings; a stranger that sends more is hung up on.
LONGEST_LINE = 4 << 20
SECONDS_BETWEEN_CALLS = 0.3
# The port may still be held by the process 0 of a job that is being ended.
SECONDS_FOR_THE_PORT = 30.0
SECONDS_BETWEEN_WORDS = 15.0
SECONDS_FOR_AN_ANSWER = 5.0
# A machine that is gone without a word is noticed by the kernel: 10 s + 4 x 5 s.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}


@dataclasses.dataclass
class Meeting:
    """All have come.

    Attributes:
      hosts: machine of each process, by its number.
      connections: process 0's to each other process, by its number; of any other, that to 0.
    """

    hosts: list[str]
    connections: dict[int, socket.socket]


def meet(
    coordinator: str,
    card: Card,
    timeout: float,
    say: Callable[[str], None],
    expected_hosts: Sequence[str] = (),
) -> Meeting:
    """Returns the meeting of all processes, once each of them is there.

    Args:
      coordinator: "host:port" of process 0.
      card: who this process is.
      timeout: seconds to wait for the others.
      say: is told who is being waited for.
      expected_hosts: machines that the launcher named, if it did: by process, if as many.

    Raises:
      UserError: some have not come in time (they are named), the port is taken, or versions,
        settings or numbers of the processes do not agree; in every process the same.
    """
    host, port = split_address(coordinator)
    if card.index == 0:
        return _Host(card, timeout, say, expected_hosts).wait(port)
    return _call(host, port, card, timeout, say)


def split_address(coordinator: str) -> tuple[str, int]:
    """Returns host and port of "host:port"; raises UserError for anything else."""
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"'{coordinator}' is not the address of a process",
            where="--coordinator, or JAX_COORDINATOR_ADDRESS",
            expected="HOST:PORT, the machine of process 0 and a free port there",
            fix="for example --coordinator=10.0.0.1:8476",
        )
    return host.strip("[]"), int(port)


class _Host:
    """Process 0: waits for the others and answers them all."""

    def __init__(
        self, card: Card, timeout: float, say: Callable[[str], None], expected_hosts: Sequence[str]
    ) -> None:
        self._card, self._timeout, self._say = card, timeout, say
        self._expected_hosts = expected_hosts
        self._deadline = time.monotonic() + timeout
        self._came: dict[int, tuple[Card, socket.socket]] = {}
        self._heard: dict[socket.socket, bytes] = {}
        self._said = time.monotonic()

    def wait(self, port: int) -> Meeting:
        try:
            with self._listener(port) as listener, selectors.DefaultSelector() as selector:
                selector.register(listener, selectors.EVENT_READ)
                while len(self._came) < self._card.count - 1:
                    if time.monotonic() > self._deadline:
                        raise self._missing()
                    self._tell_who_is_awaited()
                    for key, _ in selector.select(SECONDS_BETWEEN_CALLS):
                        if key.fileobj is listener:
                            self._accept(listener, selector)
                        else:
                            assert isinstance(key.fileobj, socket.socket)
                            self._hear(key.fileobj, selector)
            others = [self._came[index][0] for index in sorted(self._came)]
            host_card.compare(self._card, others)
        except UserError as error:
            self._answer({"refused": [error.what, error.where, error.expected, error.fix]})
            self._hang_up(every=True)
            raise
        hosts = [self._card.host, *(self._came[i][0].host for i in range(1, self._card.count))]
        self._answer({"met": hosts})
        self._hang_up(every=False)
        return Meeting(hosts, {index: other for index, (_, other) in self._came.items()})

    def _listener(self, port: int) -> socket.socket:
        deadline = min(time.monotonic() + SECONDS_FOR_THE_PORT, self._deadline)
        while True:
            try:
                if socket.has_dualstack_ipv6():
                    return socket.create_server(
                        ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
                    )
                return socket.create_server(("", port), backlog=1024)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"process 0 cannot listen on port {port}: {_reason(error)}",
                        where=f"{self._card.host}; --coordinator, or JAX_COORDINATOR_ADDRESS",
                        expected="a port of this machine that nothing else uses, the same for all "
                        "processes",
                        fix="end what is left of an earlier run, or name another port",
                    ) from error
                time.sleep(SECONDS_BETWEEN_CALLS)

    def _accept(self, listener: socket.socket, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError):
            other, _ = listener.accept()
            keep_alive(other)
            self._heard[other] = b""
            selector.register(other, selectors.EVENT_READ)

    def _hear(self, other: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            data = other.recv(1 << 16)
        except OSError:
            data = b""
        line, end, rest = (self._heard[other] + data).partition(b"\n")
        self._heard[other] = line + end + rest
        index = next((i for i, (_, it) in self._came.items() if it is other), None)
        # Whoever calls twice, says something else than a card, or hangs up, is not there.
        if not data or index is not None or len(line) > LONGEST_LINE or rest:
            self._drop(other, index, selector)
        elif end:
            card = host_card.read(line)
            if card is None:
                self._drop(other, None, selector)
            else:
                self._add(card, other)

    def _drop(
        self, other: socket.socket, index: int | None, selector: selectors.BaseSelector
    ) -> None:
        selector.unregister(other)
        del self._heard[other]
        if index is not None:
            del self._came[index]
        other.close()
        self._tell_who_is_missing()

    def _add(self, card: Card, other: socket.socket) -> None:
        mine = self._card
        before = mine if card.index == 0 else self._came.get(card.index, (None, None))[0]
        if before is not None or not 0 < card.index < mine.count or card.count != mine.count:
            where = f"{card.host}, pid {card.pid}; --process_id, --num_processes"
            self._came[-1] = card, other  # is answered too
            expected = f"each number from 0 to {mine.count - 1} once, and the same number of "
            fix = "give every process its own --process_id, and all the same --num_processes"
            if before is not None:
                what = f"{before.name} and {card.host} both say that they are process {card.index}"
            else:
                what = (
                    f"{card.name} was told of {card.count} processes, {mine.name} of {mine.count}"
                )
            raise UserError(what, where=where, expected=expected + "processes in all", fix=fix)
        self._came[card.index] = card, other
        self._tell_who_is_missing()

    def _tell_who_is_missing(self) -> None:
        left = self._deadline - time.monotonic()
        self._answer({"missing": self._absent(), "left": left})

    def _absent(self) -> list[int]:
        return [index for index in range(1, self._card.count) if index not in self._came]

    def _tell_who_is_awaited(self) -> None:
        now = time.monotonic()
        if now - self._said > SECONDS_BETWEEN_WORDS:
            self._said = now
            self._say(
                f"waiting for {listed(self._absent())} of {self._card.count} processes, "
                f"{self._deadline - now:.0f} s more"
            )

    def _missing(self) -> UserError:
        hosts = [self._card.host, *(card.host for card, _ in self._came.values())]
        came = {0: self._card.host, **{i: card.host for i, (card, _) in self._came.items()}}
        return missing(
            self._absent(), self._card, self._timeout, came, unheard(self._expected_hosts, hosts)
        )

    def _answer(self, message: Mapping[str, Any]) -> None:
        for _, other in self._came.values():
            with contextlib.suppress(OSError):
                send(other, message)

    def _hang_up(self, every: bool) -> None:
        kept = () if every else tuple(other for _, other in self._came.values())
        for other in self._heard:
            if other not in kept:
                other.close()


def _call(host: str, port: int, card: Card, timeout: float, say: Callable[[str], None]) -> Meeting:
    """Any other process: calls process 0 until it answers, then waits for what it says."""
    deadline, said = time.monotonic() + timeout, time.monotonic()
    problem, absent = "no answer", [0]
    while (left := deadline - time.monotonic()) > 0:
        if time.monotonic() - said > SECONDS_BETWEEN_WORDS:
            said = time.monotonic()
            say(f"waiting for process 0 at {host}:{port} ({problem}), {left:.0f} s more")
        try:
            other = socket.create_connection((host, port), timeout=min(left, 5.0))
        except OSError as error:
            problem = _reason(error)
            time.sleep(SECONDS_BETWEEN_CALLS)
            continue
        keep_alive(other)
        try:
            send(other, dataclasses.asdict(card))
            for message in _messages(other, deadline):
                if "met" in message:
                    other.settimeout(None)
                    return Meeting([str(name) for name in message["met"]], {0: other})
                if "refused" in message:
                    what, where, expected, fix = map(str, message["refused"])
                    raise UserError(what, where=where, expected=expected, fix=fix)
                absent = [int(index) for index in message["missing"]] or absent
        except (
            OSError,
            ValueError,
            OverflowError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            problem = f"what answers is no process of such a run: {error}"
        other.close()
        time.sleep(SECONDS_BETWEEN_CALLS)
    if absent == [0]:
        raise UserError(
            f"process 0 did not answer within {timeout:g} s: {problem}",
            where=f"{host}:{port}, called by {card.name} of {card.count}",
            expected="process 0 to run there; it names those that are missing",
            fix="look at the output of process 0, and whether this machine reaches that port",
        )
    raise missing(absent, card, timeout, {}, ())


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _messages(other: socket.socket, deadline: float) -> Any:
    """Yields what process 0 says, until it hangs up or the time is over."""
    buffer = b""
    while (left := deadline - time.monotonic()) > 0:
        other.settimeout(left)
        try:
            data = other.recv(1 << 16)
        except TimeoutError:
            return
        if not data:
            raise OSError("it hung up")
        *lines, buffer = (buffer + data).split(b"\n")
        if len(buffer) > LONGEST_LINE:
            raise ValueError("it says too much")
        for message in map(json.loads, lines):
            # Process 0 may have been started later, and is the one that tells all.
            deadline = max(
                deadline, time.monotonic() + float(message.get("left", 0)) + SECONDS_FOR_AN_ANSWER
            )
            yield message


def keep_alive(connection: socket.socket) -> None:
    """Has the kernel ask after the other machine, and end the connection if it is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # some are Linux's alone
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Sends one message: a line of JSON."""
    connection.sendall(json.dumps(message).encode() + b"\n")
