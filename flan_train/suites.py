"""Suites by name: what a name stands for, which splits it has, under what name results are filed.

A suite is a task, or a mixture whose members are tasks. A mixture of mixtures stands for several
suites: each is evaluated, filed and shown on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flan_train import mixtures, tasks
from flan_train.errors import UserError

VALIDATION, TEST, ALL, PUBLISHED_TEST = "validation", "test", "all", "published_test"
# "validation" is what a checkpoint is chosen by, "test" what is reported of the chosen one; "all"
# is both together, the set that a benchmark's authors published scores on.
SPLITS = (VALIDATION, TEST, ALL, PUBLISHED_TEST)
# What a checkpoint is chosen by, and what is then measured of the chosen one alone. The paper chose
# on the very sets it reports: nothing is left to measure.
SPLITS_OF: dict[str, tuple[str, str | None]] = {"apart": (VALIDATION, TEST), "paper": (ALL, None)}


def expand(names: str | Iterable[str]) -> tuple[str, ...]:
    """Returns the suites that names stand for, each once, in order.

    A mixture of mixtures gives its members; of anything else, a name that is not known here
    included (a user's module may register it later), the name itself is the suite.
    """
    found: dict[str, None] = {}
    for name in (names,) if isinstance(names, str) else names:
        mixture = mixtures.find(name)
        members = [member.name for member in mixture.members] if mixture else []
        inner = [mixtures.find(member) for member in members]
        if inner and all(one is not None and not one.one_task for one in inner):
            found.update(dict.fromkeys(expand(members)))
        else:
            found[name] = None
    return tuple(found)


def filed_as(suite: str, split: str, self_consistency: int = 0) -> str:
    """Returns the name that the result of a suite goes under.

    Args:
      suite: its name.
      split: what was measured.
      self_consistency: samples a prompt that were voted over; 0 where there was no vote.

    >>> filed_as("heldout_mgsm_cot", "validation"), filed_as("heldout_mgsm_cot", "test", 5)
    ('heldout_mgsm_cot', 'heldout_mgsm_cot_sc5_test')
    """
    voted = f"_sc{self_consistency}" if self_consistency else ""
    return f"{suite}{voted}" + ("" if split == VALIDATION else f"_{split}")


def check_splits(suites: Sequence[str], splits: Sequence[str], where: str) -> None:
    """Raises UserError for a suite with a task that lacks one of the splits.

    Names that are not known here, which a user's module registers, are passed over.

    Args:
      suites: names of tasks and mixtures.
      splits: all of them are needed.
      where: what asked for them.
    """
    for suite in suites:
        if mixtures.find(suite) is None and suite not in tasks.names():
            continue
        for split in splits:
            lacking = [
                task for task in mixtures.tasks_of(suite) if split not in tasks.get(task).splits
            ]
            if lacking:
                named = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
                raise UserError(
                    f"the suite '{suite}' has no split '{split}'",
                    where=f"{where}; {len(lacking)} of its tasks lack it: {named}",
                    expected="one of the splits that all its tasks have: "
                    + (", ".join(_shared_splits(suite)) or "there is none"),
                    fix="choose another split, or leave the suite out",
                )


def _shared_splits(suite: str) -> list[str]:
    members = [tasks.get(task) for task in mixtures.tasks_of(suite)]
    return [split for split in ("train", *SPLITS) if all(split in task.splits for task in members)]
