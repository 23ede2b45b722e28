"""Starts the process that compiles for absent devices, and reads its answer."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from flan_train import tpu_start
from flan_train.errors import UserError
from flan_train.plan_chips import Topology

_LINES_SHOWN = 12


class TookTooLong(Exception):
    """A compilation was ended because its time was up."""


def environment(topology: Topology, base: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables that a program for a topology is compiled under.

    Args:
      topology: what is compiled for.
      base: the variables of this process; those that are set there stay in force beside ours.
    """
    found = {**base, "JAX_PLATFORMS": "cpu"}
    if not topology.is_tpu:
        flag = f"--xla_force_host_platform_device_count={topology.devices}"
        return {**found, "XLA_FLAGS": f"{base.get('XLA_FLAGS', '')} {flag}".strip()}
    return {
        **found,
        # No machine is asked what it is, and several compilers may run at once.
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        tpu_start.VARIABLE: tpu_start.arguments(base),
    }


def check_compiler(topology: Topology) -> None:
    """Raises UserError where a TPU is asked for and its compiler is not installed."""
    if topology.is_tpu and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the TPU compiler is not installed",
            where=f"--topology={topology.name}",
            expected="the package libtpu, which compiles for TPUs that are not here",
            fix="pip install 'flan-train[tpu]'; or look at --topology=cpu:8, which needs nothing",
        )


def measure(
    settings: Any, topology: Topology, *, hlo_path: str | None = None, limit: float | None = None
) -> dict[str, Any]:
    """Returns what `plan_step.measure` does, from a process of its own.

    Args:
      settings: `plan_step.Settings`.
      topology: what to compile for.
      hlo_path: where the program's text goes; None: nowhere.
      limit: seconds after which it is ended; None for any time.

    Raises:
      UserError: as `plan_step.measure`; the compiler is missing, or failed.
      TookTooLong: the time was up.
    """
    check_compiler(topology)
    request = {
        "settings": dataclasses.asdict(settings),
        "topology": topology.name,
        "slices": topology.slices,
        "hlo_path": hlo_path,
    }
    # Files without a name: however this process ends, nothing stays behind.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "flan_train.plan_child"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=said,
            env=environment(topology, os.environ),
        )
        assert child.stdin is not None
        try:
            # The pipe stays open: that it closes tells the child that this process has ended.
            # A child that has ended by itself is told of below.
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
            child.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            raise TookTooLong(f"{limit:.0f} s") from None
        finally:
            child.kill()
            child.wait()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()
        answer.seek(0)
        said.seek(0)
        text = answer.read().decode("utf-8", "replace")
        if child.returncode or not text:
            raise _failed(child.returncode, said.read().decode("utf-8", "replace"), topology)
    found = json.loads(text)
    if "error" in found:
        raise UserError(**found["error"])
    return dict(found["measured"])


def _failed(code: int, said: str, topology: Topology) -> UserError:
    lines = [line for line in said.splitlines() if line.strip()][-_LINES_SHOWN:]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    least = (
        "memory ran out: SCAN_LAYERS = True takes least; else " if code == -signal.SIGKILL else ""
    )
    return UserError(
        f"the process that compiles for {topology.name} {how}; its last words:\n    "
        + "\n    ".join(line[:200] for line in lines),
        where=f"--topology={topology.name}",
        expected="a compiled program",
        fix=least + "try another version of JAX or libtpu, or report it with these lines",
    )
