"""Which metrics each task of the collection is measured by: tables/metrics.csv.

A row is of a base task, or of a collection for those that have none of their own, and of all forms
or of one; that of a task goes before that of its collection, that of a form before both.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

from flan_train.errors import UserError, unknown_name
from flan_train.tasks import answers, catalogue, metrics

TABLE = catalogue.TABLES / "metrics.csv"
COLUMNS = ("task", "form", "metrics", "extraction")


@dataclasses.dataclass(frozen=True)
class Measure:
    """How the outputs of a task are measured.

    Attributes:
      metrics: names in `metrics.METRICS`, the main one first.
      extraction: a key of `answers.STYLES`; empty: as the collection reads answers.
    """

    metrics: tuple[str, ...]
    extraction: str = ""


@functools.cache
def measures(path: pathlib.Path = TABLE) -> dict[tuple[str, str], Measure]:
    """Returns {(base task or collection, form or ""): measure}.

    Raises:
      UserError: the table is broken, or names a metric or an extraction that there is not.
    """
    found: dict[tuple[str, str], Measure] = {}
    for row in catalogue.read_table(path, COLUMNS):
        where = f"{path}: {row['task']} {row['form']}".strip()
        names = tuple(filter(None, row["metrics"].split(";")))
        for name in names:
            if name not in metrics.METRICS:
                raise unknown_name("metric", name, metrics.METRICS, where=where)
        if row["extraction"] and row["extraction"] not in answers.STYLES:
            raise unknown_name("extraction", row["extraction"], answers.STYLES, where=where)
        if not names or (row["task"], row["form"]) in found:
            raise UserError(
                "a second row for the same task and form" if names else "no metric",
                where=where,
                expected="one row for a task and form, with metrics that have ; between them",
            )
        found[row["task"], row["form"]] = Measure(names, row["extraction"])
    return found


def measure_of(base: str, collection: str, form: str) -> Measure:
    """Returns how a form of a base task is measured.

    Raises:
      UserError: the table is broken, or has no row for the task and none for its collection.
    """
    table = measures()
    for key in ((base, form), (collection, form), (base, ""), (collection, "")):
        if key in table:
            return table[key]
    raise UserError(
        f"no metric is given for the task {base}",
        where=str(TABLE),
        expected=f"a row for {base} or for {collection}",
    )
