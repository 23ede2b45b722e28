"""The chain-of-thought mixture: nine datasets, three forms."""

from __future__ import annotations

from collections.abc import Iterator

from flan_train.mixtures.definitions import Member, MixtureDefinition
from flan_train.tasks import cot

# arXiv 2210.11416, table 23.
CAP = 100_000
# Input inversion is a family beside the others with this rate against their 1, so 23 % of the
# mixture (facts section 2).
INVERSION_RATE = 0.3


def task_names(*forms: str) -> tuple[str, ...]:
    """Returns the names of the chain-of-thought tasks in the given forms."""
    return tuple(task.name for task in cot.definitions() if task.form in forms)


def definitions() -> Iterator[MixtureDefinition]:
    """Yields `cot` and the two mixtures it is made of."""
    yield MixtureDefinition(
        "cot_answer",
        tuple(Member(name) for name in task_names("zs", "fs")),
        cap=CAP,
        description="rationale and answer from the question, zero-shot and few-shot",
    )
    yield MixtureDefinition(
        "cot_inversion",
        tuple(Member(name) for name in task_names("inv")),
        cap=CAP,
        description="the question, the rationale or both from the rest",
    )
    yield MixtureDefinition(
        "cot",
        (Member("cot_answer", 1.0), Member("cot_inversion", INVERSION_RATE)),
        description="chain-of-thought of Flan 2022: nine datasets, zero-shot, few-shot, inverted",
    )
