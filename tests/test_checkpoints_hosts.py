"""Two processes restore one checkpoint: each reads its own part, and they agree on the step."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    runs = json.dumps([str(whole), str(damaged)])
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, runs, address, str(number)],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository), "XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    told = [host.communicate(timeout=120) for host in hosts]
    assert all(host.returncode == 0 for host in hosts), told
    size = 2 * 4 * ROWS * COLUMNS
    for out, _ in told:
        first, second = map(json.loads, out.splitlines()[-2:])
        assert first[:3] == [2, 1, True]
        assert first[3] < 0.65 * size  # random numbers do not compress: a half and a little
        assert second[:3] == [1, 1, True]
    assert sorted(path.name for path in (damaged / "checkpoints").iterdir()) == ["1", "2.damaged"]
