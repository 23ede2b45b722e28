"""Which members of a mixture have their data, and what is missing."""

from __future__ import annotations

import dataclasses

from flan_train import tasks
from flan_train.errors import UserError
from flan_train.mixtures import definitions
from flan_train.tasks import sources


@dataclasses.dataclass(frozen=True)
class Availability:
    """The tasks of a mixture whose data are there, and one line for each that lacks them."""

    present: tuple[str, ...]
    missing: dict[str, str]


def check_sources(
    name: str, data_dir: str | None = None, allow_missing: bool = False
) -> Availability:
    """Returns which tasks of a mixture or task can be read.

    Args:
      name: a mixture or a task.
      data_dir: the data folder, else FLAN_DATA_DIR.
      allow_missing: go on without the tasks whose files are missing.

    Raises:
      UserError: no such name; files are missing and `allow_missing` is off (all are listed); the
        mixture is empty, or would be without what is missing.
    """
    present: list[str] = []
    missing: dict[str, str] = {}
    for task in definitions.tasks_of(name):
        problem = tasks.get(task).available(data_dir)
        if problem is None:
            present.append(task)
        else:
            missing[task] = problem
    if missing and (not allow_missing or not present):
        # No folder at all explains everything: say that alone.
        sources.resolve_data_dir(data_dir)
        raise _missing_error(name, present, missing, allow_missing)
    if not present:
        raise UserError(
            f"the mixture '{name}' is empty",
            expected="at least one member",
            fix="add members to it, or choose another mixture",
        )
    return Availability(tuple(present), missing)


def _missing_error(
    name: str, present: list[str], missing: dict[str, str], allow_missing: bool
) -> UserError:
    affected: dict[str, list[str]] = {}
    for task, problem in missing.items():
        affected.setdefault(problem, []).append(task)
    listed = "".join(
        f"\n    {problem} (needed by {', '.join(needing)})" for problem, needing in affected.items()
    )
    if allow_missing:
        return UserError(
            f"the mixture '{name}' is empty: the sources of all its tasks are missing",
            where=listed,
            expected="at least one member with its data",
            fix="put the files there, or point FLAN_DATA_DIR at the folder that has them",
        )
    return UserError(
        f"{len(affected)} sources of the mixture '{name}' are missing"
        if len(affected) > 1
        else f"a source of the mixture '{name}' is missing",
        where=listed,
        expected=f"the data of all {len(present) + len(missing)} tasks",
        fix="put the files there; or go on without them: ALLOW_MISSING = True in gin, "
        "--allow_missing for inspect",
    )
