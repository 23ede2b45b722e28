"""Of a checkpoint on a disk, each process of a run reads its own part and little else."""

from __future__ import annotations

import json
import pathlib
import socket
import subprocess
import sys

import pytest

_PROCESS = """
import json, sys, numpy as np, jax
process, port, folder, out = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
import tensorstore as ts
from flan_train import checkpoints
from jax.sharding import Mesh, NamedSharding, PartitionSpec

def bytes_read():
    found = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(value["value"] for metric in found for value in metric["values"])

mesh = Mesh(np.array(jax.devices()), ("x",))
values = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)

def abstract(spec):
    leaf = jax.ShapeDtypeStruct((1024, 1024), np.float32, sharding=NamedSharding(mesh, spec))
    return {"a": {"kernel": leaf}}

leaf = abstract(PartitionSpec("x"))["a"]["kernel"]
kernel = jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: values[index])
saved = checkpoints.Checkpoints(folder, checkpoints.CheckpointConfig())
saved.save(1, {"a": {"kernel": kernel}}, {"count": kernel[:2]}, {"epoch": 0}, {})
saved.close()
told = {}
for name, spec in (("part", PartitionSpec("x")), ("whole", PartitionSpec())):
    before = bytes_read()
    restored, _ = checkpoints.load_params(saved.path(1), abstract(spec))
    told[name] = bytes_read() - before
    for shard in restored["a"]["kernel"].addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), values[shard.index])
open(out, "w").write(json.dumps(told))
"""


@pytest.mark.slow
def test_two_processes_read_half_each(tmp_path: pathlib.Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [tmp_path / f"{process}.json" for process in (0, 1)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(process), str(port), str(tmp_path / "run"), out],
            env={"JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"},
        )
        for process, out in enumerate(map(str, told))
    ]
    assert [process.wait(timeout=240) for process in running] == [0, 0]
    size = 4 * 1024 * 1024
    for path in told:
        read = json.loads(path.read_text("utf-8"))
        # Noise does not compress well: what is read is about what the numbers take.
        assert 0.8 * size < read["whole"] < 1.1 * size
        assert 0.8 * size / 2 < read["part"] < 1.1 * size / 2
