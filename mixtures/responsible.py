"""Suites of the responsible-AI and open-ended sets; no part of `heldout`."""

from __future__ import annotations

from collections.abc import Iterator

from flan_train.mixtures.definitions import Member, MixtureDefinition
from flan_train.tasks import responsible

RESPONSIBLE = ("civil_comments", "winogender", "realtoxicityprompts", "identity_toxicity")


def suite_of(family: str) -> str:
    """Returns the name of a set's suite."""
    return f"heldout_{family}"


def definitions() -> Iterator[MixtureDefinition]:
    """Yields a suite for each set, `heldout_rai` of four of them, and `heldout_open_ended`."""
    names: dict[str, list[str]] = {}
    for task in responsible.definitions():
        names.setdefault(task.family, []).append(task.name)
    for family, listed in names.items():
        yield MixtureDefinition(
            suite_of(family),
            tuple(map(Member, listed)),
            description=f"suite: {family.replace('_', ' ')}, with data of your own",
        )
    yield MixtureDefinition(
        "heldout_rai",
        tuple(Member(suite_of(family), 1.0) for family in RESPONSIBLE),
        description="suites: responsible AI (toxicity, pronouns, continuations)",
    )
