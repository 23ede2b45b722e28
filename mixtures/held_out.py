"""Suites: the mixtures that evaluation reads, on splits that training never sees."""

from __future__ import annotations

from collections.abc import Iterator

from flan_train.mixtures import cot, quickstart
from flan_train.mixtures.definitions import Member, MixtureDefinition


def definitions() -> Iterator[MixtureDefinition]:
    """Yields `quickstart_unseen`, `quickstart_held_out` and `cot_validation`."""
    yield MixtureDefinition(
        "quickstart_unseen",
        tuple(Member(name) for name in quickstart.task_names(held_out=False)),
        description="suite: the families of quickstart, asking what training never asks",
    )
    yield MixtureDefinition(
        "quickstart_held_out",
        tuple(Member(name) for name in quickstart.task_names(held_out=True)),
        description="suite: families that quickstart never trains on",
    )
    yield MixtureDefinition(
        "cot_validation",
        tuple(Member(name) for name in cot.task_names("zs")),
        cap=cot.CAP,
        description="suite: zero-shot questions of the nine chain-of-thought datasets",
    )
