"""The flags by which a process is told of the others that train with it."""

from __future__ import annotations

import argparse
import contextlib

# Modules are imported inside the functions: `--help` must not wait for JAX.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a run in several processes."""
    several = parser.add_argument_group(
        "several processes",
        "the same command is given to each; TPU pods, SLURM and Open MPI need none of these flags",
    )
    several.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="process 0's machine and a free port there (else JAX_COORDINATOR_ADDRESS)",
    )
    several.add_argument(
        "--num_processes", type=int, metavar="N", help="how many there are (JAX_NUM_PROCESSES)"
    )
    several.add_argument(
        "--process_id", type=int, metavar="I", help="which one this is, from 0 (JAX_PROCESS_ID)"
    )
    several.add_argument(
        "--start_timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for all of them (300); then those that are missing are named",
    )


def joined(options: argparse.Namespace, settings: str) -> contextlib.AbstractContextManager[None]:
    """Returns the context in which the processes of a command line work as one: `hosts.joined`.

    A dry run is for one process, wherever it is started.
    """
    from flan_train import hosts, tpu_start

    tpu_start.prepare()
    if options.dry_run:
        return contextlib.nullcontext()
    place = hosts.find(options.coordinator, options.num_processes, options.process_id)
    return hosts.joined(place, settings, options.start_timeout)
