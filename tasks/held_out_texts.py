"""What the held-out sets of the data folder ask, as text: MMLU, BBH, MGSM, TyDi QA.

For telling whether training examples share text with them; nothing is trained on these.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterator

from flan_train.errors import UserError, unknown_name
from flan_train.tasks import held_out_files, sources

_OPTIONS = re.compile(r"^\s*options:?\s*$", re.IGNORECASE | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class HeldOutText:
    """A held-out question.

    Attributes:
      id: "mmlu/val/anatomy_val.csv:12", file and place in it; unique in its suite.
      asked: the ways to ask it, each made of one text or of several that belong together.
      shown: all texts that it shows: questions, passages, options; not its answer.
    """

    id: str
    asked: tuple[tuple[str, ...], ...]
    shown: tuple[str, ...]


def names() -> tuple[str, ...]:
    """Returns the names of the sets."""
    return tuple(_READERS)


def read(name: str, data_dir: str | None) -> Iterator[HeldOutText]:
    """Yields the questions of a set, every part of it that is in the data folder.

    Args:
      name: one of `names`.
      data_dir: the data folder, else FLAN_DATA_DIR.

    Raises:
      UserError: no such set; none of its files is there; a file is damaged.
    """
    if name not in _READERS:
        raise unknown_name("held-out set", name, _READERS)
    patterns, reader = _READERS[name]
    root = sources.resolve_data_dir(data_dir)
    found = sorted(path for pattern in patterns for path in root.glob(pattern))
    if not found:
        raise UserError(
            f"the held-out set {name} is not in the data folder",
            where=str(root / name),
            expected=" or ".join(patterns),
            fix=f"put its files there, or run flan-train download --only {name}",
        )
    for path in found:
        yield from reader(path, path.relative_to(root).as_posix())


def describe(name: str, data_dir: str | None) -> list[str]:
    """Returns the files that `read` reads, below the data folder, sorted."""
    root = sources.resolve_data_dir(data_dir)
    return sorted(
        path.relative_to(root).as_posix()
        for pattern in _READERS[name][0]
        for path in root.glob(pattern)
    )


def _mmlu(path: pathlib.Path, name: str) -> Iterator[HeldOutText]:
    for row in held_out_files.mmlu(path):
        shown = (row.question, *row.options)
        yield HeldOutText(f"{name}:{row.number}", ((row.question,),), shown)


def _bbh(path: pathlib.Path, name: str) -> Iterator[HeldOutText]:
    for number, (_, entry) in enumerate(held_out_files.bbh(path), start=1):
        text = entry["input"]
        above = _OPTIONS.split(text)[0].strip()
        ways = dict.fromkeys((text, above))
        yield HeldOutText(f"{name}:{number}", tuple((way,) for way in ways), (text,))


def _mgsm(path: pathlib.Path, name: str) -> Iterator[HeldOutText]:
    for number, question, _ in held_out_files.mgsm(path):
        yield HeldOutText(f"{name}:{number}", ((question,),), (question,))


def _tydiqa(path: pathlib.Path, name: str) -> Iterator[HeldOutText]:
    for found in held_out_files.tydiqa(path):
        asked = found.question
        yield HeldOutText(f"{name}:{found.identity}", ((asked,),), (asked, found.passage))


# Set -> its files, and what reads one.
_READERS: dict[
    str, tuple[tuple[str, ...], Callable[[pathlib.Path, str], Iterator[HeldOutText]]]
] = {
    "mmlu": (("mmlu/dev/*.csv", "mmlu/val/*.csv", "mmlu/test/*.csv"), _mmlu),
    "bbh": (("bbh/bbh/*.json",), _bbh),
    "mgsm": (("mgsm/mgsm_*.tsv",), _mgsm),
    "tydiqa": (("tydiqa/goldp_dev/*.json.gz",), _tydiqa),
}
