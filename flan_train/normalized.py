"""The paper's normalised average of six held-out evaluations, and the scores that it published.

Each score is corrected for guessing, (score - chance) / (1 - chance), file by file where a
benchmark has a chance per file (BBH); a benchmark is the mean over its files, and the average is
the mean of the six. Below chance a score counts as negative (facts section 6).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from flan_train.errors import UserError
from flan_train.tasks import catalogue, held_out_table

# (benchmark, prompting) of the six, and the suites that measure them.
SIX = (
    ("MMLU", "direct"),
    ("MMLU", "cot"),
    ("BBH", "direct"),
    ("BBH", "cot"),
    ("TyDiQA", "direct"),
    ("MGSM", "cot"),
)
SIX_SUITES = tuple(f"heldout_{benchmark.lower()}_{prompting}" for benchmark, prompting in SIX)
# A file's name where a table gives but the mean over the files of a benchmark.
AVERAGE = "average"

REFERENCE_TABLE = catalogue.TABLES / "held_out_reference.csv"
REFERENCE_COLUMNS = (
    *("table", "model", "params", "benchmark", "prompting", "subset", "split", "score"),
)
# Endings of the names that results of other splits than validation are filed under; of several
# whole sets the first counts.
_ENDINGS = ("_all", "_test", "", "_published_test")


@dataclasses.dataclass(frozen=True)
class ReferenceRow:
    """A published score (facts/heldout_reference_scores.csv).

    Attributes:
      model: with what it was finetuned on where that is an ablation: "Flan-PaLM-8B (CoT)".
      benchmark: such as "MMLU"; "normalized_average" for the mean of the six.
      prompting: "direct", "cot", "cot+self-consistency", ...; empty for the average.
      subset: a file of the benchmark, "average" over all, or another part.
      score: a share of 1.
      table: of arXiv 2210.11416 v5.
      split: of the benchmark, where the paper uses several.
      params: "80M" to "540B".
    """

    model: str
    benchmark: str
    prompting: str
    subset: str
    score: float
    table: str
    split: str
    params: str


@functools.cache
def reference_rows(path: pathlib.Path = REFERENCE_TABLE) -> list[ReferenceRow]:
    """Returns the published scores in the order of the table.

    Raises:
      UserError: the table is missing or broken.
    """
    found = []
    for row in catalogue.read_table(path, REFERENCE_COLUMNS):
        try:
            score = float(row["score"])
        except ValueError:
            score = float("nan")
        if not -1 <= score <= 1:
            raise UserError(
                f"a score of {row['score']!r}",
                where=f"{path}: {row['model']}, {row['benchmark']}, {row['subset']}",
                expected="a share from -1 to 1",
            )
        found.append(ReferenceRow(**{**row, "score": score}))  # type: ignore[arg-type]
    return found


def chances() -> dict[str, dict[str, float]]:
    """Returns {benchmark: {file: share that guessing gets}} of the held-out benchmarks.

    Raises:
      UserError: the table of files is broken.
    """
    found: dict[str, dict[str, float]] = {}
    for file in held_out_table.files():
        found.setdefault(held_out_table.BENCHMARKS[file.suite], {})[file.name] = file.chance
    return found


def above_chance(score: float, chance: float) -> float:
    """Returns how far a share lies above chance, of all that there is above it.

    >>> above_chance(0.25, 0.25), above_chance(1.0, 0.25), above_chance(0.1, 0.25)
    (0.0, 1.0, -0.19999999999999998)
    """
    return (score - chance) / (1 - chance)


def normalized_average(
    scores: Mapping[tuple[str, str], Mapping[str, float]],
    chance_of: Mapping[str, Mapping[str, float]] | None = None,
) -> float:
    """Returns the normalised average as a share of 1.

    Args:
      scores: for each pair of `SIX` the share of right answers by file. One entry "average" does
        for a benchmark with the same chance everywhere (MMLU, TyDiQA, MGSM).
      chance_of: as `chances`; None for those.

    Raises:
      UserError: one of the six is missing, or a file has no chance.
    """
    known = chances() if chance_of is None else chance_of
    if missing := [f"{name} {how}".strip() for name, how in SIX if not scores.get((name, how))]:
        raise UserError(
            f"no score for {', '.join(missing)}",
            expected="all of " + ", ".join(f"{name} {how}" for name, how in SIX),
            fix="evaluate the suites " + ", ".join(SIX_SUITES),
        )
    means = []
    for benchmark, prompting in SIX:
        files = scores[benchmark, prompting]
        corrected = [
            above_chance(score, _chance(known, benchmark, file)) for file, score in files.items()
        ]
        means.append(sum(corrected) / len(corrected))
    return sum(means) / len(means)


def _chance(known: Mapping[str, Mapping[str, float]], benchmark: str, file: str) -> float:
    files = known.get(benchmark, {})
    if file in files:
        return files[file]
    if file == AVERAGE and len(set(files.values())) == 1:
        return next(iter(files.values()))
    raise UserError(
        f"no chance is known of {benchmark}, {file}",
        expected=f"files of {benchmark} with a chance each, or '{AVERAGE}' where all have the same",
    )


def of_results(results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Returns the normalised average of a checkpoint as a share of 1; None where it has none.

    All six suites must be among the results, on the same split. Each counts with the mean over its
    tasks of `normalized`, which corrects every task for its own chance.

    Args:
      results: by the name that they are filed under ("heldout_mmlu_cot", "heldout_mmlu_cot_all").
    """
    for ending in _ENDINGS:
        found = [results.get(suite + ending) for suite in SIX_SUITES]
        means = [result["mean"].get("normalized") for result in found if result is not None]
        if len(means) == len(SIX_SUITES) and None not in means:
            return sum(means) / len(means)
    return None
