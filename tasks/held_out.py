"""The held-out benchmarks of the paper as tasks: MMLU, BBH, TyDi QA (gold passage), MGSM.

A task is one file of a benchmark in one form, such as "mmlu_anatomy_cot". Protocol of
arXiv 2210.11416, section 2.3; docs/evaluation.md says what follows it and what does not.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

from flan_train.errors import UserError
from flan_train.tasks import held_out_exemplars, held_out_prompts, held_out_rows, sources
from flan_train.tasks.definitions import Row, TaskDefinition
from flan_train.tasks.held_out_table import BENCHMARKS, HeldOutFile, files

_RANKED = ("rank", "zs_rank")
# Benchmark -> its forms.
FORMS = {
    "mmlu": ("direct", "cot", "zs", "zs_cot", *_RANKED),
    "bbh": ("direct", "cot", "zs", "zs_cot", *_RANKED),
    "tydiqa": ("direct", "zs", "zs_cot"),
    "mgsm": ("cot", "direct", "zs", "zs_cot"),
}
_METRICS = {
    "mmlu": ("accuracy", "exact_match"),
    "bbh": ("exact_match",),
    "tydiqa": ("exact_match", "f1"),
    "mgsm": ("exact_match",),
}


@dataclasses.dataclass(frozen=True)
class HeldOutSource:
    """The rows of a file of a benchmark, and the exemplars that are shown with them.

    Attributes:
      file: the file.
      exemplars: "direct" or "cot": which published exemplars prompts need; empty for none.
      pool: whether an exemplar is drawn (TyDi QA).
    """

    file: HeldOutFile
    # Not compared: the rows are the same, whatever stands above them.
    exemplars: str = dataclasses.field(default="", compare=False)
    pool: bool = dataclasses.field(default=False, compare=False)

    def rows(self, split: str, data_dir: str | None) -> Iterator[Row]:
        """Streams a split's rows in the order of the file.

        Raises:
          UserError: the file is missing or damaged.
        """
        yield from held_out_rows.rows(self.file, split, sources.resolve_data_dir(data_dir))

    def count(self, split: str, data_dir: str | None) -> int:
        """Number of rows of a split; raises as `rows` does."""
        return len(held_out_rows.rows(self.file, split, sources.resolve_data_dir(data_dir)))

    def available(self, data_dir: str | None) -> str | None:
        """None when the file and its exemplars are there, else one line: what is missing."""
        try:
            root = sources.resolve_data_dir(data_dir)
            held_out_rows.find(root, self.describe(data_dir))
            if self.exemplars:
                held_out_rows.find(
                    root, held_out_exemplars.relative_path(self.file, self.exemplars)
                )
        except UserError as error:
            return f"{error.what}; {error.fix}"
        return None

    def describe(self, data_dir: str | None) -> str:
        """The file below the data folder."""
        return held_out_rows.relative_path(self.file, held_out_rows.ALL)

    def fingerprint(self, split: str, data_dir: str | None) -> str:
        """Hex sha256 over the file, the split and the file that exemplars come from."""
        root = sources.resolve_data_dir(data_dir)
        texts = [held_out_rows.fingerprint(self.file, split, root)]
        if self.exemplars:
            name = held_out_exemplars.relative_path(self.file, self.exemplars)
            texts += [name, sources.content_hash(held_out_rows.find(root, name))]
        if self.pool:
            path, origin = held_out_exemplars.pool_path(self.file, root)
            texts += [origin, sources.content_hash(path)]
        return hashlib.sha256("\x00".join(texts).encode()).hexdigest()


def forms_of(file: HeldOutFile) -> tuple[str, ...]:
    """Returns the forms of a file; options can be ranked where answers are among options."""
    ranked = file.answers in ("letter", "closed")
    return tuple(form for form in FORMS[file.suite] if ranked or form not in _RANKED)


def task_name(file: HeldOutFile, form: str) -> str:
    """Returns the name of a file's task, such as "bbh_snarks_cot"."""
    return f"{file.suite}_{file.name}_{form}"


def definitions() -> Iterator[TaskDefinition]:
    """Yields a task for each file of each benchmark in each of its forms.

    Raises:
      UserError: the table of files is broken.
    """
    for file in files():
        by_need: dict[tuple[str, bool], HeldOutSource] = {}
        for form in forms_of(file):
            prompting = held_out_prompts.prompting_of(form)
            needs = (
                prompting if held_out_prompts.reads_published(file, form) else "",
                file.suite == "tydiqa" and held_out_prompts.has_exemplars(form),
            )
            shown = held_out_prompts.has_exemplars(form)
            yield TaskDefinition(
                name=task_name(file, form),
                family=file.suite,
                form=form,
                source=by_need.setdefault(needs, HeldOutSource(file, *needs)),
                renderer=functools.partial(held_out_prompts.render, file),
                wordings=functools.partial(held_out_prompts.wordings_text, file, form),
                extraction=file.answers,
                splits=held_out_rows.splits(file),
                default_vocabulary="t5",
                max_shots=held_out_prompts.SHOTS[file.suite] if shown else 0,
                held_out=True,
                template_ids=functools.partial(held_out_prompts.template_ids, file, form),
                metrics=_METRICS[file.suite],
                method="rank" if form in _RANKED else "generate",
                max_output=file.cot_tokens if prompting == "cot" else file.direct_tokens,
                chance=file.chance,
                benchmark=BENCHMARKS[file.suite],
                prompting=prompting,
            )
