"""docs/plans.md: a plan of every recipe that is shipped, made by compiling its update.

    python -m flan_train.plan_card > docs/plans.md

Needs the TPU compiler (`pip install 'flan-train[tpu]'`), and minutes for each of the larger models;
what is being compiled is told on the standard error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flan_train import config, plan, plan_chips, plan_step, plan_text

# Recipe, topology, slices and further settings of each plan.
PLANS: tuple[tuple[str, str, int, tuple[str, ...]], ...] = (
    ("quickstart", "cpu:8", 1, ()),
    ("quickstart", "v5e:2x2", 1, ()),
    ("cot_small_demo", "v5e:2x2", 1, ()),
    ("flan_t5_small", "v4:2x2x2", 1, ()),
    ("flan_t5_base", "v4:2x2x2", 1, ()),
    ("flan_t5_large", "v4:2x2x4", 1, ()),
    ("flan_t5_xl", "v4:4x4x4", 1, ()),
    ("flan_t5_xxl", "v4:4x4x4", 1, ()),
    ("flan_t5_xxl", "v4:4x4x4", 1, ("ATTENTION = 'plain'",)),
    ("flan_t5_xxl", "v4:2x4x4", 2, ()),
    ("flan_t5_xxl", "v5p:4x4x4", 1, ()),
)
_INTRODUCTION = """\
# Plans of the recipes

Generated, not measured: each recipe's update was compiled for devices that were not there. These
are the compiler's memory and program, and bounds that follow from the chips' published figures.

    python -m flan_train.plan_card > docs/plans.md

`flan-train plan --gin_file=RECIPE --topology=NAME` prints one of them. What the columns say, and
how the numbers are found, stands in [planning.md](planning.md).
"""


def plans(
    wanted: Sequence[tuple[str, str, int, tuple[str, ...]]] = PLANS,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Returns a plan for each (recipe, topology, slices, bindings).

    Args:
      wanted: what to compile.
      say: is told a line before each.

    Raises:
      UserError: as `plan.make_plan`.
    """
    found = []
    for recipe, name, slices, bindings in wanted:
        say(f"{', '.join((recipe, *bindings))} on {name}")
        # Nothing is written there; one recipe leaves it to the user.
        settled = ("MODEL_DIR = 'runs/planned'", *bindings)
        resolved = config.resolve([f"t5x_configs/recipes/{recipe}.gin"], settled)
        settings = plan_step.Settings.of(resolved.arguments("flan_train.train.train"))
        called = ", ".join((recipe, *bindings))
        found.append(plan.make_plan(settings, plan_chips.parse(name, slices), recipe=called))
    return found


def text(made: Sequence[Mapping[str, Any]]) -> str:
    """Returns the document of these plans."""
    return "\n".join([_INTRODUCTION, *_table(made), "", *_details(made)])


def _table(made: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = (
        "recipe | devices | mesh | peak of a device | free | FLOP | bytes of main memory | "
        "attention | compute | communication | step at best | MFU at most | with no communication "
        "hidden"
    )
    yield f"| {head} |"
    yield "|" + "---|" * (head.count("|") + 1)
    for one in made:
        topology, memory, roof = one["topology"], one["memory"], one["roofline"]
        slices = f", {topology['slices']} slices" if topology["slices"] > 1 else ""
        cells = (
            one["recipe"],
            f"{topology['name']}{slices}",
            " x ".join(f"{name} {size}" for name, size in one["mesh"].items() if size > 1) or "1",
            plan_text.size(memory["peak"]),
            plan_text.percent(memory["headroom"]) if memory["limit"] else "-",
            f"{one['flops']:.3g}",
            f"{one['hbm_bytes']:.3g}",
            one["settings"]["attention_used"].partition(" (")[0],
            plan_text.seconds(roof["compute_seconds"]),
            plan_text.seconds(roof["communication_seconds"]),
            f"{plan_text.seconds(roof['step_seconds'])}, {roof['bound_by']}",
            plan_text.percent(roof["mfu_bound"]),
            plan_text.percent(roof["mfu_bound_exposed"]),
        )
        yield f"| {' | '.join(cells)} |"


def _details(made: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for one in made:
        slices = one["topology"]["slices"]
        beside = f", {slices} slices" if slices > 1 else ""
        yield f"## {one['recipe']} on {one['topology']['name']}{beside}"
        yield ""
        yield from (f"    {line}".rstrip() for line in plan_text.lines(one))
        yield ""


if __name__ == "__main__":
    started = time.monotonic()

    def _say(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    print(text(plans(say=_say)), end="")
