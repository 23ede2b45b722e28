"""What an update would take on devices that are not here: its plan, from the compiled program.

Times are bounds of a roofline: computing, main memory and communication at their published peaks,
nothing waiting. The shortest step hides all three behind the longest; beside it stand the step that
hides nothing of communication, and the one of computing and main memory alone.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flan_train import plan_flops, plan_process, plan_text
from flan_train.errors import UserError, not_written
from flan_train.plan_chips import Topology
from flan_train.plan_step import Settings
from flan_train.scores import write_whole

FORMAT = 1
FILE = "plan.json"


def make_plan(
    settings: Settings,
    topology: Topology,
    *,
    recipe: str = "",
    hlo_path: str | None = None,
    limit: float | None = None,
) -> dict[str, Any]:
    """Returns the plan of one update as plain JSON values; quantities are of one device and step.

    Args:
      settings: what is compiled.
      topology: for what.
      recipe: what the plan is called.
      hlo_path: where the optimised program's text goes; None: nowhere.
      limit: seconds that compiling may take; None for any.

    Returns:
      {"format", "recipe", "topology", "settings", "parameters", "mesh", "memory", "flops",
      "transcendentals", "hbm_bytes", "accessed_bytes" (as XLA counts: any memory),
      "model_flops" (of the whole batch, all devices), "intensity" (flops a byte of HBM),
      "loops", "collectives", "roofline", "check", "compile"}; memory in bytes, times in seconds.

    Raises:
      UserError: as `plan_process.measure`.
      plan_process.TookTooLong: the time was up.
    """
    return derived(
        plan_process.measure(settings, topology, hlo_path=hlo_path, limit=limit),
        settings,
        topology,
        recipe,
    )


def derived(
    measured: Mapping[str, Any], settings: Settings, topology: Topology, recipe: str = ""
) -> dict[str, Any]:
    """Returns the plan that follows from what `plan_step.measure` returned."""
    costs, once, xla = measured["costs"], measured["costs_once"], measured["xla"]
    model = settings.model
    wanted = plan_flops.model_flops(
        model, settings.batch_size, settings.lengths["inputs"], settings.lengths["targets"]
    )
    layout = settings.sharding
    return {
        "format": FORMAT,
        "recipe": recipe,
        "topology": {
            "name": topology.name,
            "chip": topology.chip.name,
            "devices": topology.devices,
            "slices": topology.slices,
            "source": topology.chip.source,
        },
        "settings": {
            "preset": layout.preset,
            "num_partitions": layout.num_partitions,
            "batch_size": settings.batch_size,
            "num_microbatches": settings.num_microbatches,
            "lengths": dict(settings.lengths),
            "dtype": model.dtype,
            "scan_layers": model.scan_layers,
            "remat_policy": model.remat_policy,
            "attention": model.attention,
            "attention_used": measured["attention"],
            "dropout_rate": model.dropout_rate,
        },
        "parameters": measured["parameters"],
        "mesh": dict(measured["mesh"]),
        "memory": _memory(measured["memory"], topology),
        "flops": costs["flops"],
        "transcendentals": costs["transcendentals"],
        "hbm_bytes": costs["hbm"],
        "accessed_bytes": costs["accessed"],
        "uncosted": dict(measured["uncosted"]),
        "model_flops": wanted,
        "intensity": costs["flops"] / costs["hbm"] if costs["hbm"] else None,
        "loops": list(measured["loops"]),
        "collectives": list(measured["collectives"]),
        "roofline": _roofline(costs, measured["collectives"], wanted, topology),
        "check": {
            name: {
                "ours": once[name],
                "xla": xla[name],
                "ratio": once[name] / xla[name] if xla[name] else None,
            }
            for name in ("flops", "transcendentals", "accessed")
        },
        "compile": {
            "lower_seconds": measured["lower_seconds"],
            "compile_seconds": measured["compile_seconds"],
            "process_bytes": measured["process_bytes"],
            "jax": measured["jax"],
        },
    }


def _memory(measured: Mapping[str, int], topology: Topology) -> dict[str, Any]:
    """What a device holds, in bytes.

    "peak" is the most that is in use at one instruction, "reserved" what the program asks for: the
    heap of its temporaries has gaps. The headroom is counted from the larger one.
    """
    given = measured["argument_size_in_bytes"]
    made = measured["output_size_in_bytes"] - measured["alias_size_in_bytes"]
    temporary = measured["temp_size_in_bytes"]
    reserved = given + made + temporary + measured["generated_code_size_in_bytes"]
    peak = measured["peak_memory_in_bytes"]
    limit = topology.chip.hbm_bytes
    return {
        "parameters": measured["parameters"],
        "optimizer": measured["optimizer"],
        "arguments": given,
        "results": made,
        "temporaries": temporary,
        "code": measured["generated_code_size_in_bytes"],
        # The CPU compiler leaves the temporaries out of its peak.
        "peak": peak if topology.is_tpu else max(peak, given + made + temporary),
        "reserved": reserved,
        "limit": limit,
        "headroom": None if limit is None else 1.0 - max(peak, reserved) / limit,
    }


def _roofline(
    costs: Mapping[str, float],
    collectives: list[Mapping[str, Any]],
    wanted: float,
    topology: Topology,
) -> dict[str, Any]:
    """Bounds of a step: "step_seconds", "bound_by" and "mfu_bound" are those of all three roofs.

    "_exposed" hides nothing of communication, "_apart" leaves it out, "_accessed" leaves it out and
    takes all that XLA counts as accessed for traffic of main memory.
    """
    chip = topology.chip
    compute, hbm = costs["flops"] / chip.flops, costs["hbm"] / chip.hbm_rate
    accessed = costs["accessed"] / chip.hbm_rate
    communication = sum(row["seconds"] for row in collectives)
    roofs = {"compute": compute, "HBM": hbm, "communication": communication}
    best = wanted / topology.devices / chip.flops
    apart = max(compute, hbm)
    step, exposed, upper = max(roofs.values()), apart + communication, max(compute, accessed)
    return {
        "compute_seconds": compute,
        "hbm_seconds": hbm,
        "accessed_seconds": accessed,
        "communication_seconds": communication,
        "step_seconds": step,
        "bound_by": max(roofs, key=lambda name: roofs[name]),
        "mfu_bound": best / step if step else None,
        "step_seconds_exposed": exposed,
        "mfu_bound_exposed": best / exposed if exposed else None,
        "step_seconds_apart": apart,
        "mfu_bound_apart": best / apart if apart else None,
        "mfu_bound_accessed": best / upper if upper else None,
    }


def write(plan: Mapping[str, Any], path: str | pathlib.Path) -> None:
    """Writes a plan, or the outcome of a search, as JSON.

    Raises:
      UserError: the file cannot be written.
    """
    text = json.dumps(plan, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        write_whole(pathlib.Path(path), text)
    except OSError as error:
        raise not_written("--json", path, error) from None


def read(path: str | pathlib.Path) -> dict[str, Any] | None:
    """Returns the plan in a file; None where there is no file.

    Raises:
      UserError: the file holds no plan.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}")
        plan_text.lines(found)  # all that a reader shows is there
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UserError(
            f"not a plan: {type(error).__name__}: {error}",
            where=str(file),
            expected="what flan-train plan --json wrote",
            fix="delete the file, or write it again",
        ) from error
    return dict(found)


def with_sharding(settings: Settings, **changes: Any) -> Settings:
    """Returns the settings with another layout of the devices."""
    return dataclasses.replace(settings, sharding=dataclasses.replace(settings.sharding, **changes))
