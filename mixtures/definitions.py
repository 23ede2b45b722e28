"""What a mixture is, and every mixture by name."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection

from flan_train import tasks
from flan_train.errors import unknown_name


@dataclasses.dataclass(frozen=True)
class Member:
    """A task or mixture inside a mixture.

    Attributes:
      name: of the task or mixture.
      weight: fixed proportion against its siblings; None to go by (capped) example counts,
        which only a task, or a mixture that counts as one, can.
    """

    name: str
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class MixtureDefinition:
    """A named set of tasks and mixtures with their rates.

    Either every member has a weight or none has: a count and a proportion cannot be compared.

    Attributes:
      name: the registered name.
      members: tasks and mixtures.
      cap: most examples a direct member counts for; None for no cap. It limits the sampling
        weight alone: the examples beyond it stay eligible (facts section 4).
      description: one line for tables.
      one_task: the members are forms of one base task: they show the same rows, so in a mixture
        that goes by counts they count as one task of these rows, however many they are. Each has
        a weight, its share of the whole.
    """

    name: str
    members: tuple[Member, ...]
    cap: int | None = None
    description: str = ""
    one_task: bool = False

    def __post_init__(self) -> None:
        weights = [member.weight for member in self.members]
        if any(weight is not None for weight in weights):
            if any(weight is None for weight in weights):
                raise ValueError(f"mixture {self.name}: some members have a weight, some have not")
            if not all(weight is not None and weight > 0 for weight in weights):
                raise ValueError(f"mixture {self.name}: a weight must be above 0")
        if self.one_task and (self.cap is not None or None in weights):
            raise ValueError(f"mixture {self.name}: forms of one task have weights and no cap")
        if self.cap is not None and self.cap <= 0:
            raise ValueError(f"mixture {self.name}: the cap must be above 0")
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError(f"mixture {self.name}: a member is named twice")


_MIXTURES: dict[str, MixtureDefinition] = {}
_BUILT = False


def _build() -> dict[str, MixtureDefinition]:
    global _BUILT
    if not _BUILT:
        from flan_train.mixtures import (
            ablations,
            cot,
            flan2022,
            held_out,
            quickstart,
            responsible,
        )

        known_tasks = frozenset(tasks.names())
        for definition in (
            *cot.definitions(),
            *flan2022.definitions(),
            *ablations.definitions(),
            *quickstart.definitions(),
            *held_out.definitions(),
            *responsible.definitions(),
        ):
            _insert(definition, known_tasks)
        _BUILT = True
    return _MIXTURES


def _insert(definition: MixtureDefinition, known_tasks: Collection[str]) -> None:
    if definition.name in _MIXTURES or definition.name in known_tasks:
        raise ValueError(f"two mixtures or tasks are called {definition.name}")
    for member in definition.members:
        # Members come first: a mixture can then never hold itself.
        nested = _MIXTURES.get(member.name)
        if nested is None:
            tasks.get(member.name)
        elif definition.one_task:
            raise ValueError(f"mixture {definition.name}: {member.name} is no form but a mixture")
        elif member.weight is None and not nested.one_task:
            raise ValueError(
                f"mixture {definition.name}: {member.name} is a mixture, so it needs a weight"
                " (between mixtures the proportions are fixed)"
            )
    _MIXTURES[definition.name] = definition


def add(definition: MixtureDefinition) -> None:
    """Adds a mixture of one's own; its members come first.

    It goes to the registry of this process, and to SeqIO's once that is there.

    Raises:
      ValueError: the name is taken, or a member that is a mixture has no weight.
      UserError: a member is no task and no mixture.
    """
    _build()
    _insert(definition, tasks.names())
    if "seqio" in sys.modules:
        from flan_train.mixtures import register

        try:
            register.register(definition)
        except ValueError:
            del _MIXTURES[definition.name]
            raise


def remove(name: str) -> None:
    """Takes a mixture that `add` added out again, of SeqIO's registry too."""
    if _build().pop(name, None) is not None and "seqio" in sys.modules:
        from flan_train.mixtures import register

        register.unregister(name)


def find(name: str) -> MixtureDefinition | None:
    """Returns a mixture by name, or None."""
    return _build().get(name)


def get(name: str) -> MixtureDefinition:
    """Returns a mixture by name; a task's name gives the mixture of that task alone.

    Raises:
      UserError: neither a mixture nor a task; the message gives the nearest names.
    """
    known = _build()
    if name in known:
        return known[name]
    if name in tasks.names():
        return MixtureDefinition(name, (Member(name),), description="a single task")
    raise unknown_name("mixture", name, [*known, *tasks.names()])


def names() -> list[str]:
    """Returns the names of all mixtures, in the order they are defined (members first)."""
    return list(_build())


def tasks_of(name: str) -> list[str]:
    """Returns the names of all tasks of a mixture, sorted; a task gives itself.

    Raises:
      UserError: neither a mixture nor a task.
    """
    known = _build()
    if name not in known:
        return [member.name for member in get(name).members]
    found: set[str] = set()
    for member in known[name].members:
        found.update(tasks_of(member.name) if member.name in known else [member.name])
    return sorted(found)
