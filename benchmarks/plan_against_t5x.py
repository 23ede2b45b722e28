"""The update of T5 1.1 XL and XXL compiled for 64 absent chips of TPU v4, beside T5X's.

  python benchmarks/plan_against_t5x.py --json results.json  # needs libtpu
  python benchmarks/plan_against_t5x.py --size xl --unrolled 3       # and that loops count right

The same work: global batch 64 x (1,024 + 256), bfloat16 activations, dropout. Figures are of one
device (v4 as it is used: one device a chip) and one update. Of each size there is a configuration
for speed and a lean one. T5X cannot be installed beside this JAX, so its figures are recorded: its
own network, partitioner and Adafactor, its best variants, compiled by libtpu for the same topology
with that compiler's standard options, its layers laid out, so that the compiler's own count (which
takes the body of a loop once) has them all. Bytes are compared as that compiler counts them, reads
and writes of on-chip memory included; what really passes through HBM is told beside it, and what
the interconnect would take. Ours has one option of the compiler of its own, as in the trainer
(`ShardingConfig.cut_products`); `--cut_products` compiles without it.

`--unrolled N` compiles N layers a stack twice, as a loop and laid out, and compares both totals.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

from flan_train import plan, plan_chips
from flan_train.losses import LossConfig
from flan_train.models.t5 import T5Config
from flan_train.optimizers import OptimizerConfig
from flan_train.plan_step import Settings
from flan_train.sharding import ShardingConfig

GIB = 2**30
TOPOLOGY = "v4:4x4x4"
SIZES = {"xl": (2048, 32, 5120), "xxl": (4096, 64, 10240)}


@dataclasses.dataclass(frozen=True)
class Peer:
    """What T5X needs at one size.

    Attributes:
      flops, accessed: the fewest of its unrolled variants; the compiler's own counts.
      lean_peak: bytes of device memory of its leanest variant.
    """

    flops: float
    accessed: float
    lean_peak: float


T5X = {
    "xl": Peer(flops=1.19e13, accessed=1.91e11, lean_peak=3.8 * GIB),
    "xxl": Peer(flops=4.45e13, accessed=4.64e11, lean_peak=5.1 * GIB),
}
# Presets, devices that share a layer, what is kept for the gradient, microbatches.
OURS = {
    ("xl", "fast"): ("fsdp_tensor", 4, "dots", 1),
    ("xl", "lean"): ("fsdp_tensor", 4, "full", 1),
    ("xxl", "fast"): ("fsdp_tensor", 4, "dots", 1),
    ("xxl", "lean"): ("fsdp_tensor", 4, "full", 1),
}


def settings(
    size: str, kind: str, layers: int = 24, scan: bool = True, cut_products: bool = False
) -> Settings:
    """Returns what is compiled, for the size and "fast" or "lean"."""
    embed, heads, mlp = SIZES[size]
    preset, partitions, remat, microbatches = OURS[size, kind]
    return Settings(
        model=T5Config(
            embed_dim=embed,
            num_heads=heads,
            mlp_dim=mlp,
            num_encoder_layers=layers,
            num_decoder_layers=layers,
            mlp_activation="gated-gelu",
            tie_embeddings=False,
            dropout_rate=0.05,
            dtype="bfloat16",
            scan_layers=scan,
            remat_policy=remat,
        ),
        optimizer=OptimizerConfig(),
        loss=LossConfig(),
        sharding=ShardingConfig(
            preset=preset, num_partitions=partitions, cut_products=cut_products
        ),
        batch_size=64,
        lengths={"inputs": 1024, "targets": 256},
        num_microbatches=microbatches,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), action="append")
    parser.add_argument("--kind", choices=("fast", "lean"), action="append")
    parser.add_argument("--unrolled", type=int, metavar="LAYERS")
    parser.add_argument("--cut_products", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, metavar="PATH")
    given = parser.parse_args()
    topology = plan_chips.parse(TOPOLOGY)
    rows: list[dict[str, Any]] = []
    for size in given.size or sorted(SIZES):
        if given.unrolled:
            rows += unrolled(size, given.unrolled, topology)
            continue
        for kind in given.kind or ("fast", "lean"):
            rows += compared(size, kind, topology, given.cut_products)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row["name"].endswith(":bar") and not row["ours"] for row in rows))


def compared(
    size: str, kind: str, topology: plan_chips.Topology, cut_products: bool = False
) -> list[dict[str, Any]]:
    """Compiles one configuration, prints its figures beside T5X's and returns them."""
    preset, partitions, remat, microbatches = OURS[size, kind]
    print(
        f"\n{size}, {kind}: {preset}, {partitions} devices share a layer, remat {remat}, "
        f"{microbatches} microbatch(es)",
        flush=True,
    )
    made = plan.make_plan(settings(size, kind, cut_products=cut_products), topology)
    peer, memory, roofline = T5X[size], made["memory"], made["roofline"]
    rows = [
        row(f"{size} {kind} FLOPs", made["flops"], peer.flops, "a step"),
        row(f"{size} {kind} bytes accessed", made["accessed_bytes"], peer.accessed, "a step"),
        row(f"{size} {kind} HBM bytes", made["hbm_bytes"], None, "a step"),
        row(f"{size} {kind} peak memory", memory["peak"] / GIB, peer.lean_peak / GIB, "GiB"),
        row(f"{size} {kind} reserved memory", memory["reserved"] / GIB, None, "GiB"),
        row(f"{size} {kind} headroom", memory["headroom"], None, "of the HBM"),
        row(f"{size} {kind} communication", roofline["communication_seconds"], None, "s"),
        row(f"{size} {kind} compile time", made["compile"]["compile_seconds"], None, "s"),
    ]
    bound = roofline["mfu_bound_accessed"]
    rows.append(row(f"{size} {kind} MFU bound, all accesses taken for HBM", bound, None, ""))
    for suffix, text in (
        ("_apart", "MFU bound without communication"),
        ("", f"MFU bound with communication, all hidden (by {roofline['bound_by']})"),
        ("_exposed", "MFU bound with communication, none hidden"),
    ):
        rows.append(row(f"{size} {kind} {text}", roofline[f"mfu_bound{suffix}"], None, ""))
    if kind == "fast":
        bars = {
            "bytes accessed at most half of T5X's": made["accessed_bytes"] <= peer.accessed / 2,
            "FLOPs no more than T5X's": made["flops"] <= peer.flops,
            "a tenth of the HBM free": memory["headroom"] >= 0.1,
            "MFU bound without communication at least 60 %": bound >= 0.6,
        }
    else:
        bars = {"peak at most 90 % of T5X's leanest": memory["peak"] <= 0.9 * peer.lean_peak}
    rows += [row(f"{size} {kind} {text}:bar", bool(kept), None, "") for text, kept in bars.items()]
    for one in rows:
        peer_text = "" if one["peer"] is None else f"T5X {one['peer']:12.4g}"
        value = one["ours"] if isinstance(one["ours"], bool) else f"{one['ours']:.4g}"
        print(f"  {one['name']:60s} {value!s:>12s} {one['unit']:12s} {peer_text}", flush=True)
    return rows


def unrolled(size: str, layers: int, topology: plan_chips.Topology) -> list[dict[str, Any]]:
    """Compiles a shallow model as a loop and laid out; returns both totals side by side."""
    both = [
        plan.make_plan(settings(size, "fast", layers, scan), topology) for scan in (True, False)
    ]
    rows = []
    for name in ("flops", "accessed_bytes", "hbm_bytes"):
        loop, flat = (made[name] for made in both)
        rows.append(row(f"{size}, {layers} layers: {name}", loop, flat, "a step", "laid out"))
        print(
            f"  {rows[-1]['name']:40s} loop {loop:.5g}, laid out {flat:.5g}, "
            f"ratio {loop / flat:.4f}"
        )
    return rows


def row(
    name: str, ours: Any, peer: float | None, unit: str, peer_name: str = "T5X"
) -> dict[str, Any]:
    """Returns a line of results; a ratio above 1 means that ours needs less."""
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "peer_name": None if peer is None else peer_name,
        "ratio": None if peer is None else peer / ours,
        "unit": unit,
    }


if __name__ == "__main__":
    main()
