"""What a run's folder of checkpoints shows, and whether a run may go on from it."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Collection, Sequence

import jax

from flan_train import checkpoint_retention, errors
from flan_train.checkpoint_files import DamagedCheckpoint
from flan_train.checkpoint_names import missing_items

# A network file system may show a folder to one machine later than to another.
SECONDS_TO_SEE = 30.0
_SECONDS_BETWEEN_LOOKS = 0.25


def check_seen(folder: pathlib.Path, steps: Collection[int], look: Callable[[], list[int]]) -> None:
    """Raises UserError unless this process sees, sooner or later, the checkpoints of process 0.

    Args:
      folder: the run's folder of checkpoints.
      steps: the complete ones that process 0 sees.
      look: returns those that are seen here now.
    """
    deadline = time.monotonic() + SECONDS_TO_SEE
    while True:
        mine = look()
        # What process 0 has removed may be seen for some time; none of it is newer.
        if set(steps) <= set(mine) and max(steps, default=-1) == max(mine, default=-1):
            return
        if time.monotonic() > deadline:
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    raise errors.UserError(
        f"process 0 sees checkpoints of the steps {sorted(steps)}, process {jax.process_index()} "
        f"of {mine}",
        where=str(folder),
        expected="one MODEL_DIR that all processes share",
        fix="put MODEL_DIR on a file system that is mounted on all machines, under one path",
    )


def check_none_torn(folder: pathlib.Path, complete: Collection[int]) -> None:
    """Raises DamagedCheckpoint for an incomplete checkpoint newer than all of `complete`.

    For a run with `--strict`, which is not to go on without it.
    """
    newest = max(complete, default=-1)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.isdecimal() or int(path.name) <= newest or not path.is_dir():
            continue
        if missing := missing_items(path):
            raise DamagedCheckpoint(
                f"the checkpoint of step {path.name} is incomplete (no {', '.join(missing)}), and "
                "--strict was given",
                str(path),
            )


def check_some_usable(
    folder: pathlib.Path,
    steps: Collection[int],
    damaged: Sequence[tuple[int, DamagedCheckpoint]] = (),
) -> None:
    """Raises UserError where there are checkpoints, but none that a run could go on from.

    Args:
      folder: the run's folder of checkpoints.
      steps: the complete ones.
      damaged: those of them that are damaged, with what is wrong.
    """
    if len(steps) > len(damaged) or not folder.is_dir():
        return
    lines = [f"\n    {step}: {error.what}" for step, error in damaged]
    for path in sorted(folder.iterdir()):
        number, _, ending = path.name.partition(".")
        if not path.is_dir() or not number.isdecimal():
            continue
        if not ending and (missing := missing_items(path)):
            lines.append(f"\n    {path.name}: incomplete (no {', '.join(missing)})")
        elif ending.split("-")[0] in (checkpoint_retention.DAMAGED, checkpoint_retention.TORN):
            lines.append(f"\n    {path.name}: set aside before")
    if lines:
        raise errors.UserError(
            f"none of the run's checkpoints can be used{''.join(lines)}",
            where=str(folder),
            expected="at least one that is whole: a run that has checkpoints never starts anew "
            "by itself",
            fix="copy one back, or name another MODEL_DIR; to start anew in this one, delete "
            "its checkpoints",
        )
