"""The TPU compiler gets stacks on which it can compile a scanned update."""

from __future__ import annotations

import argparse
import importlib.util
import os

import pytest

from flan_train import cli_hosts, tpu_start

STACK = "--fibers_default_thread_stack_size=8388608"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, STACK),
        ({"LIBTPU_INIT_ARGS": "--xla_x=1"}, f"--xla_x=1 {STACK}"),
        (
            {"LIBTPU_INIT_ARGS": "--fibers_default_thread_stack_size=123 --xla_x=1"},
            "--fibers_default_thread_stack_size=123 --xla_x=1",
        ),
    ],
)
def test_what_the_environment_names_stays(given: dict[str, str], wanted: str) -> None:
    assert tpu_start.arguments(given) == wanted


def test_only_where_the_library_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, wanted in ((None, {}), (object(), {"LIBTPU_INIT_ARGS": STACK})):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        environment: dict[str, str] = {}
        tpu_start.prepare(environment)
        assert environment == wanted


def test_a_run_sets_it_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_x=1")  # put back at the end
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with cli_hosts.joined(argparse.Namespace(dry_run=True), ""):
        assert os.environ["LIBTPU_INIT_ARGS"] == f"--xla_x=1 {STACK}"
