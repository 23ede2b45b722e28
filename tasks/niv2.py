"""The Natural Instructions v2 tasks of Flan 2022: a definition, solved examples, many instances.

Each is a base task "niv2_<full name>" in two forms: `zs_opt` shows the definition and an input,
`fs_opt` exemplars as well: those that the task's authors solved and explained, or other instances.
Their prompts have no form without options (facts section 2), and their options are not published.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping

from flan_train.tasks import catalogue, few_shot, metric_table, niv2_exemplars, templates
from flan_train.tasks.catalogue import BaseTask
from flan_train.tasks.definitions import NOT_SHOWN, Rendered, Row, TaskDefinition
from flan_train.tasks.few_shot import Shot
from flan_train.tasks.niv2_source import Niv2Source
from flan_train.tasks.templates import FieldRule, Template, Wording

TABLE = catalogue.TABLES / "niv2.csv"
PROMPTS = templates.PROMPTS / "niv2.json"
FORMS = ("zs_opt", "fs_opt")
COLLECTION = "niv2"
# As many as nearly any task has solved examples of its own.
MOST_SHOTS = 8
LICENCE = "Apache-2.0 for the task file; the instances have the licence of their dataset"

# Characters. What is longer may be cut at its end, so the definition has to come first.
LONG_INPUT = 2000

# What stands in a few-shot prompt: examples of the authors, the same with their explanations,
# other instances, or one of the first and then others. Each is as likely as it is often here.
_KINDS = ("authored", "explained", "explained", "drawn", "drawn", "both")

_EXEMPLAR = ("input", "output")
_RULES: dict[str, dict[str, FieldRule]] = {
    "zs": {"inputs": FieldRule(("definition", "input"), ("definition", "input"))},
    "layouts": {
        "definition": FieldRule(("definition",), ("definition",)),
        "lead": FieldRule(()),
        "exemplar": FieldRule(_EXEMPLAR, _EXEMPLAR),
        "explained": FieldRule((*_EXEMPLAR, "explanation"), (*_EXEMPLAR, "explanation")),
        "query": FieldRule(("input",), ("input",)),
        "separator": FieldRule(()),
    },
    "heads": {
        "definition": FieldRule(("definition",), ("definition",)),
        "explained": FieldRule(("output", "explanation"), ("output", "explanation")),
    },
}


# --- the table ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task as the table has it.

    Attributes:
      name: the full name, as its file is called.
      base: the base task it is.
      ni_test_split: whether it is in the default test split of Natural Instructions. Flan trains
        on those too; who reports that split must leave them out.
    """

    name: str
    base: BaseTask
    ni_test_split: bool


def base_name(name: str) -> str:
    """Returns the base task's name of a full name; SeqIO has no hyphens in names.

    >>> base_name("task137_detoxifying-lms_classification_toxicity")
    'niv2_task137_detoxifying_lms_classification_toxicity'
    """
    return f"{COLLECTION}_{name.replace('-', '_')}"


@functools.cache
def entries() -> Mapping[str, Entry]:
    """Returns {full name: entry} in the order of the table.

    Raises:
      UserError: the table is missing or broken.
    """
    found = {}
    columns = (
        "name",
        "dataset",
        "category",
        "languages",
        "examples",
        "ni_test_split",
        "excluded",
        "note",
    )
    for row in catalogue.read_table(TABLE, columns):
        name = row["name"]
        tested = row["ni_test_split"] == "yes"
        notes = [row["note"]] if row["note"] else []
        if tested:
            notes.append("in the default test split of Natural Instructions")
        base = BaseTask(
            name=base_name(name),
            collection=COLLECTION,
            dataset=row["dataset"],
            category=row["category"],
            languages=tuple(row["languages"].split(";")),
            forms=FORMS,
            train_examples=catalogue.whole_number(row["examples"], f"{TABLE.name}: {name}"),
            licence=LICENCE,
            obtainable="public",
            note="; ".join(notes),
            excluded=row["excluded"],
        )
        found[name] = Entry(name, base, tested)
    return found


def base_tasks() -> Iterator[BaseTask]:
    """Yields the 1,556 base tasks; thirteen of them are in no training mixture."""
    return (entry.base for entry in entries().values())


def ni_test_split() -> tuple[str, ...]:
    """Returns the base tasks in the default test split of Natural Instructions."""
    return tuple(entry.base.name for entry in entries().values() if entry.ni_test_split)


def definitions() -> Iterator[TaskDefinition]:
    """Yields the tasks `niv2_<full name>_zs_opt` and `niv2_<full name>_fs_opt`."""
    for name, entry in entries().items():
        source = Niv2Source(name)
        for form in FORMS:
            few = form == "fs_opt"
            measure = metric_table.measure_of(entry.base.name, COLLECTION, form)
            yield TaskDefinition(
                name=f"{entry.base.name}_{form}",
                family=name,
                form=form,
                source=source,
                renderer=render,
                wordings=_few_shot_text if few else _zero_shot_text,
                extraction=measure.extraction or "text",
                default_vocabulary="t5",
                max_shots=MOST_SHOTS if few else 0,
                base=entry.base.name,
                collection=COLLECTION,
                template_ids=few_shot_ids if few else zero_shot_ids,
                metrics=measure.metrics,
            )


# --- wordings -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def load_wordings(part: str, path: pathlib.Path = PROMPTS) -> tuple[Wording, ...]:
    """Returns the checked wordings of a part of the file: "zs", "layouts" or "heads".

    Raises:
      UserError: as `templates.wordings`.
    """
    return templates.wordings(path, COLLECTION, part, _RULES[part])


@functools.cache
def _definition_first() -> tuple[Wording, ...]:
    listed = load_wordings("zs")
    return tuple(each for each in listed if each.texts["inputs"].slots[0] == "definition")


def zero_shot_ids() -> tuple[str, ...]:
    """Returns the ids that zero-shot prompts can have."""
    return tuple(wording.id for wording in load_wordings("zs"))


def few_shot_ids() -> tuple[str, ...]:
    """Returns the ids that few-shot prompts can have: of layouts, and of heads mixed or not."""
    heads = [wording.id for wording in load_wordings("heads")]
    layouts = [wording.id for wording in load_wordings("layouts")]
    return (*layouts, *heads, *(f"{head}.mixed" for head in heads))


@functools.cache
def _zero_shot_text() -> str:
    return templates.prompts_text(PROMPTS, COLLECTION, "zs")


@functools.cache
def _few_shot_text() -> str:
    parts = [templates.prompts_text(PROMPTS, COLLECTION, part) for part in ("layouts", "heads")]
    return "\x00".join((*parts, few_shot.delimiters_text()))


# --- rendering ----------------------------------------------------------------------------------


def render(task: TaskDefinition, row: Row, seed: int, shots: int, data_dir: str | None) -> Rendered:
    """Returns a row rendered in its task's form, with at most `shots` exemplars.

    The target is one of the outputs, drawn; all of them are in `Rendered.references`.

    Raises:
      UserError: the file with the exemplars is missing or damaged.
    """
    name, example_id = task.name, row["example_id"]
    references = row["references"]
    target = _one_of(references, seed, name, example_id, "output")
    definition = _one_of(row["definitions"], seed, name, example_id, "definition")
    used = 0
    if task.form == "fs_opt":
        pieces, template_id, used = _few_shot(task, definition, row, seed, shots, data_dir)
    else:
        listed = _definition_first() if len(row["input"]) > LONG_INPUT else load_wordings("zs")
        wording = listed[templates.choose(len(listed), seed, name, example_id, "template")]
        values = {"definition": definition, "input": row["input"]}
        pieces, template_id = wording.texts["inputs"].pieces(values), wording.id
    return Rendered(
        inputs="".join(pieces),
        targets=target,
        task=name,
        template_id=template_id,
        form=task.form,
        example_id=example_id,
        options=(),
        answer=target,
        shots=used,
        input_pieces=tuple(pieces),
        target_pieces=(target,),
        references=references,
    )


def _one_of(texts: tuple[str, ...], seed: int, task: str, example_id: str, purpose: str) -> str:
    if len(texts) == 1:
        return texts[0]
    return texts[templates.choose(len(texts), seed, task, example_id, purpose)]


def authored_id(row: Row, number: int) -> str:
    """Returns what a solved example of a row's task is called in lists of what is left out.

    Args:
      row: any row of the task.
      number: position in its "examples".
    """
    return f"{row['example_id'].rpartition(':')[0]}:solved {number + 1}"


Exemplar = dict[str, str]  # "input", "output", and "explanation" where it is to be shown


def draw_exemplars(
    task: TaskDefinition, row: Row, seed: int, data_dir: str | None
) -> list[Exemplar]:
    """Returns the solved examples of a prompt: a pure function of (seed, task, example id).

    None of them has the query's input. Where the file solves no example other instances are
    drawn, and where there are none the solved ones.
    """
    name, example_id = task.name, row["example_id"]
    not_shown = row.get(NOT_SHOWN, ())
    authored = [
        each
        for number, each in enumerate(row["examples"])
        if each.input_hash != row["input_hash"]
        and not (not_shown and authored_id(row, number) in not_shown)
    ]
    kind = _KINDS[templates.choose(len(_KINDS), seed, name, example_id, "kind of exemplars")]
    if kind in ("drawn", "both") or not authored:
        first = authored[:1] if kind == "both" else []
        drawn = _drawn(task, row, seed, data_dir, few_shot.MOST_SHOTS - len(first))
        taken = {each.input_hash for each in first}
        exemplars = [{"input": each.input, "output": each.output} for each in first]
        exemplars += [
            {
                "input": other["input"],
                "output": _one_of(other["references"], seed, name, other["example_id"], "output"),
            }
            for other in drawn
            if other["input_hash"] not in taken
        ]
        if exemplars or not authored:
            return exemplars
    most = min(len(authored), MOST_SHOTS)
    wanted = 1 + templates.choose(most, seed, name, example_id, "number of examples")
    start = templates.choose(len(authored), seed, name, example_id, "first example")
    chosen = [authored[(start + step) % len(authored)] for step in range(wanted)]
    return [
        {"input": each.input, "output": each.output}
        | ({"explanation": each.explanation} if kind == "explained" and each.explanation else {})
        for each in chosen
    ]


def _drawn(
    task: TaskDefinition, row: Row, seed: int, data_dir: str | None, most: int
) -> tuple[Row, ...]:
    source = task.source
    assert isinstance(source, Niv2Source)
    pool = niv2_exemplars.pool(source.name, source.file_key(data_dir))
    return few_shot.draw_exemplars(
        pool,
        row["input_hash"],
        seed,
        task.name,
        row["example_id"],
        most=most,
        not_shown=row.get(NOT_SHOWN, ()),
    )


def _few_shot(
    task: TaskDefinition,
    definition: str,
    row: Row,
    seed: int,
    shots: int,
    data_dir: str | None,
) -> tuple[list[str], str, int]:
    """Returns the prompt in pieces, the id of its wording and its number of exemplars."""
    name, example_id = task.name, row["example_id"]
    exemplars = draw_exemplars(task, row, seed, data_dir)[:shots] if shots > 0 else []
    layouts, heads = load_wordings("layouts"), load_wordings("heads")
    drawn = templates.choose(len(layouts) + len(heads), seed, name, example_id, "template")
    if drawn < len(layouts):
        pieces = _laid_out(layouts[drawn].texts, definition, exemplars, row["input"])
        return pieces, layouts[drawn].id, len(exemplars)
    head = heads[drawn - len(layouts)]
    mixed = bool(templates.choose(2, seed, name, example_id, "mixed"))
    explained = head.texts["explained"]
    solved = [
        (each["input"], explained.fill(each) if "explanation" in each else each["output"])
        for each in exemplars
    ]
    pieces = few_shot.few_shot(
        # Only a mixed prompt looks at what an exemplar needs around it.
        [Shot(*texts, few_shot.shape_of(texts[0]) if mixed else None) for texts in solved],
        Shot(row["input"], shape=few_shot.shape_of(row["input"])),
        seed=seed,
        task=name,
        example_id=example_id,
        instruction=head.texts["definition"].fill({"definition": definition}),
        mixed=mixed,
    )
    return pieces, f"{head.id}.mixed" if mixed else head.id, len(exemplars)


def _laid_out(
    texts: Mapping[str, Template], definition: str, exemplars: list[Exemplar], query: str
) -> list[str]:
    separator = texts["separator"].text
    pieces = [*texts["definition"].pieces({"definition": definition}), separator]
    if exemplars and texts["lead"].text:
        pieces += (texts["lead"].text, separator)
    for each in exemplars:
        wording = texts["explained" if "explanation" in each else "exemplar"]
        pieces += (*wording.pieces(each), separator)
    return pieces + texts["query"].pieces({"input": query})
