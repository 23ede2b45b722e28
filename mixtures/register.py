"""The SeqIO face of the mixtures: each definition as a `seqio.Mixture` with the same rates."""

from __future__ import annotations

from collections.abc import Callable

import seqio

from flan_train.mixtures import definitions, rates
from flan_train.tasks import register as task_register


def capped_count(cap: int | None) -> Callable[[seqio.Task], float]:
    """Returns the SeqIO rate of a task: its number of examples, at most the cap.

    Counted on the train split; on its first split for a task that has none.
    """

    def rate(task: seqio.Task) -> float:
        split = "train" if "train" in task.splits else task.splits[0]
        return float(rates.capped(task.num_input_examples(split), cap))

    return rate


def register_all() -> None:
    """Registers every mixture that SeqIO does not know yet; reads no data."""
    task_register.register_all()
    for name in definitions.names():
        definition = definitions.get(name)
        if name in seqio.MixtureRegistry.names() or not definition.members:
            continue
        seqio.MixtureRegistry.add(
            name,
            [
                (
                    member.name,
                    capped_count(definition.cap) if member.weight is None else member.weight,
                )
                for member in definition.members
            ],
        )
