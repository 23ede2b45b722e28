"""The SeqIO face of the mixtures: each definition as a `seqio.Mixture` with the same rates.

They are flat: every task of a mixture is a direct member, with the share that `rates` gives it.
SeqIO can nest mixtures too, but asks each for the rates of all its tasks again for every task: of
thousands of tasks that takes minutes.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import seqio
import tensorflow as tf

from flan_train.mixtures import availability, counts, definitions, rates
from flan_train.mixtures.definitions import MixtureDefinition
from flan_train.tasks import register as task_register


@functools.lru_cache(maxsize=64)
def _shares(name: str, data_dir: str | None) -> dict[str, float]:
    found = counts.count(definitions.tasks_of(name), data_dir)
    return rates.shares(definitions.get(name), found.examples)


class Share:
    """The SeqIO rate of a task in a mixture: its share of it, worked out when first asked for.

    From the examples that are counted where the data are there, and as published where not; by
    the train split, or the first one of a task that has none. Once for each FLAN_DATA_DIR.
    """

    def __init__(self, mixture: str) -> None:
        self._mixture = mixture

    def __call__(self, task: seqio.Task) -> float:
        """Returns the share, 0 to 1; 0 when nothing tells how many examples the task has."""
        data_dir = os.environ.get("FLAN_DATA_DIR")
        return _shares(self._mixture, data_dir).get(task.name, 0.0)


class WholeMixture(seqio.Mixture):
    """A mixture of which `num_epochs` epochs are so many of each task.

    SeqIO's own mixtures end as soon as one of their tasks does: a small task, or one that a shard
    has no row of, cuts off all others.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        sample = functools.partial(
            tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=False
        )
        super().__init__(*arguments, **{"sample_fn": sample, **named})


class CheckedMixture(WholeMixture):
    """A mixture that says what is missing before it reads anything."""

    def get_dataset(self, *arguments: Any, **named: Any) -> tf.data.Dataset:
        """Returns what `seqio.Mixture.get_dataset` does.

        Raises:
          UserError: sources of the mixture are missing; see `without_missing`.
        """
        availability.check_sources(self.name)
        return super().get_dataset(*arguments, **named)


def without_missing(name: str) -> seqio.Mixture:
    """Returns a mixture of the tasks whose data are there, which is not registered.

    What the others would have had goes to the tasks of their own collection. For a program that
    asks by name, such as T5X: `seqio.MixtureRegistry.add_provider("my_name", mixture)`.

    Args:
      name: a mixture of ours; the data folder is the one that FLAN_DATA_DIR names.

    Raises:
      UserError: no such mixture, or nothing of it is there.
    """
    present = availability.check_sources(name, allow_missing=True).present
    shares = rates.shares(definitions.get(name), counts.count(present).examples)
    return WholeMixture(name, list(shares.items()))


_OURS: set[str] = set()


def register(definition: MixtureDefinition) -> None:
    """Registers a definition unless SeqIO has a mixture of that name or it is empty."""
    name = definition.name
    if name in seqio.MixtureRegistry.names() or not definition.members:
        return
    share = Share(name)
    seqio.MixtureRegistry.add(
        name,
        [(task, share) for task in definitions.tasks_of(name)],
        mixture_cls=CheckedMixture,
    )
    _OURS.add(name)


def unregister(name: str) -> None:
    """Takes a mixture that `register` registered out of SeqIO's registry again."""
    if name in _OURS:
        _OURS.discard(name)
        seqio.MixtureRegistry.remove(name)
        _shares.cache_clear()


def register_all() -> None:
    """Registers every mixture that SeqIO does not know yet; reads no data."""
    task_register.register_all()
    for name in definitions.names():
        register(definitions.get(name))


register_all()
