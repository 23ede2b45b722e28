"""Several processes that train together stop at the same update, whichever of them is asked."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests import stopping


@pytest.mark.slow
def test_a_notice_to_one_process_stops_all_at_the_same_update(
    repository: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    one_each = "--xla_force_host_platform_device_count=1"

    def start(index: int) -> subprocess.Popen[str]:
        words = [address, "2", str(index), str(run), str(tmp_path / "data"), "500"]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.distributed_run", *words, str(tmp_path / "programs")],
            cwd=repository,
            env={**os.environ, "XLA_FLAGS": one_each, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    processes = [start(0), start(1)]
    try:
        while not stopping.lines(run / "log.jsonl"):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        told = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], told
    (first, second) = (
        [line for line in text.splitlines() if line.startswith("stopped at ")] for text in told
    )
    assert first == second
    step = int(first[0].removeprefix("stopped at "))
    assert (run / "checkpoints" / str(step)).is_dir()
    logged = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert logged[-1] <= step < 500
