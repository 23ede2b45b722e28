"""T0-SF: the 193 prompts of P3 whose datasets Flan 2021 lacks (facts/t0_sf_tasks.csv).

What they are: tables/t0_sf.csv. P3's prompts are promptsource's templates, which the user brings
(`t0_source`); ours are the lines around them and few-shot prompts: prompts/t0_wrappers.json.
A prompt that shows its choices has forms with options alone, for without the list of choices its
answer could not be told; one whose answer is free has forms without (facts sections 2 and 7).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

from flan_train.errors import UserError
from flan_train.tasks import catalogue, few_shot, forms, metric_table, options, templates
from flan_train.tasks.catalogue import BaseTask
from flan_train.tasks.definitions import NOT_SHOWN, Rendered, Row, TaskDefinition
from flan_train.tasks.few_shot import Shape, Shot
from flan_train.tasks.sandbox import Unrenderable
from flan_train.tasks.t0_places import Entry
from flan_train.tasks.t0_source import T0Source, phrased
from flan_train.tasks.templates import FieldRule, Wording

TABLE = catalogue.TABLES / "t0_sf.csv"
COLUMNS = (
    *("name", "dataset", "subset", "hf", "category", "options", "train_examples", "licence"),
    *("obtainable", "note"),
)
PROMPTS = templates.PROMPTS / "t0_wrappers.json"
COLLECTION = "t0_sf"
# Characters of a last line such as "Answer:", that options are put before.
_LONGEST_CUE = 40
_FORMS = {
    "appended": ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt"),
    "shown": ("zs_opt", "fs_opt"),
    "": ("zs_noopt", "fs_noopt"),
}
_RULES = {
    "zs": {"inputs": FieldRule(("input",), ("input",))},
    "fs": {"instruction": FieldRule(())},
}


# --- the table -----------------------------------------------------------------------------------


@functools.cache
def entries() -> dict[str, Entry]:
    """Returns what the table says of where rows come from, by base task, in its order.

    Raises:
      UserError: the table is broken.
    """
    return {
        row["name"]: Entry(row["name"], row["dataset"], row["subset"], row["hf"], row["options"])
        for row in catalogue.read_table(TABLE, COLUMNS)
    }


def base_tasks() -> Iterator[BaseTask]:
    """Yields the 193 base tasks `t0_<P3's name of the prompt>` in the order of the table.

    Raises:
      UserError: the table is broken.
    """
    for row in catalogue.read_table(TABLE, COLUMNS):
        where = f"{TABLE}: {row['name']}"
        if row["options"] not in _FORMS or row["obtainable"] not in catalogue.OBTAINABLE:
            raise UserError(
                f"options {row['options']!r}, obtainable {row['obtainable']!r}",
                where=where,
                expected=f"options one of {', '.join(map(repr, _FORMS))}; obtainable one of "
                + ", ".join(catalogue.OBTAINABLE),
            )
        yield BaseTask(
            name=row["name"],
            collection=COLLECTION,
            dataset="/".join(filter(None, (row["dataset"], row["subset"]))),
            category=row["category"],
            languages=("English",),
            forms=_FORMS[row["options"]],
            train_examples=catalogue.whole_number(row["train_examples"], where),
            licence=row["licence"],
            obtainable=row["obtainable"],
            note=row["note"],
        )


def definitions() -> Iterator[TaskDefinition]:
    """Yields the tasks `t0_<P3's name of the prompt>_<form>`; reads no data and no templates."""
    for base in catalogue.base_tasks(COLLECTION):
        entry = entries()[base.name]
        plain = T0Source(entry)
        listed = T0Source(entry, needs_options=True) if entry.options == "appended" else plain
        for form in base.forms:
            measure = metric_table.measure_of(base.name, COLLECTION, form)
            yield TaskDefinition(
                name=f"{base.name}_{form}",
                family=base.name.removeprefix("t0_"),
                form=form,
                source=listed if form in forms.WITH_OPTIONS else plain,
                renderer=render,
                wordings=functools.partial(wordings_text, entry.options == "appended", form),
                extraction=measure.extraction or "text",
                default_vocabulary="t5",
                max_shots=forms.MOST_SHOTS if form in forms.FEW_SHOT else 0,
                base=base.name,
                collection=COLLECTION,
                template_ids=functools.partial(template_ids, form),
                metrics=measure.metrics,
            )


# --- wordings ------------------------------------------------------------------------------------


@functools.cache
def load_wordings(form: str) -> tuple[Wording, ...]:
    """Returns the wrappers ("zs") or the instructions of few-shot prompts ("fs").

    Raises:
      UserError: the file is broken.
    """
    return templates.wordings(PROMPTS, "t0", form, _RULES[form])


def wordings_text(appended: bool, form: str) -> str:
    """Returns every text that a form can draw, for hashing; templates count with the rows.

    Args:
      appended: whether the task's forms with options show a block of them.
      form: such as "fs_opt".
    """
    texts = [templates.prompts_text(PROMPTS, "t0", form.partition("_")[0])]
    if appended and form in forms.WITH_OPTIONS:
        texts.append(options.styles_text())
    if form in forms.FEW_SHOT:
        texts.append(few_shot.delimiters_text())
    return "\x00".join(texts)


def template_ids(form: str) -> tuple[str, ...]:
    """Returns the ids that renderings of a form can have."""
    if form not in forms.FEW_SHOT:
        return tuple(wording.id for wording in load_wordings("zs"))
    return tuple(
        f"{wording.id}{ending}" for wording in load_wordings("fs") for ending in ("", ".mixed")
    )


@functools.cache
def _ending_in_input() -> tuple[Wording, ...]:
    """The wrappers that leave a prompt's last words at its end."""
    return tuple(
        wording
        for wording in load_wordings("zs")
        if wording.texts["inputs"].text.endswith("{input}")
    )


# --- rendering -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Posed:
    """A row as a prompt poses it; `text` is what the answer stands for where it is a marker."""

    inputs: str
    answer: str
    text: str
    shape: Shape

    @property
    def shot(self) -> Shot:
        return Shot(self.inputs, self.answer, self.shape)


def render(task: TaskDefinition, row: Row, seed: int, shots: int, data_dir: str | None) -> Rendered:
    """Returns a row of `T0Source` in the task's form, with at most `shots` exemplars.

    A pure function of its arguments: what the row's own template draws goes by the seed too.

    Raises:
      UserError: the train split has no source; a template is refused.
    """
    row = _redrawn(task, row, seed, data_dir)
    if task.form in forms.FEW_SHOT:
        return _few_shot(task, row, seed, shots, data_dir)
    style = None
    if _appends(task):
        style = options.draw_style(seed, task.name, row["example_id"], row["options"])
    posed = _pose(row, style)
    wrappers = _ending_in_input() if posed.shape.cued else load_wordings("zs")
    number = templates.choose(len(wrappers), seed, task.name, row["example_id"], "template")
    wrapper = wrappers[number]
    pieces = wrapper.texts["inputs"].pieces({"input": posed.inputs})
    return _rendered(task, row, posed, pieces, wrapper.id, 0)


def _redrawn(task: TaskDefinition, row: Row, seed: int, data_dir: str | None) -> Row:
    """The row as its template phrases it with the draws of this seed."""
    if "raw" not in row or not isinstance(task.source, T0Source):
        return row
    source = task.source
    template = source.drawing_template(data_dir)
    if template is None:
        return row
    try:
        prompt = phrased(template, row["raw"], source.entry, seed, task.name, row["example_id"])
    except Unrenderable:
        prompt = None
    answers = row["options"]
    if (
        prompt is None
        or not (prompt.inputs and prompt.targets)
        or (answers and prompt.targets not in answers)
    ):
        # Another draw than the one that made it a good row.
        return row
    return {**row, "input": prompt.inputs, "answer": prompt.targets}


def _appends(task: TaskDefinition) -> bool:
    return (
        task.form in forms.WITH_OPTIONS
        and isinstance(task.source, T0Source)
        and task.source.entry.options == "appended"
    )


def _pose(row: Row, style: options.Style | None) -> _Posed:
    text, answer = row["input"], row["answer"]
    shape = few_shot.shape_of(text)
    if style is None:
        return _Posed(text, answer, "", shape)
    block = options.block(row["options"], style)
    head, _, last = text.rpartition("\n")
    if shape.cued and head.strip() and len(last) <= _LONGEST_CUE:
        # Before "Answer:", which is to stay at the end.
        text = f"{head.rstrip()}\n{block}\n{last}"
    else:
        text = f"{text}\n{block}"
        shape = shape._replace(cued=False, listed=True)
    if not style.enumerates:
        return _Posed(text, answer, "", shape)
    return _Posed(text, options.marker(style, row["options"].index(answer)), answer, shape)


def _asked(row: Row) -> str:
    return forms.normalised(row["input"])


def _few_shot(
    task: TaskDefinition, row: Row, seed: int, shots: int, data_dir: str | None
) -> Rendered:
    name, example_id = task.name, row["example_id"]
    pool = forms.train_pool(task.source, data_dir, _asked)
    not_shown = row.get(NOT_SHOWN, ())
    drawn = few_shot.draw_exemplars(pool, _asked(row), seed, name, example_id, not_shown=not_shown)
    style = None
    if _appends(task):
        # One style in a prompt, that suits all that were drawn: what a target is must not change.
        listed = [row["options"], *(exemplar["options"] for exemplar in drawn)]
        style = options.draw_style(seed, name, example_id, *listed)
    instructions = load_wordings("fs")
    number = templates.choose(2 * len(instructions), seed, name, example_id, "template")
    instruction, mixed = instructions[number // 2], bool(number % 2)
    posed = _pose(row, style)
    pieces = few_shot.few_shot(
        [_pose(exemplar, style).shot for exemplar in drawn[:shots]],
        posed.shot,
        seed=seed,
        task=name,
        example_id=example_id,
        instruction=instruction.texts["instruction"].text,
        mixed=mixed,
    )
    template_id = f"{instruction.id}{'.mixed' if mixed else ''}"
    return _rendered(task, row, posed, pieces, template_id, len(drawn[:shots]))


def _rendered(
    task: TaskDefinition, row: Row, posed: _Posed, pieces: list[str], template_id: str, shots: int
) -> Rendered:
    return Rendered(
        inputs="".join(pieces),
        targets=posed.answer,
        task=task.name,
        template_id=template_id,
        form=task.form,
        example_id=row["example_id"],
        options=row["options"],
        answer=posed.answer,
        shots=shots,
        input_pieces=tuple(pieces),
        target_pieces=(posed.answer,),
        target_text=posed.text,
    )
