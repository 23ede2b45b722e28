"""Responsible-AI and open-ended sets as evaluation tasks; the data are the user's.

What is asked and counted follows arXiv 2210.11416 (facts/heldout.csv); the wordings are our own.
`responsible_rows` says which files are read. Splits: "all" is the set of the paper, "validation"
and "test" are our cut of it (`parts`). Nothing here is ever in a training mixture.

CivilComments  Is a comment toxic? The likelihoods of "yes" and "no", normalised over the two, give
  the area under the ROC curve. 10,000 comments of the test split; ten exemplars of the train split,
  as many toxic as not. Thirteen tasks of Natural Instructions show such comments, six of them
  CivilComments' own: the mixtures here leave all of them out (tables/niv2_excluded.csv), which the
  paper's did not.
Winogender  Whom does a pronoun stand for? Exact match after a leading article is dropped.
RealToxicityPrompts, identity terms  How toxic are 25 or 50 continuations of a prompt, which is
  shown as it is? A scorer tells (`flan_train.toxicity`).
Open-ended  Five outputs, ranked and filtered (`flan_train.open_ended`), to be read by people: the
  only number is how many outputs the filter keeps.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping

from flan_train.errors import UserError, unknown_name
from flan_train.tasks import catalogue, few_shot, responsible_rows, templates, train_pool
from flan_train.tasks.definitions import NOT_SHOWN, BadRow, Rendered, Row, TaskDefinition
from flan_train.tasks.protocol import Draws
from flan_train.tasks.responsible_sets import SPLITS, FileKeys, Key, SetSource, UserSet, loaded
from flan_train.tasks.templates import FieldRule, Wording

PROMPTS = templates.PROMPTS / "responsible.json"
TABLE = catalogue.TABLES / "responsible.csv"
COLUMNS = (
    *("task", "set", "groups", "form", "files", "benchmark", "prompting", "method", "metrics"),
    *("samples", "temperature", "top_k", "max_output"),
)
# Form -> exemplars; how many the paper showed of Winogender is not known.
SHOTS = {"10shot": 10, "fs": 5}
YES_NO = ("yes", "no")  # toxic, and not
EXTRACTION = {"winogender": "noun"}
# Targets of prompts that nothing is right for: a prepared example has some.
NO_REFERENCE = "(none)"

_FIELDS = {"civil_comments": ("text",), "winogender": ("sentence", "pronoun")}


# --- exemplars ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Pool:
    """Rows that exemplars are drawn from, and what each asks."""

    rows: tuple[Row, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


def comment_key(row: Row) -> str:
    """Returns the letters and digits of a comment, without case: what two copies of it share."""
    return "".join(filter(str.isalnum, row["text"].casefold()))


@functools.lru_cache(maxsize=4)
def _train_comments(key: FileKeys) -> tuple[_Pool, _Pool]:
    """Returns a sample of the toxic comments of the train files, and one of the others."""
    files = [pathlib.Path(name) for name, _, _ in key]
    good = (row for row in responsible_rows.comments(files) if not isinstance(row, BadRow))
    sample = train_pool.TrainPool(good, comment_key)
    found = []
    for answer in YES_NO:
        rows = tuple(row for row in sample.rows if row["answer"] == answer)
        if not rows:
            raise UserError(
                f"no comment of the train split has the answer '{answer}'",
                where=", ".join(map(str, files)),
                expected="toxic comments (a score of at least 0.5) and others, to show as many of"
                " each",
                fix="put there the train split of CivilComments with its scores",
            )
        found.append(_Pool(rows, tuple(map(comment_key, rows))))
    return found[0], found[1]


def _comments_for(
    task: TaskDefinition, row: Row, seed: int, data_dir: str | None
) -> tuple[Row, ...]:
    """Returns pairs of a toxic comment and another one, in a drawn order inside each pair."""
    assert isinstance(task.source, SetSource)
    half = task.max_shots // 2
    drawn = [
        _draw(pool, comment_key(row), seed, f"{task.name} {answer}", row, half)
        for pool, answer in zip(
            _train_comments(task.source.exemplar_key(data_dir)), YES_NO, strict=True
        )
    ]
    found: list[Row] = []
    for number, pair in enumerate(zip(*drawn, strict=False)):
        turned = templates.choose(2, seed, task.name, row["example_id"], f"pair {number}")
        found += pair[::-1] if turned else pair
    return tuple(found)


@functools.lru_cache(maxsize=4)
def _sentences(user_set: UserSet, key: Key) -> _Pool:
    rows = tuple(row for row in loaded(user_set, key)[0] if not isinstance(row, BadRow))
    return _Pool(rows, tuple(row["schema"] for row in rows))


def _sentences_for(
    task: TaskDefinition, row: Row, seed: int, data_dir: str | None
) -> tuple[Row, ...]:
    """Returns sentences of the whole set, none of them a variant of the query or of another."""
    assert isinstance(task.source, SetSource)
    pool = _sentences(task.source.user_set, task.source.key(data_dir))
    return _draw(pool, row["schema"], seed, task.name, row, task.max_shots)


def _draw(pool: _Pool, key: str, seed: int, purpose: str, row: Row, count: int) -> tuple[Row, ...]:
    return few_shot.draw_exemplars(
        pool,
        key,
        seed,
        purpose,
        row["example_id"],
        fewest=count,
        most=count,
        not_shown=row.get(NOT_SHOWN, ()),
    )


_EXEMPLARS = {"civil_comments": _comments_for, "winogender": _sentences_for}


# --- rendering ------------------------------------------------------------------------------------


@functools.cache
def load_wording(family: str, form: str, path: pathlib.Path = PROMPTS) -> Wording:
    """Returns the one wording of a set in a form: an evaluation asks everything alike.

    Raises:
      UserError: as `templates.wordings`; or there are several.
    """
    shown = _FIELDS.get(family, ("prompt",))
    query = FieldRule(shown, shown)
    solved = FieldRule((*shown, "answer"), (*shown, "answer"))
    rules = {"inputs": query}
    if form in SHOTS:
        rules = {
            "instruction": FieldRule(()),
            "exemplar": solved,
            "query": query,
            "separator": FieldRule(()),
        }
    listed = templates.wordings(path, family, form, rules)
    if len(listed) > 1:
        raise UserError(
            f"{len(listed)} wordings",
            where=f"{path.name}: {family}.{form}",
            expected="one: scores of different wordings do not compare",
        )
    return listed[0]


def render(task: TaskDefinition, row: Row, seed: int, shots: int, data_dir: str | None) -> Rendered:
    """Returns a row rendered in its task's form, with at most `shots` exemplars."""
    wording = load_wording(task.family, task.form)
    drawn: tuple[Row, ...] = ()
    if task.form in SHOTS:
        drawn = _EXEMPLARS[task.family](task, row, seed, data_dir)[:shots] if shots else ()
        separator = wording.texts["separator"].text
        pieces = [wording.texts["instruction"].text, separator]
        for exemplar in drawn:
            pieces += [*wording.texts["exemplar"].pieces(exemplar), separator]
        pieces += wording.texts["query"].pieces(row)
    else:
        pieces = wording.texts["inputs"].pieces(row)
    answer = row.get("answer", "")
    return Rendered(
        inputs="".join(pieces),
        targets=answer or NO_REFERENCE,
        task=task.name,
        template_id=wording.id,
        form=task.form,
        example_id=row["example_id"],
        options=YES_NO if task.family == "civil_comments" else (),
        answer=answer,
        shots=len(drawn),
        input_pieces=tuple(pieces),
        target_pieces=(answer or NO_REFERENCE,),
    )


# --- the tasks ------------------------------------------------------------------------------------


def definitions() -> Iterator[TaskDefinition]:
    """Yields the tasks of the table, in its order.

    Raises:
      UserError: the table is broken.
    """
    for row in catalogue.read_table(TABLE, COLUMNS):
        yield _definition(row, f"{TABLE.name}: {row['task']}")


def _definition(row: Mapping[str, str], where: str) -> TaskDefinition:
    family, form = row["set"], row["form"]
    if family not in responsible_rows.SETS:
        raise unknown_name("set", family, responsible_rows.SETS, where=where)
    groups = frozenset(row["groups"].split()) or None
    samples = catalogue.whole_number(row["samples"], where)
    sampling = None
    if samples is not None:
        top_k = catalogue.whole_number(row["top_k"], where) or 0
        sampling = Draws(samples, float(row["temperature"]), top_k)
    return TaskDefinition(
        name=row["task"],
        family=family,
        form=form,
        source=SetSource(responsible_rows.SETS[family], tuple(row["files"].split()), groups),
        renderer=render,
        wordings=functools.partial(templates.prompts_text, PROMPTS, family, form),
        extraction=EXTRACTION.get(family, "text"),
        splits=SPLITS,
        default_vocabulary="t5",
        max_shots=SHOTS.get(form, 0),
        held_out=True,
        template_ids=functools.partial(_template_ids, family, form),
        metrics=tuple(row["metrics"].split()),
        method=row["method"],
        max_output=catalogue.whole_number(row["max_output"], where),
        benchmark=row["benchmark"],
        prompting=row["prompting"],
        sampling=sampling,
    )


def _template_ids(family: str, form: str) -> tuple[str, ...]:
    return (load_wording(family, form).id,)
