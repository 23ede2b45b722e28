"""What the TPU library must be told before it starts."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, MutableMapping

VARIABLE = "LIBTPU_INIT_ARGS"
_STACK = "--fibers_default_thread_stack_size"


def arguments(base: Mapping[str, str]) -> str:
    """Returns libtpu's arguments: those of the environment, and a stack of 8 MiB for its threads.

    Its compiler works through nested fusions on the stacks of its own threads. With their default
    size (libtpu 0.0.42) it overflows, and the process ends, on the update of a scanned model. A
    size that the environment names stays.
    """
    given = base.get(VARIABLE, "")
    return given if _STACK in given else f"{given} {_STACK}={8 * 2**20}".strip()


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets the environment's LIBTPU_INIT_ARGS where libtpu is installed: before JAX sees devices.

    The library reads it once, when it starts.
    """
    if importlib.util.find_spec("libtpu") is not None:
        environment[VARIABLE] = arguments(environment)
