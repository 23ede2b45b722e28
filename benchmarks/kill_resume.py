"""Kills a training process at random moments until it is through, and compares what comes of it.

  python benchmarks/kill_resume.py --kills 50 --json results.json

A tiny model trains on an embedded task with the real command: data are prepared, every fourth
update is saved, every eighth evaluated. The process gets SIGKILL, with every process that it has
started, in any moment or in the middle of a phase (preparing, an update, a save, an evaluation),
and the same command is given again; one run takes several kills, and then goes on to its end. At
least one kill falls in each of these phases, if need be beyond the number asked for. A run is
compared, bit by bit, with a run that nothing disturbed: every array, the position in the data and
the description of every checkpoint kept, every line of the log and every evaluation result (but for
times), every example's output, selected.json, every file of the prepared data. The undisturbed run
compiles; the others take the programs that it kept, a second undisturbed one among them.

Ends with exit code 1 where a bit differs or something unfinished is left. There is no peer: "peer"
and "ratio" are null. 50 kills take about 10 minutes where the cores are free.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from tests import killed_run

KILLS_OF_A_RUN = 8


def main() -> None:
    """Reads the command line, kills, prints the summary and writes the JSON."""
    parser = argparse.ArgumentParser(description="Runs that are killed come to the same.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=2022, help="of the moments")
    parser.add_argument("--json", metavar="PATH", help="write the figures as a list")
    options = parser.parse_args()
    draw, tally = random.Random(options.seed), killed_run.Tally()
    bits: dict[str, int] = {}
    left: list[str] = []
    survived = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        whole = killed_run.Job(folder / "undisturbed", folder / "programs")
        compiled = killed_run.undisturbed(whole)
        expected = killed_run.content(whole.run, whole.store)
        again = killed_run.Job(folder / "again", folder / "programs")
        typical = killed_run.undisturbed(again)
        bits |= killed_run.differing_bits(expected, killed_run.content(again.run, again.store))
        print(
            f"undisturbed: {compiled.whole:.1f} s, with the programs that it kept "
            f"{typical.whole:.1f} s, of which training {typical.loop:.1f} s; {sum(bits.values())} "
            "bits differ"
        )
        while tally.kills < options.kills or tally.missing():
            job = killed_run.Job(folder / f"killed-{tally.runs + 1}", folder / "programs")
            left_over = max(options.kills - tally.kills, len(tally.missing()))
            kills, before = min(KILLS_OF_A_RUN, left_over), tally.kills
            killed_run.kill_at_random(job, draw, typical, kills, tally)
            found = killed_run.differing_bits(expected, killed_run.content(job.run, job.store))
            survived += 0 if found else tally.kills - before
            bits |= {f"run {tally.runs}, {name}": count for name, count in found.items()}
            left += killed_run.leftovers(job.run, job.store)
            print(
                f"run {tally.runs}: {tally.kills - before} kills, {sum(found.values())} bits "
                f"differ; {tally.kills} of {options.kills} kills, "
                f"{time.monotonic() - begun:.0f} s",
                flush=True,
            )
    report(tally, survived, bits, left, len(expected), time.monotonic() - begun, options.json)
    if bits or left:
        raise SystemExit(1)


def report(
    tally: killed_run.Tally,
    survived: int,
    bits: dict[str, int],
    left: list[str],
    compared: int,
    seconds: float,
    json_path: str | None,
) -> None:
    """Prints the summary, and writes it where that is asked for."""
    for name, count in bits.items():
        print(f"differs: {name}: {count} bits")
    for path in left:
        print(f"left: {path}")
    rows: list[tuple[str, float, str]] = [
        ("kills", tally.kills, "kills"),
        ("kills survived: the run came to the same", survived, "kills"),
        *((f"kills in: {name}", tally.phases[name], "kills") for name in killed_run.PHASES),
        ("runs that they fell on", tally.runs, "runs"),
        ("processes started", tally.launches, "processes"),
        ("killed processes that left a newer checkpoint", tally.further, "processes"),
        ("arrays, lines, results and files compared per run", compared, "items"),
        ("differing bits", sum(bits.values()), "bits"),
        ("unfinished files left", len(left), "files"),
        ("whole test", seconds, "s"),
    ]
    print(f"on {os.cpu_count()} cores")
    for name, value, unit in rows:
        print(f"{name:<52} {value:>9,.0f} {unit}")
    print("(a save goes on beside updates and evaluations: such a kill counts in both)")
    print(f"kills survived: {survived}/{tally.kills}; differing bits: {sum(bits.values())}")
    if json_path:
        written: list[dict[str, Any]] = [
            {
                "name": f"kill and resume: {name}",
                "ours": value,
                "peer": None,
                "peer_name": None,
                "ratio": None,
                "unit": unit,
            }
            for name, value, unit in rows
        ]
        pathlib.Path(json_path).write_text(json.dumps(written, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
