"""Small tasks for tests of the input path; importing registers `toy_counting` and `toy_echo`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from flan_train import mixtures, tasks
from flan_train.mixtures import Member, MixtureDefinition
from flan_train.tasks import BadRow, Rendered, Row, TaskDefinition


@dataclasses.dataclass(frozen=True)
class ListSource:
    """Rows from a list of (question, answer); a string in it stands for a bad row."""

    items: tuple[Any, ...]
    missing: str | None = None

    def rows(self, split: str, data_dir: str | None) -> Iterator[Row | BadRow]:
        for number, item in enumerate(self.items, start=1):
            if isinstance(item, str):
                yield BadRow(f"toy.tsv:{number}", item, "one column", "two columns")
            else:
                yield {"example_id": f"toy:{number}", "question": item[0], "answer": item[1]}

    def count(self, split: str, data_dir: str | None) -> int:
        return sum(not isinstance(item, str) for item in self.items)

    def available(self, data_dir: str | None) -> str | None:
        return self.missing

    def fingerprint(self, split: str, data_dir: str | None) -> str:
        return hashlib.sha256(repr((self.items, split)).encode()).hexdigest()

    def describe(self, data_dir: str | None) -> str:
        return "a list"


def render(task: TaskDefinition, row: Row, seed: int, shots: int, data_dir: str | None) -> Rendered:
    """An exemplar is ten words long."""
    exemplars = "one two three four five six seven eight nine ten\n" * shots
    return Rendered(
        inputs=f"{task.wordings()}{exemplars}{row['question']}",
        targets=row["answer"],
        task=task.name,
        template_id="toy_0",
        form=task.form,
        example_id=row["example_id"],
        options=("yes", "no"),
        answer=row["answer"],
        shots=shots,
    )


def toy(
    name: str,
    items: Sequence[Any],
    *,
    wording: str = "",
    max_shots: int = 0,
    missing: str | None = None,
) -> TaskDefinition:
    """Returns a task over a list of rows."""
    return TaskDefinition(
        name=name,
        family=name,
        form="zs",
        source=ListSource(tuple(items), missing),
        renderer=render,
        wordings=lambda: wording,
        extraction="text",
        max_shots=max_shots,
    )


def counting(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Returns rows of different lengths, no two alike."""
    return [
        (f"count from {start + i}" + " and on" * (i % 5), f"{i} {i + 1}" + f" {i}" * (i % 7))
        for i in range(count)
    ]


@contextlib.contextmanager
def registered(
    definitions: Sequence[TaskDefinition], *mixtures_of: MixtureDefinition
) -> Iterator[None]:
    """Registers tasks, a mixture `toys` of all of them and any others, while inside."""
    toys = MixtureDefinition("toys", tuple(Member(task.name) for task in definitions))
    added = [toys, *mixtures_of]
    try:
        for task in definitions:
            tasks.add(task)
        for mixture in added:
            mixtures.add(mixture)
        yield
    finally:
        for mixture in added:
            mixtures.remove(mixture.name)
        for task in definitions:
            tasks.remove(task.name)


if "toy_counting" not in tasks.names():
    tasks.add(toy("toy_counting", counting(300)))
    tasks.add(toy("toy_echo", counting(200, start=1000)))
    mixtures.add(MixtureDefinition("toy_pair", (Member("toy_counting"), Member("toy_echo"))))
