"""Two processes settle things: an error in one is an error in both, and neither waits for ever."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from flan_train import agreement, errors

HOST = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from flan_train import agreement
from flan_train.checkpoints import DamagedCheckpoint
from flan_train.errors import UserError

me = jax.process_index()

def told(settle):
    try:
        return ["found", settle()]
    except Exception as error:
        return [type(error).__name__, str(error)]

def fail(*failing):
    def act():
        if me in [index for index, _ in failing]:
            raise dict(failing)[me]
        return me
    return act

user = UserError("a file is missing", where="here", expected="a file", fix="make it")
damaged = DamagedCheckpoint("it is damaged", "there")
cases = [
    lambda: agreement.exchange({"me": me, "text": "é" * 700 * (1 + 3 * me)}),
    lambda: agreement.of_first(lambda: [me, "first"]),
    lambda: agreement.together(lambda: me),
    lambda: agreement.together(fail((1, user))),
    lambda: agreement.together(fail((1, PermissionError("not allowed")))),
    lambda: agreement.together(fail((0, damaged)), DamagedCheckpoint),
    lambda: agreement.together(fail((0, damaged), (1, user)), DamagedCheckpoint),
    lambda: agreement.of_first(fail((1, user))),
    lambda: agreement.together(lambda: me),
]
print(json.dumps([told(case) for case in cases]), flush=True)
"""


def test_two_processes(repository: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, address, str(number)],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository), "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        told = [host.communicate(timeout=300) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], told
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in told)
    texts = [{"me": me, "text": "é" * 700 * (1 + 3 * me)} for me in range(2)]
    assert first[0] == second[0] == ["found", texts]
    assert first[1] == second[1] == ["found", [0, "first"]]
    assert (first[2], second[2]) == (["found", 0], ["found", 1])
    message = "a file is missing\n  where: here\n  expected: a file\n  to do: make it"
    for case in (3, 7):
        assert first[case] == ["UserError", f"process 1: {message}"]
        assert second[case] == ["UserError", message]
    assert first[4][0] == "UserError"
    assert first[4][1].startswith("process 1: PermissionError: not allowed")
    assert second[4] == ["PermissionError", "not allowed"]
    assert [side[5][0] for side in (first, second)] == ["DamagedCheckpoint"] * 2
    assert second[5][1].startswith("process 0: it is damaged\n  where: there")
    # Where one of them cannot go on at all, none takes an earlier checkpoint.
    assert [side[6][0] for side in (first, second)] == ["UserError"] * 2
    assert first[6][1] == f"process 1: {message}"
    assert (first[8], second[8]) == (["found", 0], ["found", 1])


def test_one_process() -> None:
    def fail() -> None:
        raise errors.UserError("no")

    assert agreement.exchange({"a": 1}) == [{"a": 1}]
    assert agreement.together(lambda: 5) == agreement.of_first(lambda: 5) == 5
    for settle in (agreement.together, agreement.of_first):
        with pytest.raises(errors.UserError, match=r"^no$"):
            settle(fail)
