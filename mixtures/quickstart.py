"""The quickstart mixture: procedural families that are trained on."""

from __future__ import annotations

from collections.abc import Iterator

from flan_train.mixtures.definitions import Member, MixtureDefinition
from flan_train.tasks import quickstart


def task_names(*, held_out: bool) -> tuple[str, ...]:
    """Returns the names of the quickstart tasks that are, or are not, held out."""
    return tuple(task.name for task in quickstart.definitions() if task.held_out == held_out)


def definitions() -> Iterator[MixtureDefinition]:
    """Yields `quickstart`."""
    yield MixtureDefinition(
        "quickstart",
        tuple(Member(name) for name in task_names(held_out=False)),
        description="procedural families, asked directly and with their steps",
    )
