"""The TPU compiler gets stacks on which it can compile a scanned update."""

from __future__ import annotations

import importlib.util

import pytest

from flan_train import tpu_start

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
