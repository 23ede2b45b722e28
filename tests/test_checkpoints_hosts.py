"""Two processes restore one checkpoint: each reads its own part, and they agree on the step."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from flan_train import checkpoint_files
from flan_train.checkpoints import CheckpointConfig, Checkpoints

ROWS, COLUMNS = 256, 512


def values(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def save(folder: pathlib.Path, step: int, sharding: jax.sharding.Sharding) -> None:
    run = Checkpoints(folder, CheckpointConfig())
    params = {"kernel": jax.device_put(values(step), sharding)}
    run.save(step, params, {"rows": params["kernel"]}, {"epoch": step}, {})
    run.close()


def chunks(folder: pathlib.Path) -> list[int]:
    """The chunks that an array is stored in."""
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": f"file://{folder}/", "path": "kernel/"},
    }
    return list(ts.open(spec, open=True, read=True).result().chunk_layout.read_chunk.shape)


def over(count: int) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), ("fsdp",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))


def test_no_chunk_is_larger_than_what_a_device_holds(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "eight", 1, over(8))
    assert chunks(tmp_path / "eight" / "checkpoints" / "1" / "params") == [ROWS // 8, COLUMNS]
    # A device that holds all of a large array writes several chunks.
    monkeypatch.setattr(checkpoint_files, "CHUNK_BYTES", 2**16)
    save(tmp_path / "one", 1, over(1))
    rows, columns = chunks(tmp_path / "one" / "checkpoints" / "1" / "params")
    assert 4 * rows * columns <= 2**16
    restored = Checkpoints(tmp_path / "one", CheckpointConfig()).restore(
        1,
        *[
            {name: jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.float32, sharding=over(4))}
            for name in ("kernel", "rows")
        ],
    )
    np.testing.assert_array_equal(restored.params["kernel"], values(1))


HOST = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
import jax.numpy as jnp, numpy as np, tensorstore as ts
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from tests.test_checkpoints_hosts import COLUMNS, ROWS, over, values

def read():
    metrics = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return metrics[0]["values"][0]["value"] if metrics else 0

kernel = jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.float32, sharding=over(2))
for run in json.loads(sys.argv[1]):
    before = read()
    found = Checkpoints(run, CheckpointConfig()).newest_restorable(
        {"kernel": kernel}, {"rows": kernel}
    )
    mine = found.restored.params["kernel"].addressable_shards
    same = all(np.array_equal(part.data, values(found.step)[part.index]) for part in mine)
    print(json.dumps([found.step, len(mine), same, read() - before]), flush=True)
"""


def run_both(program: str, first: str, second: str, repository: pathlib.Path) -> list[list[Any]]:
    """Returns what two processes have printed as JSON, a line each, each given its own word."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", program, word, address, str(number)],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository), "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, word in enumerate((first, second))
    ]
    try:
        told = [host.communicate(timeout=300) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert all(host.returncode == 0 for host in hosts), told
    return [
        [
            json.loads(line)
            for line in out.splitlines()
            if line.startswith("[") and "[Gloo]" not in line
        ]
        for out, _ in told
    ]


@pytest.mark.slow
def test_two_processes(tmp_path: pathlib.Path, repository: pathlib.Path) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    for step in (1, 2):
        save(whole, step, over(2))
    shutil.copytree(whole, damaged)
    # One file is damaged, which only one of them reads.
    data = [p for p in (damaged / "checkpoints" / "2" / "opt_state").rglob("*") if p.is_file()]
    largest = max(data, key=lambda path: path.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 4] ^= 1
    largest.write_bytes(raw)
    runs = json.dumps([str(whole), str(damaged)])
    size = 2 * 4 * ROWS * COLUMNS
    for first, second in run_both(HOST, runs, runs, repository):
        assert first[:3] == [2, 1, True]
        assert first[3] < 0.65 * size  # random numbers do not compress: a half and a little
        assert second[:3] == [1, 1, True]
    assert sorted(path.name for path in (damaged / "checkpoints").iterdir()) == ["1", "2.damaged"]


START = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))
import jax.numpy as jnp
from flan_train import checkpoint_folder, errors, launch
from flan_train.checkpoints import CheckpointConfig, Checkpoints
from tests.test_checkpoints_hosts import COLUMNS, ROWS, over

checkpoint_folder.SECONDS_TO_SEE = 0.0
kernel = jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.float32, sharding=over(2))

def go_on(run, strict):
    saved = Checkpoints(run, CheckpointConfig())
    newest = launch.find_start(saved, 9, None, True, {"kernel": kernel}, strict)
    found = saved.newest_restorable({"kernel": kernel}, {"rows": kernel}, strict=strict)
    return [newest, found and found.step]

for run, strict in json.loads(sys.argv[1]):
    try:
        print(json.dumps(go_on(run, strict)), flush=True)
    except errors.UserError as error:
        print(json.dumps([type(error).__name__, error.what]), flush=True)
"""


def test_two_processes_go_on_from_the_same_step_or_not_at_all(
    tmp_path: pathlib.Path, repository: pathlib.Path
) -> None:
    shared, torn = tmp_path / "shared", tmp_path / "torn"
    for step in (1, 2):
        save(shared, step, over(2))
    for name in ("older", "torn"):
        shutil.copytree(shared, tmp_path / name)
    shutil.rmtree(tmp_path / "older" / "checkpoints" / "2")
    (torn / "checkpoints" / "2" / "_CHECKPOINT_METADATA").unlink()
    # What each is told to use: the last pairs are not one folder.
    first = [(shared, False), (torn, True), (shared, False), (tmp_path / "none", False)]
    second = [(shared, False), (torn, True), (tmp_path / "older", False), (shared, False)]
    words = [json.dumps([[str(run), strict] for run, strict in side]) for side in (first, second)]
    ours, theirs = run_both(START, *words, repository)
    assert ours[0] == theirs[0] == [2, 2]
    for side in (ours, theirs):
        assert side[1][0] == "DamagedCheckpoint"
        assert "step 2 is incomplete" in side[1][1]
        assert "[1, 2], process 1 of [1]" in side[2][1]
        assert "[], process 1 of [1, 2]" in side[3][1]
