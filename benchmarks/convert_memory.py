"""How much memory conversion takes: a folder of T5 XXL's width, both ways, at two depths.

    python benchmarks/convert_memory.py [--depths 1 3] [--dtype bfloat16] [--folder DIR]

Makes a Hugging Face folder with XXL's true widths (4096; 64 heads of 64; 10,240) and fewer layers,
weights drawn at random, in several safetensors files; converts it to a parameters-only folder
and back, each in a process of its own through the command line, asserts that the folder that comes
back is the same byte for byte, and prints the peak memory of each process (its resident set, from
the kernel) beside the size of the data. The peak of XXL's full depth is bounded by letting what
grew between the depths, if anything, go on to 24 layers; exits with 1 if that is above 6 GiB.
Needs 11 GB of disk for 3 layers a stack in bfloat16 (24 GB for 8), and 5 minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator

LIMIT = 6 * 2**30
GIB = 2**30
FULL_DEPTH = 24
# Of the encoder and of the decoder, in float32: 4 and 8 projections of attention, 2 MLPs.
LAYER = 4 * (12 * 4096 * 4096 + 2 * 3 * 4096 * 10240)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One process: what it did, the bytes it read, its peak resident set in bytes, and seconds."""

    what: str
    depth: int
    data: int
    peak: int
    seconds: float


def make(folder: pathlib.Path, depth: int, dtype: str, shard_bytes: int) -> None:
    """Writes the folder that is converted."""
    import numpy as np

    from flan_train.convert import hf_config, hf_files
    from flan_train.convert.hf_table import sources
    from flan_train.models.config import T5Config

    config = T5Config(
        embed_dim=4096,
        num_heads=64,
        head_dim=64,
        mlp_dim=10240,
        num_encoder_layers=depth,
        num_decoder_layers=depth,
        mlp_activation="gated-gelu",
        tie_embeddings=False,
    )
    generator = np.random.default_rng(0)
    kind = {"float32": "F32", "bfloat16": "BF16"}[dtype]

    def blocks(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        for rows in hf_files.row_slices(shape):
            numbers = generator.standard_normal((rows.stop - rows.start, *shape[1:]), np.float32)
            yield hf_files.from_float32(numbers, kind)

    tensors = [
        hf_files.Written(
            name, kind, array.tensor_shape, lambda shape=array.tensor_shape: blocks(shape)
        )
        for array in sources(config)
        for name in array.theirs
    ]
    folder.mkdir(parents=True)
    described = hf_config.with_dtype(hf_config.config_to_hf(config), dtype)
    hf_files.write_json(folder / "config.json", described)
    hf_files.write_json(folder / "generation_config.json", hf_config.generation_config())
    hf_files.write_tensors(folder, tensors, shard_bytes)


def run(what: str, arguments: list[str], depth: int = 0, data: int = 0) -> Measured:
    """Returns what one process took; raises SystemExit if it failed."""
    began = time.monotonic()
    # This process imports no numpy: the kernel counts its memory as the child's until exec.
    process = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *arguments])
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{what} failed: {' '.join(arguments)}")
    return Measured(what, depth, data, usage.ru_maxrss * 1024, time.monotonic() - began)


def size(folder: pathlib.Path) -> int:
    """Returns the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def assert_same(one: pathlib.Path, other: pathlib.Path) -> int:
    """Returns how many files two folders have; raises SystemExit unless they are the same."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        raise SystemExit(f"{other} has other files than {one}")
    for name in names:
        with (one / name).open("rb") as first, (other / name).open("rb") as second:
            while content := first.read(2**24):
                if second.read(2**24) != content:
                    raise SystemExit(f"{name} differs")
            if second.read(1):
                raise SystemExit(f"{name} differs in length")
    return len(names)


def measure(folder: pathlib.Path, depth: int, options: argparse.Namespace) -> list[Measured]:
    """Returns the processes of one depth, and prints what was there."""
    theirs, ours, back = (folder / f"{name}_{depth}" for name in ("hf", "flan", "back"))
    shard_gb = options.shard_gb
    made = [__file__, "--make", str(theirs), "--depths", str(depth), "--dtype", options.dtype]
    run("making", [*made, f"--shard_gb={shard_gb}"])
    convert = ["-m", "flan_train.cli", "convert"]
    there = [*convert, "hf-to-flan", f"--from={theirs}", f"--to={ours}"]
    again = [*convert, "flan-to-hf", f"--from={ours}", f"--to={back}", f"--shard_gb={shard_gb}"]
    data = size(theirs)
    rows = [run("hf-to-flan", there, depth, data), run("flan-to-hf", again, depth, data)]
    files = assert_same(theirs, back)
    print(
        f"depth {depth}: {size(theirs) / GIB:.2f} GiB of {options.dtype} in {files} files,"
        f" {size(ours) / GIB:.2f} GiB on disk as ours; came back the same byte for byte"
    )
    for path in (theirs, ours, back):
        shutil.rmtree(path)
    return rows


def main() -> int:
    """Measures, prints, and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--shard_gb", type=float, default=1.0)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--make", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make is not None:
        make(options.make, options.depths[0], options.dtype, int(options.shard_gb * 1e9))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [
            row for depth in options.depths for row in measure(pathlib.Path(folder), depth, options)
        ]
    print(f"{'process':12} {'layers':>7} {'data GiB':>9} {'peak GiB':>9} {'seconds':>8}")
    for row in rows:
        data, peak = row.data / GIB, row.peak / GIB
        print(f"{row.what:12} {row.depth:7} {data:9.2f} {peak:9.2f} {row.seconds:8.1f}")
    failed = False
    for what in ("hf-to-flan", "flan-to-hf"):
        peaks = sorted((row.depth, row.peak) for row in rows if row.what == what)
        first, last = peaks[0], peaks[-1]
        growth = (last[1] - first[1]) / max(1, last[0] - first[0])
        full = last[1] + max(0.0, growth) * (FULL_DEPTH - last[0])
        failed |= full > LIMIT
        print(
            f"{what}: {growth / 2**20:+.0f} MiB a layer of either stack between {first[0]} and"
            f" {last[0]} layers, where the data grow by {LAYER / 2**20:,.0f} MiB (float32); at most"
            f" {full / GIB:.2f} GiB with XXL's {FULL_DEPTH} + {FULL_DEPTH} layers if that went on"
            f" ({LIMIT / GIB:.0f} are allowed)"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
