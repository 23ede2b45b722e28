"""Which checkpoints of a run are kept, and why; how one is removed or set aside. Needs no JAX."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import shutil
from collections.abc import Collection, Iterable

import gin

from flan_train import checkpoint_mirror, errors, storage
from flan_train.checkpoint_names import UNFINISHED

log = logging.getLogger(__name__)

NEWEST, EVERY, BEST, SELECTED = "newest", "every", "best", "selected"
DAMAGED = "damaged"  # the ending of a folder that was set aside; nothing removes it
TORN = "torn"
_REMOVING = ".removing"


@gin.register(module="flan_train.checkpoints")
@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept.

    A checkpoint is kept while any of these holds; the one that selected.json names always is.

    Attributes:
      period: steps between checkpoints; evaluations and the end of training save as well.
      keep: newest checkpoints to keep; None keeps all.
      keep_every: checkpoints of steps that this divides are kept for good; None: no such rule.
      keep_best: best checkpoints to keep, by what the run is selected by.
      copied_to: gs:// or s3:// address under which those that are kept are copied as they are
        written, `<copied_to>/checkpoints/<step>`; None: nowhere.

    Raises:
      UserError: a field has a value that it cannot have.
    """

    period: int = 1000
    keep: int | None = 3
    keep_every: int | None = None
    keep_best: int = 1
    copied_to: str | None = None

    def __post_init__(self) -> None:
        checkpoint_mirror.check(self.copied_to)
        errors.check_number("CHECKPOINT_PERIOD", self.period, whole=True, minimum=1)
        check_rules(self.keep, self.keep_every, self.keep_best)


def check_rules(
    keep: int | None,
    keep_every: int | None,
    keep_best: int,
    names: tuple[str, str, str] = (
        "CHECKPOINTS_TO_KEEP",
        "CHECKPOINT_KEEP_EVERY",
        "CHECKPOINTS_BEST",
    ),
) -> None:
    """Raises UserError for a rule that there cannot be.

    Args:
      keep: as in `CheckpointConfig`.
      keep_every: likewise.
      keep_best: likewise.
      names: what the user calls them.
    """
    errors.check_number(names[0], keep, whole=True, minimum=1, optional=True)
    errors.check_number(names[1], keep_every, whole=True, minimum=1, optional=True)
    errors.check_number(names[2], keep_best, whole=True, minimum=0)


def reasons(
    steps: Iterable[int],
    *,
    keep: int | None,
    keep_every: int | None,
    best: Collection[int] = (),
    selected: int | None = None,
) -> dict[int, list[str]]:
    """Returns step -> why it is kept, ascending; a step without a reason is to be removed.

    For example, of steps 1 to 6 with keep=2, keep_every=3 and best=[4], steps 1 and 2 go.

    Args:
      steps: those that have a whole checkpoint.
      keep: as in `CheckpointConfig`.
      keep_every: likewise.
      best: the steps that are best.
      selected: the step of selected.json.
    """
    ordered = sorted(steps)
    newest = set(ordered if keep is None else ordered[-max(1, keep) :])
    return {
        step: [
            reason
            for reason, holds in (
                (NEWEST, step in newest),
                (EVERY, keep_every is not None and step % keep_every == 0),
                (BEST, step in best),
                (SELECTED, step == selected),
            )
            if holds
        ]
        for step in ordered
    }


def remove(path: storage.Path) -> None:
    """Removes a checkpoint's folder; stopped in the middle, no torn one of that name is left.

    Raises:
      OSError: it cannot be renamed, or files of it cannot be removed.
    """
    if isinstance(path, storage.RemotePath):
        path.remove()
        return
    doomed = path.with_name(path.name.removesuffix(_REMOVING) + _REMOVING)
    if path != doomed:
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
    shutil.rmtree(doomed)


def leftovers(folder: storage.Path) -> list[storage.Path]:
    """Returns the folders that a save or a removal which was stopped has left, sorted by name.

    While a run trains, a checkpoint that it is writing or removing is among them. Those that were
    set aside are not: somebody may want to look at them.

    Args:
      folder: a run's folder of checkpoints.
    """
    found = []
    for path in folder.iterdir():
        number, dot, ending = path.name.partition(".")
        unfinished = f".{ending}".startswith(UNFINISHED) or f".{ending}" == _REMOVING
        if dot and number.isdecimal() and unfinished:
            found.append(path)
    return sorted(found, key=lambda path: path.name)


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes `leftovers`, and says which; no run may be training in that folder."""
    for path in leftovers(folder):
        shutil.rmtree(str(path), ignore_errors=True)
        if not path.exists():
            log.warning("removed the unfinished checkpoint %s, left by a run that stopped", path)


def set_aside(path: pathlib.Path, ending: str) -> pathlib.Path:
    """Renames a checkpoint's folder to `<step>.<ending>`, or `<step>.<ending>-2` and so on.

    Raises:
      UserError: the folder cannot be renamed.
    """
    aside, number = path.with_name(f"{path.name}.{ending}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{ending}-{number}")
    try:
        path.rename(aside)
    except OSError as error:
        raise errors.UserError(
            f"{path} cannot be set aside: {error.strerror}",
            where=str(path.parent),
            expected="a folder that can be written to",
            fix=f"rename {path.name} yourself, and run the same command again",
        ) from error
    return aside
