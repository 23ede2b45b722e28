"""The one error type for a user's mistake: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import difflib
import math
import os
import pathlib
import re
from collections.abc import Iterable


class UserError(Exception):
    """A mistake a user can mend; the command line prints it without a traceback and exits with 2.

    Args:
      what: one sentence, what is wrong.
      where: the file and row, the key or the setting that holds it.
      expected: what would have been right.
      fix: what to do now; a command where there is one.
    """

    def __init__(self, what: str, *, where: str = "", expected: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.fix = fix
        lines = [what]
        for label, text in (("where", where), ("expected", expected), ("to do", fix)):
            if text:
                lines.append(f"  {label}: {text}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, tuple[str, str, str, str]]:
        # Worker processes hand their errors to the parent by pickling: keyword-only arguments
        # would be lost by the default rule.
        return (_rebuild, (self.what, self.where, self.expected, self.fix))


def _rebuild(what: str, where: str, expected: str, fix: str) -> UserError:
    return UserError(what, where=where, expected=expected, fix=fix)


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> UserError:
    """Returns the error for a name that does not exist, with the nearest names that do.

    Args:
      kind: what the name stands for, such as "mixture".
      name: what the user wrote.
      known: every valid name.
      where: where the user wrote it, when that is known.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if not near:
        near = [candidate for candidate in names if name.lower() in candidate.lower()][:3]
    if near:
        fix = "did you mean " + " or ".join(near) + "?"
    elif len(names) <= 12:
        fix = "the known names are " + ", ".join(names) if names else "none is registered"
    else:
        fix = f"nothing is spelt like it among {len(names)} known names"
    return UserError(
        f"unknown {kind} '{name}'",
        where=where,
        expected=f"{'an' if kind[0] in 'aeio' else 'a'} {kind} that exists",
        fix=fix,
    )


def check_number(
    name: str,
    value: object,
    *,
    whole: bool = False,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    optional: bool = False,
) -> None:
    """Raises UserError unless a setting is a finite number (True and False are none) within bounds.

    Args:
      name: of the setting, as a user would find it.
      value: what it is set to.
      whole: whether it must be an int.
      minimum: the least value allowed.
      above: a value that it must exceed.
      below: a value that it must stay under.
      optional: whether None is allowed as well.
    """
    if value is None and optional:
        return
    kinds = int if whole else int | float
    if (
        isinstance(value, kinds)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (minimum is None or value >= minimum)
        and (above is None or value > above)
        and (below is None or value < below)
    ):
        return
    bounds = [
        f"{words} {bound}"
        for words, bound in (("of at least", minimum), ("above", above), ("below", below))
        if bound is not None
    ]
    expected = " ".join(["a whole number" if whole else "a number", " and ".join(bounds)]).strip()
    raise UserError(
        f"{name} cannot be {value!r}",
        where=name,
        expected=expected + (", or None" if optional else ""),
    )


def check_flag(name: str, value: object) -> None:
    """Raises UserError unless a setting is True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{name} cannot be {value!r}", where=name, expected="True or False")


def check_text(name: str, value: object, *, optional: bool = False) -> None:
    """Raises UserError unless a setting is text that is not empty, or None where that is allowed.

    A path object counts as text.
    """
    if value is None and optional:
        return
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise UserError(
            f"{name} cannot be {value!r}",
            where=name,
            expected="text in quotes" + (", or None" if optional else ""),
            fix=f"in a shell both kinds of quotes: --gin.{name}=\"'text'\""
            if name.isupper()
            else "",
        )


def check_local(name: str, path: object, fix: str = "name a folder of this machine") -> None:
    """Raises UserError when a setting that must be a local folder is a URL.

    Args:
      name: what the user calls it.
      path: its value.
      fix: what to do instead.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(path)):
        raise UserError(
            f"{name} cannot be {path}",
            where=name,
            expected="a folder of this machine, or of a file system that is mounted here",
            fix=fix,
        )


def reason(error: Exception) -> str:
    """Returns what the operating system said, or else the first line of an error's text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):  # TensorStore
        return os.strerror(int(code[1]))
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def not_written(name: str, path: str | os.PathLike[str], error: Exception) -> UserError:
    """Returns the error for a folder that cannot be made or written to.

    Args:
      name: what the user calls the folder, such as "MODEL_DIR".
      path: the folder.
      error: what writing raised.
    """
    return UserError(
        f"{name} cannot be written: {reason(error)}",
        where=str(getattr(error, "filename", None) or path),
        expected="a folder that can be written to, with enough space",
        fix="name another folder",
    )


def check_writable(name: str, path: str | os.PathLike[str]) -> None:
    """Raises UserError when a folder could not be made or written to; makes nothing.

    Args:
      name: what the user calls the folder, such as "MODEL_DIR".
      path: the folder; it or the nearest of its parents that exist is looked at.
    """
    there = pathlib.Path(path).absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "is not a folder" if not there.is_dir() else "cannot be written to"
        raise UserError(
            f"{name} cannot be made: {there} {reason}",
            where=str(path),
            expected="a folder that can be written to",
            fix="name another folder",
        )
