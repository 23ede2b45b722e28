"""The folder that a conversion makes: a new one, and whole or not there."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from flan_train import checkpoint_failures
from flan_train.errors import UserError, check_writable, not_written
from flan_train.unfinished import beside


def check_new(destination: pathlib.Path) -> None:
    """Raises UserError when a folder exists already, or could not be made."""
    if destination.exists():
        raise UserError(
            f"{destination} exists already", expected="a new folder", fix="name another"
        )
    check_writable("the folder", destination)


@contextlib.contextmanager
def written_whole(destination: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write into, which gets its name at the end; after an error nothing is left.

    Raises:
      UserError: it cannot be made or written to.
    """
    unfinished = beside(destination, "writing")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.rename(destination)
    except OSError as error:
        raise not_written("the folder", destination, error) from error
    finally:
        if unfinished.exists():
            checkpoint_failures.remove_left(unfinished.parent, unfinished.name)
