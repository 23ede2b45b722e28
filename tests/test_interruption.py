"""Signals: asked once, ended at the second, given back afterwards."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from flan_train import interruption

TWICE = """
import os, signal, sys, time
from flan_train import interruption
with interruption.handled() as notice:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # as launchers do: still one request
    while not notice.reached():
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(interruption.SECONDS_OF_ONE_REQUEST)
    os.kill(os.getpid(), {second})
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass
print("not reached")
"""


def wait_for(notice: interruption.Notice) -> None:
    end = time.monotonic() + 60
    while not notice.reached() and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGTERM, 0, "SIGTERM"), (signal.SIGINT, 130, "keyboard")]
)
def test_a_signal_asks_and_the_handlers_are_given_back(
    number: int, code: int, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(each) for each in interruption.SIGNALS]
    with interruption.handled() as notice:
        assert interruption.current() is notice
        assert not notice.reached()
        os.kill(os.getpid(), number)
        wait_for(notice)
        with pytest.raises(interruption.Interruption) as caught:
            notice.stop(7)
    assert (caught.value.exit_code, caught.value.step) == (code, 7)
    assert name in capfd.readouterr().err
    assert [signal.getsignal(each) for each in interruption.SIGNALS] == before
    assert interruption.current() is not notice
    assert not interruption.current().reached()


def test_advice_names_the_step_and_the_command() -> None:
    lines = interruption.Interruption(signal.SIGTERM, 1234).advice(
        "runs/mine", "flan-train train x"
    )
    assert lines[0] == "stopped by SIGTERM: everything up to step 1,234 is in runs/mine"
    assert lines[1:] == ["to go on at step 1,234:", "  flan-train train x"]
    early = interruption.Interruption(signal.SIGINT).advice("runs/mine", "x")
    assert early[0] == "stopped by the keyboard: before the first update; what was prepared is kept"


def test_work_that_cannot_ask_is_stopped_at_once() -> None:
    def work() -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(60)

    with (
        interruption.handled() as notice,
        pytest.raises(interruption.Interruption) as caught,
        notice.at_once(3),
    ):
        work()
    assert caught.value.step == 3


def test_no_signal_is_lost_between_two_parts() -> None:
    with interruption.handled() as notice:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(notice)
        with pytest.raises(interruption.Interruption), notice.at_once():
            pytest.fail("work was begun")


def test_other_threads_change_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with interruption.handled() as notice:
            seen.append((notice.reached(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process(repository: pathlib.Path, second: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE.format(second=int(second))],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 128 + second
    assert done.stdout == "asked\n"
    assert "SIGTERM: stopping as soon as all is kept" in done.stderr
    assert "again: ended at once" in done.stderr
