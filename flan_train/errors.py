"""The one error type for a user's mistake: what is wrong, where, what was expected, what to do."""

from __future__ import annotations

import difflib
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
        f"unknown {kind} '{name}'", where=where, expected=f"a {kind} that exists", fix=fix
    )
