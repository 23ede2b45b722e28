"""Several processes that train as one: where they are told to meet, JAX's start, a common end.

Nothing here imports JAX before it is known that there are several. Of any launcher three things are
needed, as flags or in the environment: the coordinator's address, the number of processes, and
which of them this one is. TPU pods, SLURM and Open MPI give them by themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, NoReturn

import flan_train
from flan_train import errors, host_meeting, host_watch
from flan_train.host_card import Card
from flan_train.host_meeting import Meeting

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
START_TIMEOUT = 300.0
# `host_watch` is quicker, and says more; this is for processes that are there and do nothing.
HEARTBEAT_TIMEOUT = 100
# JAX's own error may come before the kernel has noticed that a machine is gone.
SECONDS_FOR_A_LOSS_TO_SHOW = 45.0
SECONDS_TO_LEAVE = 20.0
EXIT_LOST = 1
_SHOW_CURSOR = "\x1b[?25h"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among several.

    Attributes:
      coordinator: "host:port" of process 0.
      count: number of processes.
      index: this one's, from 0.
      devices: those of the machine's devices that are this process's; None for all.
      hosts: machines that the launcher named: by process, if as many; else in any order.
    """

    coordinator: str
    count: int
    index: int
    devices: tuple[int, ...] | None = None
    hosts: tuple[str, ...] = ()


def find(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Place | None:
    """Returns where this process stands; None where it is the only one.

    What is given wins over the environment's JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, and these over what a TPU pod, SLURM or Open MPI say.

    Raises:
      UserError: one of the three is given and another is not to be found; or is no such number.
    """
    coordinator = coordinator or environment.get(COORDINATOR)
    count = _whole(count, environment, COUNT, "--num_processes")
    index = _whole(index, environment, INDEX, "--process_id")
    if count == 1:
        return None
    named = {COORDINATOR: coordinator, COUNT: count, INDEX: index}
    devices: tuple[int, ...] | None = None
    if None in named.values():
        coordinator, count, index, devices = _told_by_launcher(coordinator, count, index)
        if count == 1:
            return None
    if coordinator is None or count is None or index is None:
        given = [name for name, value in named.items() if value is not None]
        if not given:
            return None
        absent = [name for name, value in named.items() if value is None]
        raise errors.UserError(
            f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} given, "
            f"but {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not",
            where="the command line and the environment",
            expected="--coordinator=HOST:PORT --num_processes=N --process_id=I, or the environment "
            f"variables {COORDINATOR}, {COUNT} and {INDEX}",
            fix="give all three to every process, or none to train in one process",
        )
    host_meeting.split_address(coordinator)
    if not 0 <= index < count:
        raise errors.UserError(
            f"there is no process {index} among {count}",
            where=f"--process_id and --num_processes, or {INDEX} and {COUNT}",
            expected=f"a number from 0 to {count - 1}",
        )
    if listed := environment.get("JAX_LOCAL_DEVICE_IDS"):
        if not re.fullmatch(r"\d+(,\d+)*", listed):
            raise errors.UserError(
                f"JAX_LOCAL_DEVICE_IDS is '{listed}'", expected="numbers and commas, such as 0,1"
            )
        devices = tuple(int(word) for word in listed.split(","))
    return Place(coordinator, count, index, devices, expected_hosts(environment))


def _whole(
    given: int | None, environment: Mapping[str, str], variable: str, flag: str
) -> int | None:
    text = environment.get(variable) or None
    if given is None and text is not None and not text.isdecimal():
        raise errors.UserError(
            f"'{text}' is no number of processes",
            where=f"the environment variable {variable}",
            expected="a whole number",
            fix=f"set it, or give {flag}",
        )
    value = int(text) if given is None and text is not None else given
    if value is not None and value < (1 if variable == COUNT else 0):
        raise errors.UserError(
            f"{value} is no {'number of processes' if variable == COUNT else 'process'}",
            where=f"{flag}, or {variable}",
            expected="1 or more" if variable == COUNT else "0 or more",
        )
    return value


def _told_by_launcher(
    coordinator: str | None, count: int | None, index: int | None
) -> tuple[str | None, int | None, int | None, tuple[int, ...] | None]:
    """Returns address, number, index and devices, completed by what JAX knows of launchers.

    Raises:
      UserError: this is a machine of a TPU pod, and what it says of the pod cannot be read.
    """
    # jax.distributed.initialize asks the same, but tells what it has found only when all processes
    # are there. libtpu without a TPU, which compiles for others, makes no pod.
    from jax._src import clusters, hardware_utils

    kinds: list[type[clusters.ClusterEnv]] = [clusters.OmpiCluster, clusters.SlurmCluster]
    on_tpu = hardware_utils.num_available_tpu_chips_and_device_id()[0] > 0
    if on_tpu:
        kinds += [clusters.GkeTpuCluster, clusters.GceTpuCluster]
    devices = None
    try:
        found = next((kind for kind in kinds if kind.is_env_present()), None)
        if found is not None:
            coordinator = coordinator or found.get_coordinator_address(
                timeout_secs=int(START_TIMEOUT),
                override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
            )
            count = found.get_process_count() if count is None else count
            index = found.get_process_id() if index is None else index
            local = None if on_tpu else found.get_local_process_id()
            devices = None if local is None else (local,)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise errors.UserError(
            f"what the launcher says of the processes cannot be read: {error}",
            where="the environment, or the metadata of this machine",
            expected="what a TPU pod, SLURM or Open MPI tells each process",
            fix="give --coordinator, --num_processes and --process_id (--num_processes=1 to train "
            "on this machine alone)",
        ) from error
    return coordinator, count, index, devices


def expected_hosts(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the machines that a launcher named in the environment; none where it named none.

    SLURM's short form "node[1-3,07],gpu1" is written out; of TPU slices only one's are known.
    """
    if environment.get("MEGASCALE_NUM_SLICES", "1") == "1":
        for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
            if environment.get(name):
                return tuple(each.partition(":")[0] for each in environment[name].split(","))
    found = []
    for prefix, ranges, suffix in re.findall(
        r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", environment.get("SLURM_STEP_NODELIST", "")
    ):
        for part in ranges.split(",") if ranges else ():
            first, _, last = part.partition("-")
            if not re.fullmatch(r"\d+(-\d+)?", part):
                return ()  # the names only help to say which machine is missing
            found += [
                f"{prefix}{number:0{len(first)}d}{suffix}"
                for number in range(int(first), int(last or first) + 1)
            ]
        if not ranges:
            found.append(prefix + suffix)
    return tuple(found)


@contextlib.contextmanager
def joined(
    place: Place | None, settings: str, start_timeout: float = START_TIMEOUT
) -> Iterator[None]:
    """Inside, JAX has the devices of all processes; leaves when all processes have come to the end.

    Where one process fails or is lost, all end within a minute, and each says which one it was:
    this one too, in the middle of what it does. An exception that leaves the context ends the
    process here: others would wait for it in vain.

    Args:
      place: where this process stands; None for the only one, for which nothing is done.
      settings: what must be the same in all, a line a setting.
      start_timeout: seconds in which all processes must have come.

    Raises:
      UserError: some have not come, or are of other versions or settings; in all processes alike.
    """
    global _guard
    if place is None:
        yield
        return
    errors.check_number("--start_timeout", start_timeout, above=0)
    meeting = host_meeting.meet(
        place.coordinator, _card(place, settings), start_timeout, _say, place.hosts
    )
    _guard = guard = _Guard(place, meeting)
    try:
        _start_jax(place, start_timeout)
        yield
    except BaseException as error:
        guard.fail(error)
    guard.wait_for_all(host_watch.END)
    _guard = None
    _stop_jax()


def wait_for_all(place: str) -> None:
    """Returns when every process of the run has come here; at once where there is only one.

    Unlike JAX's own ways it needs no device and has no time limit: some compile for longer than
    others, or prepare data meanwhile. All processes call it in the same places.
    """
    if _guard is not None:
        _guard.wait_for_all(place)


@contextlib.contextmanager
def first_before_others(place: str) -> Iterator[None]:
    """Inside, process 0 works alone; the others come in when it is through, and find its files."""
    if not is_first():
        wait_for_all(place)
    yield
    if is_first():
        wait_for_all(place)


def is_first() -> bool:
    """Returns whether this process prints and writes what is to be there once."""
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def _card(place: Place, settings: str) -> Card:
    versions = {
        "flan-train": flan_train.__version__,
        **{name: metadata.version(name) for name in ("jax", "jaxlib")},
        "Python": ".".join(map(str, sys.version_info[:2])),
    }
    return Card(place.index, place.count, socket.gethostname(), os.getpid(), versions, settings)


def _say(text: str) -> None:
    print(f"flan-train: {text}", file=sys.stderr, flush=True)


def _start_jax(place: Place, timeout: float) -> None:
    import jax

    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(timeout)),
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
    )


def _stop_jax() -> None:
    import jax

    jax.distributed.shutdown()


class _Guard:
    """This process's side of its `host_watch`."""

    def __init__(self, place: Place, meeting: Meeting) -> None:
        self._place = place
        self._places = 0
        self._reached: dict[str, threading.Event] = {}
        self._code: int | None = None  # once this process has failed by itself
        self._own, theirs = socket.socketpair()
        names = [
            f"process {index} of {place.count} ({host})" for index, host in enumerate(meeting.hosts)
        ]
        passed = (theirs, *meeting.connections.values())
        words = [
            # It needs nothing that is installed, and must not find `flan_train.select` as `select`.
            *(sys.executable, "-I", "-S", str(pathlib.Path(host_watch.__file__).resolve())),
            *(str(os.getpid()), str(place.index), str(theirs.fileno()), json.dumps(names)),
            *(f"{index}={each.fileno()}" for index, each in meeting.connections.items()),
        ]
        subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[each.fileno() for each in passed],
        )
        for each in passed:
            each.close()
        threading.Thread(target=self._listen, name="host_watch", daemon=True).start()

    def wait_for_all(self, place: str) -> None:
        """Returns when every process has come to this place of the run."""
        self._places += place != host_watch.END
        name = place if place == host_watch.END else f"{self._places} {place}"
        reached = self._reached[name] = threading.Event()
        self._tell({"at": name})
        reached.wait()

    def fail(self, error: BaseException) -> NoReturn:
        """Says why this process ends, here and everywhere, and ends it."""
        code, text = 1, "".join(traceback.format_exception(error))
        first = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        if isinstance(error, errors.UserError):
            code, text, first = 2, f"flan-train: {error}\n", error.what
        elif isinstance(error, KeyboardInterrupt):
            code, text = 130, "flan-train: stopped by the keyboard\n"
            first = "stopped by the keyboard"
        elif isinstance(error, Exception):
            # Often another process is why; then `_listen` ends this one, and says so.
            time.sleep(_patience(error))
        self._code = code
        print(text, end="", file=sys.stderr, flush=True)
        self._tell({"failed": first, "code": code})
        # The watcher ends once the others know; `_listen` sees that.
        time.sleep(SECONDS_TO_LEAVE)
        _leave(code)

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            host_meeting.send(self._own, message)

    def _listen(self) -> None:
        buffer = b""
        while True:
            try:
                data = self._own.recv(1 << 16)
            except OSError:
                data = b""
            *lines, buffer = (buffer + data).split(b"\n")
            for message in map(json.loads, lines):
                if "all_at" in message:
                    self._reached[message["all_at"]].set()
                    if message["all_at"] == host_watch.END:
                        return
                    continue
                # The watcher has said why.
                _leave(EXIT_LOST if message["code"] < 0 else message["code"])
            if not data and self._code is not None:
                _leave(self._code)
            if not data:
                _say(f"what watches process {self._place.index} has ended: so does the process")
                _leave(EXIT_LOST)


def _patience(error: Exception) -> float:
    """Returns how long, in seconds, another process may yet turn out to be the reason."""
    import jax

    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
        return SECONDS_FOR_A_LOSS_TO_SHOW
    return 5.0


def _leave(code: int) -> NoReturn:
    """Ends the process without cleaning up: that would wait for those that are gone."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stdout.isatty():
            sys.stdout.write(_SHOW_CURSOR)  # which a progress bar hides
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


# Of the run that this process is in.
_guard: _Guard | None = None
