"""The SeqIO face of the mixtures: each definition as a `seqio.Mixture` with the same rates."""

from __future__ import annotations

from collections.abc import Callable

import seqio

from flan_train.mixtures import definitions, rates
from flan_train.mixtures.definitions import MixtureDefinition
from flan_train.tasks import register as task_register


def capped_count(cap: int | None) -> Callable[[seqio.Task], float]:
    """Returns the SeqIO rate of a task: its number of examples, at most the cap.

    Counted on the train split; on its first split for a task that has none.
    """

    def rate(task: seqio.Task) -> float:
        split = "train" if "train" in task.splits else task.splits[0]
        return float(rates.capped(task.num_input_examples(split), cap))

    return rate


_OURS: set[str] = set()


def register(definition: MixtureDefinition) -> None:
    """Registers a definition unless SeqIO has a mixture of that name or it is empty."""
    if definition.name in seqio.MixtureRegistry.names() or not definition.members:
        return
    by_count = capped_count(definition.cap)
    seqio.MixtureRegistry.add(
        definition.name,
        [
            (member.name, by_count if member.weight is None else member.weight)
            for member in definition.members
        ],
    )
    _OURS.add(definition.name)


def unregister(name: str) -> None:
    """Takes a mixture that `register` registered out of SeqIO's registry again."""
    if name in _OURS:
        _OURS.discard(name)
        seqio.MixtureRegistry.remove(name)


def register_all() -> None:
    """Registers every mixture that SeqIO does not know yet; reads no data."""
    task_register.register_all()
    for name in definitions.names():
        register(definitions.get(name))
