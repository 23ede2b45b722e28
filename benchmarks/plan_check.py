"""Whether loops that are multiplied out give the unrolled program, at the width of a real model.

    python benchmarks/plan_check.py [--recipe flan_t5_xl] [--topology v4:4x4x4] [--layers 3]

Compiles the recipe's update scanned and unrolled, with so many layers on each side, and prints both
totals and their ratios. Needs the TPU compiler; the unrolled one takes minutes.
"""

from __future__ import annotations

import argparse
import dataclasses

from flan_train import config, plan, plan_chips
from flan_train.plan_step import Settings


def main() -> None:
    """Prints the totals of both programs, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="flan_t5_xl")
    parser.add_argument("--topology", default="v4:4x4x4")
    parser.add_argument("--layers", type=int, default=3)
    options = parser.parse_args()
    resolved = config.resolve([f"t5x_configs/recipes/{options.recipe}.gin"])
    settings = Settings.of(resolved.arguments("flan_train.train.train"))
    made = {}
    for scan in (True, False):
        model = dataclasses.replace(
            settings.model,
            num_encoder_layers=options.layers,
            num_decoder_layers=options.layers,
            scan_layers=scan,
        )
        found = plan.make_plan(
            dataclasses.replace(settings, model=model), plan_chips.parse(options.topology)
        )
        name = "scanned" if scan else "unrolled"
        made[name] = found
        check = found["check"]
        print(
            f"{name:9} {found['flops']:.5g} FLOP, {found['accessed_bytes']:.5g} bytes of any "
            f"memory, {found['hbm_bytes']:.5g} of HBM, peak "
            f"{found['memory']['peak'] / 2**30:.2f} GiB; loops once: "
            f"{check['flops']['ratio']:.5f} of XLA's FLOP, {check['accessed']['ratio']:.5f} of its "
            f"bytes; compiled in {found['compile']['compile_seconds']:.0f} s",
            flush=True,
        )
    for name in ("flops", "accessed_bytes", "hbm_bytes"):
        ratio = made["scanned"][name] / made["unrolled"][name]
        print(f"scanned / unrolled, {name}: {ratio:.4f}")


if __name__ == "__main__":
    main()
