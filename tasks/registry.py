"""Every task by name; built at the first look-up, so that importing costs nothing."""

from __future__ import annotations

import sys

from flan_train.errors import unknown_name
from flan_train.tasks.definitions import TaskDefinition

_TASKS: dict[str, TaskDefinition] = {}
_BUILT = False


def _build() -> dict[str, TaskDefinition]:
    global _BUILT
    if not _BUILT:
        from flan_train.tasks import catalogue, held_out, quickstart, responsible

        for collection in catalogue.COLLECTIONS:
            for definition in catalogue.module_of(collection).definitions():
                _insert(definition)
        for module in (quickstart, held_out, responsible):
            for definition in module.definitions():
                _insert(definition)
        _BUILT = True
    return _TASKS


def _insert(definition: TaskDefinition) -> None:
    if definition.name in _TASKS:
        raise ValueError(f"two tasks are called {definition.name}")
    _TASKS[definition.name] = definition


def add(definition: TaskDefinition) -> None:
    """Adds a task of one's own to the registry of this process, and to SeqIO's once that is there.

    Raises:
      ValueError: the name is taken, or SeqIO is there and does not take such a name.
    """
    _build()
    _insert(definition)
    if "seqio" in sys.modules:
        from flan_train.tasks import register

        try:
            register.register(definition)
        except ValueError:
            del _TASKS[definition.name]
            raise


def remove(name: str) -> None:
    """Takes a task that `add` added out again, of SeqIO's registry too."""
    if _build().pop(name, None) is not None and "seqio" in sys.modules:
        from flan_train.tasks import register

        register.unregister(name)


def get(name: str) -> TaskDefinition:
    """Returns a task by its registered name.

    Raises:
      UserError: no such task; the message gives the nearest names.
    """
    known = _build()
    if name not in known:
        raise unknown_name("task", name, known)
    return known[name]


def find(name: str) -> TaskDefinition | None:
    """Returns a task by its registered name, None where there is no such task."""
    return _build().get(name)


def names() -> list[str]:
    """Returns the names of all tasks, sorted."""
    return sorted(_build())
