"""Muffin: the 80 datasets of Flan 2021, dialogues and program synthesis (facts/muffin_tasks.csv).

What they are: tables/muffin.csv. Where their rows come from: `table_sources`. How they are phrased:
prompts/muffin/<family>.json. What they are measured by: tables/metrics.csv.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from flan_train.errors import UserError
from flan_train.tasks import catalogue, forms, metric_table, table_sources
from flan_train.tasks.catalogue import BaseTask
from flan_train.tasks.definitions import TaskDefinition

TABLE = catalogue.TABLES / "muffin.csv"
COLUMNS = (
    *("name", "family", "dataset", "category", "languages", "options", "inverted"),
    *("train_examples", "licence", "obtainable", "note"),
)
# What a table says of a task's options -> its forms. A dialogue has no options, but the speakers
# that could say the next turn stand in every prompt, so there is no form without (facts section 2).
_FORMS = {
    "fixed": ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt"),
    "per_example": ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt"),
    "": ("zs_noopt", "fs_noopt"),
    "dialog": ("zs_opt", "fs_opt"),
}


@functools.cache
def families() -> dict[str, str]:
    """Returns {base task: wording family}, in the order of the table.

    Raises:
      UserError: the table is broken.
    """
    return {row["name"]: row["family"] for row in catalogue.read_table(TABLE, COLUMNS)}


def base_tasks() -> Iterator[BaseTask]:
    """Yields the 80 base tasks in the order of the table.

    Raises:
      UserError: the table is broken.
    """
    for row in catalogue.read_table(TABLE, COLUMNS):
        where = f"{TABLE}: {row['name']}"
        if row["options"] not in _FORMS or row["obtainable"] not in catalogue.OBTAINABLE:
            raise UserError(
                f"options {row['options']!r}, obtainable {row['obtainable']!r}",
                where=where,
                expected=f"options one of {', '.join(map(repr, _FORMS))}; obtainable one of "
                + ", ".join(catalogue.OBTAINABLE),
            )
        yield BaseTask(
            name=row["name"],
            collection="muffin",
            dataset=row["dataset"],
            category=row["category"],
            languages=tuple(row["languages"].split(";")),
            forms=_FORMS[row["options"]] + ("inv",) * (row["inverted"] == "yes"),
            train_examples=catalogue.whole_number(row["train_examples"], where),
            licence=row["licence"],
            obtainable=row["obtainable"],
            note=row["note"],
        )


def definitions() -> Iterator[TaskDefinition]:
    """Yields the tasks `muffin_<task>_<form>`; reads no data and no wordings."""
    for base in catalogue.base_tasks("muffin"):
        source = table_sources.TableSource(base.name)
        renderer = forms.FamilyRenderer(families()[base.name])
        for form in base.forms:
            measure = metric_table.measure_of(base.name, "muffin", form)
            yield TaskDefinition(
                name=f"{base.name}_{form}",
                family=base.name.removeprefix("muffin_"),
                form=form,
                source=source,
                renderer=renderer,
                wordings=functools.partial(renderer.wordings, form),
                extraction=measure.extraction or "text",
                default_vocabulary="t5",
                max_shots=forms.MOST_SHOTS if form in forms.FEW_SHOT else 0,
                base=base.name,
                collection="muffin",
                template_ids=functools.partial(renderer.template_ids, form),
                metrics=measure.metrics,
            )
