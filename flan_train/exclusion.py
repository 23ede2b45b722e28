"""The list of training examples to leave out: written by `inspect`, honoured by `prepare`.

The first line says what the list is of and has the sha256 of all that follows; each line after it
is one example: {"task", "example_id", "suites", "why"}. A task is a base task, whose forms all
leave the example out, or a registered task.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from flan_train import tasks
from flan_train.errors import UserError, unknown_name
from flan_train.tasks import catalogue

FORMAT = "flan-train exclusion 1"
_LINE = '{"task": ..., "example_id": ..., "suites": [...], "why": ...}'


@dataclasses.dataclass(frozen=True)
class Entry:
    """An example to leave out.

    Attributes:
      task: a base task, or a registered task that is a form of none.
      example_id: of its rows.
      suites: what it shares text with.
      why: what it shares.
    """

    task: str
    example_id: str
    suites: tuple[str, ...]
    why: str

    @property
    def reason(self) -> str:
        """What the example is counted by among the rows that are dropped."""
        return "excluded: shares text with " + ", ".join(self.suites)


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """A list as it was read.

    Attributes:
      sha256: of its lines, in hex.
      suites: all that are named in it.
      reasons: task -> example id -> reason.
    """

    sha256: str = ""
    suites: tuple[str, ...] = ()
    reasons: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def of(self, task: str) -> tuple[tuple[str, str], ...]:
        """Returns (example id, reason) of what a registered task leaves out, sorted."""
        found = dict(self.reasons.get(task, {}))
        if self.reasons and task in tasks.names() and (base := tasks.get(task).base):
            found |= self.reasons.get(base, {})
        return tuple(sorted(found.items()))

    def check_names(self, where: str) -> None:
        """Raises UserError when the list names a task that there is not."""
        known = {*tasks.names(), *(base.name for base in catalogue.base_tasks())}
        for task in self.reasons:
            if task not in known:
                raise unknown_name("task", task, known, where=where)


def write(path: str | os.PathLike[str], entries: Iterable[Entry], facts: Mapping[str, Any]) -> str:
    """Writes a list and returns the sha256 of its lines.

    Args:
      path: where it goes; what is there is replaced.
      entries: the examples.
      facts: what the first line says besides, such as the mixture and the suites.

    Raises:
      UserError: the file cannot be written.
    """
    lines = [
        json.dumps(
            {"task": e.task, "example_id": e.example_id, "suites": e.suites, "why": e.why},
            ensure_ascii=False,
        )
        for e in entries
    ]
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    sha256 = hashlib.sha256(content).hexdigest()
    header = {"format": FORMAT, **facts, "examples": len(lines), "sha256": sha256}
    try:
        pathlib.Path(path).write_bytes(
            json.dumps(header, ensure_ascii=False).encode() + b"\n" + content
        )
    except OSError as error:
        raise UserError(
            f"cannot write the list of excluded examples: {error.strerror}",
            where=f"--exclude_contaminated {os.fspath(path)}",
            expected="a file in a folder that can be written to",
            fix="name another file",
        ) from None
    return sha256


def read(path: str | os.PathLike[str]) -> Exclusion:
    """Returns a list.

    Raises:
      UserError: there is no such file, it is no such list, or it is not as it was written.
    """
    where = os.fspath(path)
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read the list of excluded examples: {error.strerror}",
            where=f"EXCLUDE (DataConfig.exclude): {where}",
            expected="a file that `flan-train inspect MIXTURE --contamination SUITE "
            "--exclude_contaminated PATH` wrote",
            fix="write it again, or name the right file",
        ) from None
    first, _, rest = content.partition(b"\n")
    header = _object(first, f"{where}:1", '{"format": "' + FORMAT + '", ...}')
    if header.get("format") != FORMAT:
        raise UserError(
            "no list of excluded examples",
            where=f"{where}:1",
            expected='{"format": "' + FORMAT + '", ...}',
            fix="write it with --exclude_contaminated",
        )
    sha256 = hashlib.sha256(rest).hexdigest()
    if header.get("sha256", sha256) != sha256:
        raise UserError(
            "the list of excluded examples is not as it was written",
            where=where,
            expected=f"lines with the sha256 {header['sha256']}",
            fix='write it again; or, if you edited it, take "sha256" out of its first line',
        )
    reasons: dict[str, dict[str, str]] = {}
    suites: dict[str, None] = {}
    for number, line in enumerate(rest.splitlines(), start=2):
        if line.strip():
            entry = _entry(line, f"{where}:{number}")
            reasons.setdefault(entry.task, {})[entry.example_id] = entry.reason
            suites.update(dict.fromkeys(entry.suites))
    return Exclusion(sha256, tuple(suites), reasons)


def _entry(line: bytes, where: str) -> Entry:
    fields = _object(line, where, _LINE)
    suites = fields.get("suites")
    texts = [fields.get("task"), fields.get("example_id"), fields.get("why", "")]
    if (
        not isinstance(suites, list)
        or not suites
        or not all(isinstance(text, str) for text in (*texts, *suites))
    ):
        raise UserError("a line that names no example", where=where, expected=_LINE)
    return Entry(fields["task"], fields["example_id"], tuple(suites), fields.get("why", ""))


def _object(line: bytes, where: str, expected: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(
            "a line of the list of excluded examples is no JSON object",
            where=where,
            expected=expected,
            fix="write the list again with --exclude_contaminated",
        )
    return value
