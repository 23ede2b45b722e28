"""Real sockets over loopback: who comes, who is missed, who is refused."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Sequence

import pytest

from flan_train import host_card, host_meeting
from flan_train.errors import UserError
from flan_train.host_card import Card
from flan_train.host_meeting import Meeting

VERSIONS = {"flan-train": "1", "jax": "2"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def card(index: int, count: int, **other: object) -> Card:
    told = {"host": f"host-{index}", "versions": VERSIONS, "settings": "A = 1\nB = 2\n", **other}
    return Card(index, count, pid=os.getpid(), **told)  # type: ignore[arg-type]


def meet(
    cards: Sequence[Card], timeout: float = 30.0, hosts: Sequence[str] = (), port: int | None = None
) -> list[Meeting | UserError]:
    """Has the processes of these cards meet, in threads; what each of them comes to."""
    address = f"127.0.0.1:{port or free_port()}"

    def one(mine: Card) -> Meeting | UserError:
        try:
            return host_meeting.meet(address, mine, timeout, lambda text: None, hosts)
        except UserError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(cards)) as pool:
        return list(pool.map(one, cards))


def errors_of(met: Sequence[Meeting | UserError]) -> list[UserError]:
    assert all(isinstance(each, UserError) for each in met), met
    return [each for each in met if isinstance(each, UserError)]


def hang_up(met: Sequence[Meeting | UserError]) -> None:
    for each in met:
        assert isinstance(each, Meeting), each
        for connection in each.connections.values():
            connection.close()


@pytest.mark.parametrize("count", [2, 5])
def test_all_meet_and_know_each_other(count: int) -> None:
    met = meet([card(index, count) for index in range(count)])
    for index, each in enumerate(met):
        assert isinstance(each, Meeting)
        assert each.hosts == [f"host-{number}" for number in range(count)]
        assert sorted(each.connections) == ([0] if index else list(range(1, count)))
    first = met[0]
    assert isinstance(first, Meeting)
    host_meeting.send(first.connections[1], {"said": 1})
    second = met[1]
    assert isinstance(second, Meeting)
    assert json.loads(second.connections[0].recv(100)) == {"said": 1}
    hang_up(met)


def test_the_port_is_free_for_jax_while_the_connections_stay() -> None:
    port = free_port()
    met = meet([card(0, 2), card(1, 2)], port=port)
    socket.create_server(("", port)).close()
    hang_up(met)


def test_those_that_are_missing_are_named_everywhere() -> None:
    hosts = ["host-0.zone", "host-1.zone", "host-2", "host-3", "host-4", "host-5"]
    told = errors_of(meet([card(0, 6), card(2, 6)], timeout=1.5, hosts=hosts))
    for error in told:
        assert error.what == "processes 1, 3-5 of 6 have not come within 1.5 s"
        assert "--start_timeout" in error.fix
    assert "there are: 0 (host-0), 2 (host-2)" in told[0].where
    assert "not heard of: host-1.zone, host-3, host-4, host-5" in told[0].where


def test_process_0_that_is_missing_is_named() -> None:
    (error,) = errors_of(meet([card(1, 2)], timeout=1.0))
    assert error.what.startswith("process 0 did not answer within 1 s: ")
    assert "Connection refused" in error.what
    assert "process 1 (host-1) of 2" in error.where


def connect(port: int) -> socket.socket:
    """Calls process 0, which may not listen yet."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            time.sleep(0.02)


def test_one_that_hangs_up_has_not_come_but_may_come_again() -> None:
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, [card(0, 3)], 20.0, (), port)
        leaving, staying = connect(port), connect(port)
        host_meeting.send(leaving, dataclasses.asdict(card(1, 3)))
        assert json.loads(leaving.recv(1000))["missing"] == [2]
        leaving.close()
        host_meeting.send(staying, dataclasses.asdict(card(2, 3)))
        assert json.loads(staying.recv(1000))["missing"] == [1]
        again = meet([card(1, 3)], port=port)
        hang_up([*first.result(), *again])
        staying.close()


def test_strangers_are_hung_up_on_and_harm_nothing() -> None:
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, [card(0, 2)], 20.0, (), port)
        for said in (
            b"PRI * HTTP/2.0\r\n\r\n",
            b"[]\n",
            b'{"index": "x"}\n',
            b'{"index": 1e999, "count": 2, "pid": 1, "versions": {}, "host": "", "settings": ""}\n',
            b"\xff\n",
            b"[" * 9999,
        ):
            other = connect(port)
            other.sendall(said)
            if b"\n" in said:
                assert other.recv(100) == b""
            other.close()
        second = meet([card(1, 2)], port=port)
        hang_up([*first.result(), *second])


@pytest.mark.parametrize("said", [b"[]\n", b'{"missing": [1e999]}\n', b"\xff\n"])
def test_what_is_no_process_of_a_run_is_said_of_it(said: bytes) -> None:
    """Something else listens at the port of process 0."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    other, _ = listener.accept()
                    other.sendall(said)
                    other.close()

        threading.Thread(target=answer, daemon=True).start()
        (error,) = errors_of(meet([card(1, 2)], timeout=1.0, port=port))
        listener.shutdown(socket.SHUT_RDWR)
    assert "no process of such a run" in error.what


def test_other_versions_are_refused_by_name() -> None:
    other = {**VERSIONS, "jax": "1.9"}
    for error in errors_of(meet([card(0, 3), card(1, 3), card(2, 3, versions=other)])):
        assert error.what == "not all processes have the same version of jax"
        assert error.where == "process 2 (host-2) has 1.9"
        assert error.expected == "2, as process 0 (host-0) has"


def test_other_settings_are_refused_by_name() -> None:
    for error in errors_of(meet([card(0, 3), card(1, 3, settings="A = 1\nB = 3\n"), card(2, 3)])):
        assert error.what == "not all processes have the settings of process 0 (host-0)"
        assert error.where == "process 1 (host-1) has B = 3"
        assert error.expected == "B = 2"


def test_one_number_twice() -> None:
    told = meet([card(0, 3), card(1, 3), card(1, 3, host="another")], timeout=3.0)
    for error in errors_of(told):
        assert "both say that they are process 1" in error.what
        assert "another" in error.what
        assert "host-1" in error.what


def test_process_0_twice() -> None:
    # The second one finds the port taken; what calls it process 0 is told so.
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        (error,) = errors_of(meet([card(0, 2)], timeout=0.5, port=port))
    assert error.what == f"process 0 cannot listen on port {port}: Address already in use"


def test_other_numbers_of_processes() -> None:
    for error in errors_of(meet([card(0, 3), card(1, 2)], timeout=5.0)):
        assert error.what == ("process 1 (host-1) was told of 2 processes, process 0 (host-0) of 3")


@pytest.mark.parametrize("address", ["here", "here:", ":80", "here:x", "here:0", "here:70000"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(UserError, match="is not the address of a process"):
        host_meeting.split_address(address)


def test_addresses() -> None:
    assert host_meeting.split_address("10.0.0.1:8476") == ("10.0.0.1", 8476)
    assert host_meeting.split_address("[::1]:8476") == ("::1", 8476)


def test_numbers_in_words() -> None:
    assert host_card.listed([1]) == "1"
    assert host_card.listed([4, 1, 3, 5, 7]) == "1, 3-5, 7"
    assert host_card.listed([1, 2]) == "1-2"
