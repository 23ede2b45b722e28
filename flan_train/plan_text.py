"""A plan as lines of text, for the terminal and for the generated documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_COLLECTIVES = 12


def size(count: float) -> str:
    """Returns bytes in words, "3.77 GiB"."""
    for unit, factor in (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if abs(count) >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} bytes"


def seconds(value: float) -> str:
    """Returns a time in words, "43.1 ms"."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def percent(value: float | None) -> str:
    """Returns a share in words, "61.0 %"; "unknown" for None."""
    return "unknown" if value is None else f"{100 * value:.1f} %"


def lines(plan: Mapping[str, Any]) -> list[str]:
    """Returns a plan as lines, without markup."""
    topology, memory, roof = plan["topology"], plan["memory"], plan["roofline"]
    settings, check, work = plan["settings"], plan["check"], plan["compile"]
    mesh = " x ".join(f"{name} {count}" for name, count in plan["mesh"].items())
    found = [
        f"topology           {topology['name']}, {topology['devices']} devices"
        + (f" in {topology['slices']} slices" if topology["slices"] > 1 else "")
        + f"; mesh {mesh} ({settings['preset']})",
        f"update             {settings['batch_size']} rows of {settings['lengths']['inputs']} + "
        f"{settings['lengths']['targets']} places in {settings['num_microbatches']} "
        f"microbatch{'es' * (settings['num_microbatches'] > 1)}, {settings['dtype']}, remat "
        f"{settings['remat_policy']}, " + ("scanned" if settings["scan_layers"] else "unrolled"),
        f"attention          {settings['attention_used']}",
        f"parameters         {plan['parameters']:,}",
        "",
        "memory of a device",
        f"  arguments        {size(memory['arguments'])} (parameters {size(memory['parameters'])}, "
        f"optimizer {size(memory['optimizer'])})",
        f"  temporaries      {size(memory['temporaries'])}",
        f"  peak             {size(memory['peak'])} in use at once, {size(memory['reserved'])} "
        "reserved (gaps and code included)",
    ]
    if memory["limit"] is not None:
        found.append(f"  headroom         {percent(memory['headroom'])} of {size(memory['limit'])}")
    found += [
        "",
        "work of a device and step, loops multiplied out",
        f"  operations       {plan['flops']:.4g} FLOP",
        f"  main memory      {plan['hbm_bytes']:.4g} bytes read and written",
        f"  any memory       {plan['accessed_bytes']:.4g} bytes, as XLA's cost analysis counts",
        f"  intensity        {plan['intensity']:.1f} FLOP a byte of main memory",
        f"  the model needs  {plan['model_flops'] / topology['devices']:.4g} FLOP "
        f"({plan['model_flops']:.4g} on all devices), "
        f"{percent(plan['model_flops'] / topology['devices'] / plan['flops'])} of what is done",
        f"  loops            {loops(plan)}",
        *uncosted(plan),
        "  check            "
        + ", ".join(
            f"{name} {check[key]['ratio']:.4f}"
            for key, name in (("flops", "operations"), ("accessed", "bytes"))
            if check[key]["ratio"] is not None
        )
        + " of XLA's own totals with each loop counted once",
        "",
        f"roofline ({topology['source']})",
        f"  compute          {seconds(roof['compute_seconds'])}",
        f"  main memory      {seconds(roof['hbm_seconds'])} "
        f"({seconds(roof['accessed_seconds'])} if all of any memory's bytes were its)",
        f"  communication    {seconds(roof['communication_seconds'])}",
        f"  step             {seconds(roof['step_seconds'])} at best, bound by {roof['bound_by']}; "
        f"{seconds(roof['step_seconds_exposed'])} with no communication hidden",
        f"  MFU              {percent(roof['mfu_bound'])} at most; "
        f"{percent(roof['mfu_bound_exposed'])} with no communication hidden",
        f"  on the chip      {seconds(roof['step_seconds_apart'])} and MFU "
        f"{percent(roof['mfu_bound_apart'])} without communication "
        f"({percent(roof['mfu_bound_accessed'])} by any memory's bytes)",
    ]
    found += collectives(plan)
    found += [
        "",
        f"compiled in        {seconds(work['compile_seconds'])} (traced in "
        f"{seconds(work['lower_seconds'])}), {size(work['process_bytes'])} of this machine's "
        f"memory, jax {work['jax']}",
    ]
    return found


def loops(plan: Mapping[str, Any]) -> str:
    """Returns the loops of a program in words: "4 of 24 trips, 12 of 2"."""
    counts: dict[Any, int] = {}
    for loop in plan["loops"]:
        counts[loop["trips"]] = counts.get(loop["trips"], 0) + 1
    unknown = counts.pop(None, 0)
    parts = [f"{number} of {trips} trips" for trips, number in sorted(counts.items())[::-1]]
    if unknown:
        parts.append(f"{unknown} of an unknown number of trips, counted once")
    return ", ".join(parts) or "none"


def uncosted(plan: Mapping[str, Any]) -> list[str]:
    """Returns the line that names what was counted as nothing, or no line."""
    calls = plan.get("uncosted", {})
    if not calls:
        return []
    told = ", ".join(f"{target} ({times:,.0f} a step)" for target, times in sorted(calls.items()))
    return [f"  counted as 0     calls of which the compiler tells no cost: {told}"]


def collectives(plan: Mapping[str, Any]) -> list[str]:
    """Returns the collectives of a plan as the lines of a table; nothing where there is none."""
    rows = plan["collectives"]
    if not rows:
        return []
    head = ("kind", "mesh axes", "devices", "a step", "bytes a step", "time")
    cells = [
        (
            row["kind"],
            row["axes"],
            str(row["devices"]),
            f"{row['times']:,}",
            size(row["bytes"]),
            seconds(row["seconds"]),
        )
        for row in rows[:_MOST_COLLECTIVES]
    ]
    widths = [max(len(line[place]) for line in (head, *cells)) for place in range(len(head))]

    def laid(line: tuple[str, ...]) -> str:
        parts = [
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  " + "  ".join(parts).rstrip()

    found = ["", laid(head), *(laid(line) for line in cells)]
    if len(rows) > len(cells):
        rest = rows[len(cells) :]
        found.append(
            f"  and {len(rest)} more of {seconds(sum(row['seconds'] for row in rest))} in all"
        )
    return found
