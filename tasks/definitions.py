"""What a task is: a source of rows, a rendering into text, and the facts that prepare needs."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from flan_train.errors import UserError, unknown_name
from flan_train.tasks.protocol import METHODS, PROMPTINGS, Draws, protocol_of

__all__ = [
    "NOT_SHOWN",
    "RENDER_VERSION",
    "BadRow",
    "Rendered",
    "Renderer",
    "Row",
    "SkippingSource",
    "Source",
    "TaskDefinition",
    "protocol_of",
]

# "example_id" is always there; the other keys are the source's own fields; "options" is a tuple
# of the strings an answer may be, where the row has them.
Row = dict[str, Any]

# What a row may have besides: ids of rows that are no exemplars for it.
NOT_SHOWN = "not_shown"

# Counted up whenever rendering changes in a way that neither wordings nor sources show.
RENDER_VERSION = 2


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used; `rows()` yields it in the row's place so that it is counted.

    Attributes:
      where: "file:line", or the generator and index.
      reason: a few fixed words that rows are counted by, such as "too few columns".
      found: what the row has there, in a few words: "2 tab-separated columns".
      expected: what it should have: "3 tab-separated columns".
    """

    where: str
    reason: str
    found: str
    expected: str


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A rendered example: the two texts and the record of how they came about.

    Attributes:
      inputs: the prompt.
      targets: what is to be predicted.
      task: name of the task.
      template_id: which wording was drawn.
      form: "zs", "fs", "inv", "direct" or "cot".
      example_id: the row it came from.
      options: the strings an answer may be; empty when the row has none.
      answer: the reference that metrics compare with: an option's marker where the prompt
        enumerates its options.
      shots: number of exemplars in the prompt.
      input_pieces, target_pieces: the texts, cut beside white space into what comes back in other
        examples, for a tokeniser that remembers; empty where they are not known.
      references: every output that is right; empty when that is `answer` alone.
      target_text: the text of the right option where the target is its marker; else empty.
    """

    inputs: str
    targets: str
    task: str
    template_id: str
    form: str
    example_id: str
    options: tuple[str, ...]
    answer: str
    shots: int
    input_pieces: tuple[str, ...] = ()
    target_pieces: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    target_text: str = ""


class Source(Protocol):
    """Where a task's rows come from: a file of the data folder, or a generator."""

    def rows(self, split: str, data_dir: str | None) -> Iterator[Row | BadRow]:
        """Streams a split's rows in a fixed order."""
        ...

    def count(self, split: str, data_dir: str | None) -> int:
        """Number of usable rows of a split."""
        ...

    def available(self, data_dir: str | None) -> str | None:
        """None when the rows can be had, else one line: what is missing and how to get it."""
        ...

    def fingerprint(self, split: str, data_dir: str | None) -> str:
        """Hex sha256 that changes whenever the split's rows could."""
        ...

    def describe(self, data_dir: str | None) -> str:
        """A few words for tables: the file that is read, or "generated"."""
        ...


@runtime_checkable
class SkippingSource(Source, Protocol):
    """A source that leaves rows out faster than by reading them."""

    def rows_from(self, split: str, data_dir: str | None, start: int) -> Iterator[Row | BadRow]:
        """Streams what `rows` streams after its first `start` items."""
        ...


class Renderer(Protocol):
    """Turns a row into text; a pure function of its arguments."""

    def __call__(
        self, task: TaskDefinition, row: Row, seed: int, shots: int, data_dir: str | None
    ) -> Rendered:
        """Returns the rendered row with at most `shots` exemplars."""
        ...


@dataclasses.dataclass(frozen=True)
class TaskDefinition:
    """One registered task: a dataset in one prompt form.

    Attributes:
      name: the registered name, such as "cot_gsm8k_zs".
      family: what results are grouped by, such as "gsm8k".
      form: "zs", "fs" or "inv" (chain-of-thought datasets), "direct" or "cot" (quickstart), one of
        `held_out.FORMS` (held-out benchmarks), else "zs_opt", "zs_noopt", "fs_opt", "fs_noopt" or
        "inv": zero-shot or few-shot, with answer options shown or not, or the task turned round.
      source: where rows come from; several tasks may share one.
      renderer: the plain function behind `render`.
      wordings: returns the text of every wording the renderer can draw, for `template_hash`.
      extraction: how an answer is read out of model output; a key of `answers.STYLES`.
      splits: subset of ("train", "validation", "test"); held-out benchmarks have "all" and may
        have "published_test" too.
      default_vocabulary: "quickstart" or "t5".
      max_shots: most exemplars a prompt can have; 0 when the form is zero-shot.
      held_out: never in a training mixture.
      base: the task of the collection that this is a form of, such as "muffin_rte"; a key of
        `catalogue.base_task`. Empty outside the collection.
      collection: "muffin", "t0_sf", "niv2" or "cot"; empty outside the collection.
      template_ids: returns the ids that `Rendered.template_id` can have; none where not known.
      metrics, method, max_output, chance, benchmark, prompting, sampling: how an evaluation treats
        the task (`protocol.Protocol`); they change no example, so they are in no hash.
    """

    name: str
    family: str
    form: str
    source: Source
    renderer: Renderer
    wordings: Callable[[], str]
    extraction: str
    splits: tuple[str, ...] = ("train", "validation", "test")
    default_vocabulary: str = "quickstart"
    max_shots: int = 0
    held_out: bool = False
    base: str = ""
    collection: str = ""
    template_ids: Callable[[], tuple[str, ...]] = tuple
    metrics: tuple[str, ...] = ("exact_match",)
    method: str = "generate"
    max_output: int | None = None
    chance: float | None = None
    benchmark: str = ""
    prompting: str = ""
    sampling: Draws | None = None

    def __post_init__(self) -> None:
        for field, known in (("method", METHODS), ("prompting", PROMPTINGS)):
            if getattr(self, field) not in known:
                raise unknown_name(field, getattr(self, field), known, where=f"task {self.name}")
        if self.chance is not None and not 0 <= self.chance < 1:
            raise UserError(
                f"the chance of the task {self.name} is {self.chance}",
                expected="a share: at least 0, below 1",
            )
        if (self.method == "samples") != (self.sampling is not None):
            raise UserError(
                f"the task {self.name} has the method {self.method!r} and sampling {self.sampling}",
                expected='how outputs are drawn where the method is "samples", else None',
            )

    def rows(
        self, split: str, data_dir: str | None = None, start: int = 0
    ) -> Iterator[Row | BadRow]:
        """Streams a split's rows; a `BadRow` stands where a row cannot be used.

        Args:
          split: one of `splits`.
          data_dir: where the source's files are, else FLAN_DATA_DIR.
          start: how many rows to leave out at the beginning, bad ones counted.

        Raises:
          UserError: the source is missing, or the task has no such split.
        """
        self._check_split(split)
        if start and isinstance(self.source, SkippingSource):
            return self.source.rows_from(split, data_dir, start)
        return itertools.islice(self.source.rows(split, data_dir), start, None)

    def num_examples(self, split: str, data_dir: str | None = None) -> int:
        """Number of usable rows of a split; raises as `rows` does."""
        self._check_split(split)
        return self.source.count(split, data_dir)

    def available(self, data_dir: str | None = None) -> str | None:
        """None when the source is there, else one line: what is missing and how to get it."""
        return self.source.available(data_dir)

    def render(
        self, row: Row, seed: int, shots: int | None = None, data_dir: str | None = None
    ) -> Rendered:
        """Returns the rendered row, a pure function of (seed, task, example id, shots).

        Args:
          row: a row of `rows`.
          seed: which of the many renderings.
          shots: the most exemplars wanted; None for `max_shots`. The example's own draw may be
            fewer: `Rendered.shots` says how many there are.
          data_dir: where exemplars come from.
        """
        wanted = self.max_shots if shots is None else min(shots, self.max_shots)
        return self.renderer(self, row, seed, wanted, data_dir)

    def candidates(self, row: Row, seed: int, data_dir: str | None = None) -> Iterator[Rendered]:
        """Yields the renderings of a row from the most shots down to none, lazily.

        The one to use is the first that fits: for a prompt drawn with 3 exemplars these are the
        renderings with 3, 2, 1 and 0 of them.
        """
        rendered = self.render(row, seed, None, data_dir)
        yield rendered
        for shots in range(rendered.shots - 1, -1, -1):
            yield self.render(row, seed, shots, data_dir)

    def source_fingerprint(self, split: str, data_dir: str | None = None) -> str:
        """Hex sha256 of what the split's rows, and the exemplars shown with them, are made from."""
        self._check_split(split)
        own = self.source.fingerprint(split, data_dir)
        if not self.max_shots or split == "train" or "train" not in self.splits:
            return own
        exemplars = self.source.fingerprint("train", data_dir)
        return hashlib.sha256(f"{own}\x00{exemplars}".encode()).hexdigest()

    def template_hash(self) -> str:
        """Hex sha256 over the wordings, the form and the version of rendering."""
        text = "\x00".join((str(RENDER_VERSION), self.name, self.form, self.wordings()))
        return hashlib.sha256(text.encode()).hexdigest()

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise unknown_name("split", split, self.splits, where=f"task {self.name}")
