"""The command line of `flan-train plan`."""

from __future__ import annotations

import argparse
import math
import os
import pathlib
from collections.abc import Sequence

from flan_train import cli_gin
from flan_train.errors import UserError

# Modules are imported inside the functions: `--help` must not wait for JAX.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `plan` to its parser."""
    cli_gin.add_arguments(parser)
    parser.add_argument(
        "--topology",
        metavar="NAME",
        help="the devices: v4:XxYxZ, v5p:XxYxZ, v5e:XxY, v6e:XxY (chips along each side of a "
        "slice), or cpu:N",
    )
    parser.add_argument(
        "--slices",
        type=int,
        default=1,
        metavar="N",
        help="so many slices of that shape, joined by the data centre's network",
    )
    parser.add_argument("--json", metavar="PATH", help="write the plan, or the search, as JSON")
    parser.add_argument(
        "--hlo", metavar="PATH", help="write the compiled program as text, for a closer look"
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="try presets, partitions, microbatches and rematerialisation, and rank what fits",
    )
    parser.add_argument(
        "--search_limit", type=int, default=8, metavar="N", help="programs to compile (default 8)"
    )
    parser.add_argument(
        "--search_seconds",
        type=float,
        default=1800.0,
        metavar="S",
        help="time after which the search stops (default 1800)",
    )


def run(options: argparse.Namespace, bindings: Sequence[str]) -> int:
    """Prints the plan and returns the exit code.

    Raises:
      UserError: the topology or the settings cannot be used; the compiler is missing or failed.
    """
    from flan_train import plan_process

    topology = _topology(options)
    plan_process.check_compiler(topology)
    seconds = options.search_seconds
    if options.search and (options.search_limit < 1 or not 0 < seconds < math.inf):
        raise UserError(
            "a search needs something to try and time for it",
            where=f"--search_limit={options.search_limit}, "
            f"--search_seconds={options.search_seconds:g}",
            expected="at least 1 program, a number of seconds above 0",
        )
    if options.search and options.hlo:
        raise UserError(
            "a search compiles many programs and writes the text of none",
            where=f"--search, --hlo={options.hlo}",
            expected="one of the two",
            fix="plan the layout that the search found best, with --hlo",
        )
    for flag, path in (("--json", options.json), ("--hlo", options.hlo)):
        _check_file(flag, path)
    resolved = cli_gin.resolved(options, bindings)

    from flan_train import launch, plan, plan_search, plan_step, plan_text, verbs

    arguments = resolved.arguments(verbs.TRAIN)
    scalars = ("model_dir", "train_steps", "batch_size", "num_microbatches", "seed", "log_period")
    launch.check_scalars(
        initial_checkpoint_path=arguments["initial_checkpoint_path"],
        **{name: arguments[name] for name in scalars},
    )
    _check_slices(arguments["sharding"].num_slices, options.slices)
    if not options.search:
        for path in _places(None, arguments["model_dir"]):
            _check_file("the plan of the run", str(path))
    settings = plan_step.Settings.of(arguments)
    recipe = pathlib.Path(options.gin_file[-1]).stem
    console = verbs.new_console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if options.dry_run:
        say(f"would compile {plan_search.label(settings)} for {topology.describe()}")
        if options.search:
            ordered, refused = plan_search.candidates(settings, topology)
            for one in ordered[: options.search_limit]:
                say(f"  {one.label}")
            say(f"{len(ordered)} candidates, {len(refused)} that cannot be")
        return 0
    if options.search:
        outcome = plan_search.search(
            settings,
            topology,
            recipe=recipe,
            most=options.search_limit,
            seconds=options.search_seconds,
            say=say,
        )
        if options.json:
            plan.write(outcome, options.json)
        say("")
        for line in plan_search.lines(outcome):
            say(line)
        if outcome["ranked"]:
            say("\nthe best of them:")
            for line in plan_text.lines(outcome["ranked"][0]):
                say(line)
        return 0
    made = plan.make_plan(settings, topology, recipe=recipe, hlo_path=options.hlo)
    for line in plan_text.lines(made):
        say(line)
    for path in _places(options.json, arguments["model_dir"]):
        there = path.exists()
        plan.write(made, path)
        say(f"{'replaced' if there else 'written to'} {path}")
    return 0


def _places(json_path: str | None, model_dir: str) -> list[pathlib.Path]:
    """Where the plan goes: the file that was named, and a run directory that is there."""
    from flan_train import plan

    found = [pathlib.Path(json_path)] if json_path else []
    if pathlib.Path(model_dir).is_dir():
        found.append(pathlib.Path(model_dir) / plan.FILE)
    return found


def _check_file(flag: str, path: str | None) -> None:
    """Raises UserError where a file could not be written: before the compiling, not after it."""
    if path is None:
        return
    place = pathlib.Path(path).absolute()
    if not place.parent.is_dir():
        wrong = f"there is no folder {place.parent}"
    elif place.is_dir():
        wrong = "it is a folder"
    elif not os.access(place if place.exists() else place.parent, os.W_OK):
        wrong = "it is not allowed"
    else:
        return
    raise UserError(
        f"{flag} cannot be written: {wrong}",
        where=str(place),
        expected="a file in a folder that is there",
        fix="name another file, or make the folder",
    )


def _check_slices(configured: int, asked: int) -> None:
    """Raises UserError where the configuration names several slices, and the topology others."""
    if configured not in (1, asked):
        raise UserError(
            f"the configuration is for {configured} slices, the plan for {asked}",
            where="NUM_SLICES and --slices",
            expected="the same number",
            fix=f"--slices={configured}, with the topology of one slice",
        )


def _topology(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from flan_train import plan_chips

    if not options.topology:
        raise UserError(
            "flan-train plan was not told what to compile for",
            where="the command line",
            expected="--topology=NAME: " + plan_chips.FORMS,
            fix="start with --topology=cpu:8, which needs no TPU compiler",
        )
    return plan_chips.parse(options.topology, options.slices)
