"""Tries ways to lay an update out on the same devices, and ranks those that fit.

What is varied is preset, partitions (powers of two), microbatches and rematerialisation: it changes
no result but by rounding, and microbatches draw other dropout. An estimate from shapes alone orders
the candidates, the given settings first; then each is compiled.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh

from flan_train import dry_run, plan, plan_flops, plan_process, plan_text, sharding, train_step
from flan_train.errors import UserError
from flan_train.models.config import REMAT_POLICIES
from flan_train.plan_chips import Topology
from flan_train.plan_step import Settings

MICROBATCHES = (1, 2, 4, 8)
# Operations of an update against one that recomputes nothing, for the estimate.
_RECOMPUTED = {"none": 1.0, "full": 4 / 3}
_RECOMPUTED_ELSE = 1.08


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to lay the update out.

    Attributes:
      settings: with it.
      seconds: a rough estimate of a step, good for the order only.
      bytes: a rough estimate of what a device holds.
    """

    settings: Settings
    seconds: float
    bytes: float

    @property
    def label(self) -> str:
        """The candidate in words."""
        return label(self.settings)


def label(settings: Settings) -> str:
    """Returns a layout in words: "fsdp_tensor 8, 2 microbatches, remat dots"."""
    layout, parts = settings.sharding, settings.num_microbatches
    return (
        f"{layout.preset} {layout.num_partitions}, {parts} microbatch{'es' * (parts > 1)}, "
        f"remat {settings.model.remat_policy}"
    )


def candidates(
    settings: Settings, topology: Topology
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Returns the candidates, the most promising first, and (label, reason) of those left out.

    The given settings come first if they can be used at all.
    """
    found: list[Candidate] = []
    refused: list[tuple[str, str]] = []
    seen = set()
    for one in (settings, *_variants(settings, topology)):
        if label(one) in seen:
            continue
        seen.add(label(one))
        try:
            found.append(_estimated(one, topology))
        except UserError as error:
            refused.append((label(one), error.what))
    limit = topology.chip.hbm_bytes
    first = found[:1] if found and found[0].settings == settings else []
    # What seems not to fit is tried last: the estimate of activations is a rough one.
    rest = sorted(
        found[len(first) :],
        key=lambda one: (limit is not None and one.bytes > limit, one.seconds),
    )
    return [*first, *rest], refused


def search(
    settings: Settings,
    topology: Topology,
    *,
    recipe: str = "",
    most: int = 8,
    seconds: float = 1800.0,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Compiles candidates and returns what was found, as plain JSON values.

    Args:
      settings: where the search starts.
      topology: for what.
      recipe: what the plans are called.
      most: candidates to compile.
      seconds: time after which no further one is begun, and what is running is ended.
      say: is told a line for each candidate.

    Returns:
      {"format", "topology", "ranked" (plans that fit, the best first), "refused" (candidate and
      reason), "untried" (labels), "seconds"}. The best has the shortest step by all three roofs:
      computing, main memory and communication, each hidden behind the longest.
    """
    started = time.monotonic()
    ordered, left_out = candidates(settings, topology)
    ranked: list[dict[str, Any]] = []
    refused = [{"candidate": name, "reason": reason} for name, reason in left_out]
    say(f"{len(ordered)} candidates, {len(left_out)} that cannot be; at most {most} are compiled")
    tried = 0
    for one in ordered[:most]:
        rest = seconds - (time.monotonic() - started)
        if rest <= 0:
            break
        tried += 1
        try:
            made = plan.make_plan(one.settings, topology, recipe=recipe, limit=rest)
        except UserError as error:
            refused.append({"candidate": one.label, "reason": error.what})
            say(f"{tried}/{min(most, len(ordered))} {one.label}: {error.what.splitlines()[0]}")
        except plan_process.TookTooLong:
            tried -= 1
            say(f"{one.label}: the search's time was up while it compiled")
            break
        else:
            made["candidate"] = one.label
            ranked.append(made)
            say(f"{tried}/{min(most, len(ordered))} {one.label}: {short(made)}")
    return {
        "format": plan.FORMAT,
        "topology": topology.name,
        "ranked": sorted(ranked, key=lambda made: float(made["roofline"]["step_seconds"])),
        "refused": refused,
        "untried": [one.label for one in ordered[tried:]],
        "seconds": time.monotonic() - started,
    }


def short(made: dict[str, Any]) -> str:
    """Returns a plan in one line."""
    roof, memory = made["roofline"], made["memory"]
    return (
        f"compute {plan_text.seconds(roof['compute_seconds'])}, main memory "
        f"{plan_text.seconds(roof['hbm_seconds'])}, communication "
        f"{plan_text.seconds(roof['communication_seconds'])}, peak "
        f"{plan_text.size(memory['peak'])}, compiled in "
        f"{plan_text.seconds(made['compile']['compile_seconds'])}"
    )


def lines(outcome: dict[str, Any]) -> list[str]:
    """Returns the outcome of a search as lines: ranked, not possible, not tried."""
    found = ["by the longest of computing, main memory and communication:"]
    for place, made in enumerate(outcome["ranked"], 1):
        found.append(
            f"  {place}. {plan_text.seconds(made['roofline']['step_seconds'])}  "
            f"{made['candidate']}: {short(made)}"
        )
    if not outcome["ranked"]:
        found.append("  nothing that was compiled fits")
    by_reason: dict[str, list[str]] = {}
    for row in outcome["refused"]:
        by_reason.setdefault(row["reason"].splitlines()[0], []).append(row["candidate"])
    for reason, names in by_reason.items():
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        found.append(f"not possible: {'; '.join(names[:3])}{others}: {reason}")
    if outcome["untried"]:
        names = outcome["untried"]
        others = f" and {len(names) - 6} more" if len(names) > 6 else ""
        found.append(
            f"not tried ({len(names)}; --search_limit and --search_seconds): "
            f"{'; '.join(names[:6])}{others}"
        )
    return found


def _variants(settings: Settings, topology: Topology) -> list[Settings]:
    each = topology.devices // topology.slices
    layouts = [("data_parallel", 1), ("fsdp", 1)]
    parts = 2
    while parts <= each:
        layouts += [("fsdp", parts), ("tensor", parts), ("fsdp_tensor", parts)]
        parts *= 2
    return [
        plan.with_sharding(
            dataclasses.replace(
                settings,
                num_microbatches=microbatches,
                model=dataclasses.replace(settings.model, remat_policy=remat),
            ),
            preset=preset,
            num_partitions=partitions,
        )
        for preset, partitions in layouts
        for microbatches in MICROBATCHES
        for remat in REMAT_POLICIES
        if (preset, partitions) != ("fsdp", each) and preset in sharding.PRESETS
    ]


def _estimated(settings: Settings, topology: Topology) -> Candidate:
    """The candidate with its estimates; raises UserError where it cannot be."""
    layout = dataclasses.replace(settings.sharding, num_slices=topology.slices)
    shape = sharding.mesh_shape(layout, topology.devices)
    mesh = AbstractMesh(shape, sharding.MESH_AXES)
    partitioner = sharding.Partitioner(mesh, layout.preset)
    partitioner.check_batch_size(settings.batch_size, settings.num_microbatches)
    state = train_step.abstract_state(
        settings.model, settings.optimizer, partitioner, settings.guard
    )
    sizes = [
        leaf.dtype.itemsize * _elements(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(state)
    ]
    own = float(sum(sizes))
    chip = topology.chip
    if chip.hbm_bytes is not None and own > chip.hbm_bytes:
        raise UserError(
            f"parameters and optimizer alone take more than the {plan_text.size(chip.hbm_bytes)} "
            "of a device"
        )
    inputs, targets = settings.lengths["inputs"], settings.lengths["targets"]
    tensor, fsdp = int(mesh.shape["tensor"]), int(mesh.shape["fsdp"])
    rows = settings.batch_size / settings.num_microbatches / partitioner.batch_parts
    activations = dry_run.activation_bytes(
        settings.model, max(1, round(rows)), (inputs, targets), tensor=tensor
    )
    model = settings.model
    work = plan_flops.model_flops(model, settings.batch_size, inputs, targets)
    work *= _RECOMPUTED.get(model.remat_policy, _RECOMPUTED_ELSE) / topology.devices
    weights = 2.0 * sum(_elements(leaf.shape) for leaf in jax.tree.leaves(state.params)) / tensor
    places = rows * (inputs * model.num_encoder_layers + 2 * targets * model.num_decoder_layers)
    width = 2.0 * model.embed_dim * places * settings.num_microbatches
    moved = 3.0 * weights * settings.num_microbatches
    sent = moved if fsdp > 1 else 0.0
    sent += 8.0 * width if tensor > 1 else 0.0
    sent += 2.0 * own if int(mesh.shape["data"]) > 1 else 0.0
    seconds = max(
        work / chip.flops,
        (moved + 3 * own + 40.0 * width / tensor) / chip.hbm_rate,
        sent / (2 * chip.dimensions * chip.link_rate),
    )
    return Candidate(settings, seconds, own + weights + activations)


def _elements(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
