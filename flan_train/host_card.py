"""What a process says of itself when a run in several begins, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from flan_train.errors import UserError

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Card:
    """What a process says of itself.

    Attributes:
      index: its number.
      count: how many processes it was told of.
      host: name of its machine.
      pid: its number there.
      versions: what must be the same in all processes, by name.
      settings: the resolved configuration, a line for each setting.
    """

    index: int
    count: int
    host: str
    pid: int
    versions: Mapping[str, str]
    settings: str

    @property
    def name(self) -> str:
        """What a message calls the process."""
        return f"process {self.index} ({self.host})"


def read(line: bytes) -> Card | None:
    """Returns the card that a line of JSON holds; None for anything else."""
    try:
        told = json.loads(line)
        versions = {str(name): str(value) for name, value in told["versions"].items()}
        index, count, pid = (int(told[name]) for name in ("index", "count", "pid"))
        return Card(index, count, str(told["host"]), pid, versions, str(told["settings"]))
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def compare(mine: Card, others: Sequence[Card]) -> None:
    """Raises UserError, naming those that differ, unless all have one's versions and settings."""
    for what in mine.versions:
        wrong = [card for card in others if card.versions.get(what) != mine.versions[what]]
        if wrong:
            raise UserError(
                f"not all processes have the same version of {what}",
                where="; ".join(
                    f"{card.name} has {card.versions.get(what)}" for card in wrong[:_SHOWN]
                )
                + _more(wrong),
                expected=f"{mine.versions[what]}, as {mine.name} has",
                fix="install the same version on every machine",
            )
    differing = [card for card in others if card.settings != mine.settings]
    if differing:
        raise UserError(
            f"not all processes have the settings of {mine.name}",
            where="; ".join(
                f"{card.name} has {_difference(card.settings, mine.settings)}"
                for card in differing[:_SHOWN]
            )
            + _more(differing),
            expected=_difference(mine.settings, differing[0].settings),
            fix="give every process the same command line and the same gin files",
        )


def missing(
    absent: Sequence[int],
    card: Card,
    timeout: float,
    came: Mapping[int, str],
    unheard: Sequence[str],
) -> UserError:
    """Returns the error for processes that have not come."""
    there = ", ".join(f"{index} ({host})" for index, host in sorted(came.items()))
    names = f"; not heard of: {', '.join(unheard)}" if unheard else ""
    plural = len(absent) > 1
    return UserError(
        f"process{'es' * plural} {listed(absent)} of {card.count} "
        f"{'have' if plural else 'has'} not come within {timeout:g} s",
        where=f"the start of {card.count} processes"
        + (f"; there are: {there}" if there else "")
        + names,
        expected="all of them to be started, with the same --coordinator",
        fix="look at the output of those that are missing; --start_timeout=SECONDS waits longer",
    )


def listed(numbers: Sequence[int]) -> str:
    """Returns numbers in words: 1, 3-7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)


def _difference(settings: str, others: str) -> str:
    """Returns the lines that only the first has."""
    known = set(others.splitlines())
    lines = [line for line in settings.splitlines() if line not in known]
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(line.strip() for line in lines[:_SHOWN]) + more or "fewer settings"


def unheard(expected: Sequence[str], heard: Sequence[str]) -> list[str]:
    """Returns the machines that a launcher named and nobody has called from."""
    # A launcher may name a machine in full, and the machine itself briefly.
    short = {host.partition(".")[0] for host in heard}
    return [host for host in expected if host.partition(".")[0] not in short]


def _more(cards: Sequence[Card]) -> str:
    return f"; and {len(cards) - _SHOWN} more" if len(cards) > _SHOWN else ""
