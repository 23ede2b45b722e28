"""The nine chain-of-thought datasets of Flan 2022, in three forms each.

`zs` asks the question, `fs` shows two to five solved questions first, `inv` turns the task
round (predict the question, the rationale or both from the rest). Formats and quirks follow
facts/cot_tasks.csv; the collection is described in arXiv 2210.11416, section 2.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping

from flan_train.errors import UserError
from flan_train.tasks import cot_options, exemplars, metric_table, sources, templates
from flan_train.tasks.cot_table import FORMS
from flan_train.tasks.cot_table import base_tasks as base_tasks
from flan_train.tasks.definitions import NOT_SHOWN, BadRow, Rendered, Row, TaskDefinition
from flan_train.tasks.templates import FieldRule, Wording

PROMPTS = templates.PROMPTS / "cot.json"
FEWEST_SHOTS, MOST_SHOTS = 2, 5
# Counted up whenever reading changes what rows a file gives.
READER_VERSION = 2

_SIGNS = {code: None for code in range(128) if not chr(code).isalnum()}
_ALL = ("question", "answer", "rationale")
_RULES: dict[str, dict[str, FieldRule]] = {
    "zs": {
        "inputs": FieldRule(("question",), ("question",)),
        "targets": FieldRule(("rationale", "answer"), ("rationale", "answer")),
    },
    "fs": {
        "instruction": FieldRule(()),
        "exemplar": FieldRule(_ALL, _ALL),
        "query": FieldRule(("question",), ("question",)),
        "separator": FieldRule(()),
        "targets": FieldRule(("rationale", "answer"), ("rationale", "answer")),
    },
    "inv": {"inputs": FieldRule(_ALL), "targets": FieldRule(_ALL)},
}


# --- rows ---------------------------------------------------------------------------------------


# Asked for when a row is read, and again with each of its prompts.
@functools.lru_cache(maxsize=4096)
def question_key(dataset: str, question: str) -> str:
    """Returns what two rows share that ask the same thing.

    The letters and digits of what is asked, without case, and without the options: AQuA asks
    many of its questions several times with other options. Where the options themselves are
    what is asked about (Sensemaking), they are the key, in whatever order they stand.

    >>> question_key("aqua", "How  many?\\nOptions:\\n(A) 3"), question_key("aqua", "how many")
    ('howmany', 'howmany')
    """
    keys = map(_letters_and_digits, cot_options.asked(dataset, question))
    # A question of nothing but signs is its own key.
    return "\x00".join(sorted(filter(None, keys))) or " ".join(question.split())


def _letters_and_digits(text: str) -> str:
    text = text.casefold()
    return text.translate(_SIGNS) if text.isascii() else "".join(filter(str.isalnum, text))


def split_of(dataset: str, question: str) -> str:
    """Returns the split of a question: one bucket in a hundred each for validation and test.

    Rows with the same `question_key` share their split: what validation and test ask is never
    asked in training, in whatever spelling and with whatever options.
    """
    return _split_of_key(dataset, question_key(dataset, question))


def _split_of_key(dataset: str, question_key: str) -> str:
    key = f"{dataset}\x00{question_key}".encode()
    bucket = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % 100
    return {0: "validation", 1: "test"}.get(bucket, "train")


class CotSource:
    """Rows of one dataset: question, answer and rationale, from `cot/<dataset>_train.tsv`.

    Where that file is absent `cot/<dataset>_sample.tsv` is read instead, and `describe` and every
    example id say so.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset

    def path(self, data_dir: str | None) -> pathlib.Path:
        """Returns the file to read.

        Raises:
          UserError: the data folder or both files are missing, or may not be looked at.
        """
        folder = sources.resolve_data_dir(data_dir) / "cot"
        for ending in ("train", "sample"):
            path = folder / f"{self.dataset}_{ending}.tsv"
            if sources.is_there(path):
                return path
        raise UserError(
            f"{folder / self.dataset}_train.tsv is missing",
            expected=f"{self.dataset}_train.tsv with three tab-separated columns",
            fix=f"put there flan/v2/cot_data/{self.dataset}_train.tsv of google-research/FLAN",
        )

    def available(self, data_dir: str | None) -> str | None:
        """None when the file is there, else one line: what is missing and how to get it."""
        try:
            self.path(data_dir)
        except UserError as error:
            where = f" ({error.where})" if error.where else ""
            return f"{error.what}{where}; {error.fix}"
        return None

    def describe(self, data_dir: str | None) -> str:
        """The file below the data folder, with a word when it is a sample."""
        name = self.path(data_dir).name
        return f"cot/{name} (a sample)" if name.endswith("_sample.tsv") else f"cot/{name}"

    def rows(self, split: str, data_dir: str | None) -> Iterator[Row | BadRow]:
        """Streams a split's rows in the order of the file.

        A bad row belongs to its question's split, and to "train" when it has no question, so
        that it is reported once.
        """
        return self.rows_from(split, data_dir, 0)

    def rows_from(self, split: str, data_dir: str | None, start: int) -> Iterator[Row | BadRow]:
        """Streams what `rows` streams after its first `start` items."""
        path = self.path(data_dir)
        for line in sources.read_lines(path):
            fields, row_split, _ = _placed(self.dataset, path, line)
            if row_split != split:
                continue
            if start:
                start -= 1
            else:
                yield _row(self.dataset, path, line[0], fields)

    def file_key(self, data_dir: str | None) -> tuple[str, int, int]:
        """Returns `sources.file_key` of the file to read; raises as `path` does."""
        # Asked for with every few-shot prompt: what usually holds is looked at first.
        folder = data_dir or os.environ.get(sources.DATA_DIR_VARIABLE)
        path = f"{folder}/cot/{self.dataset}_train.tsv"
        try:
            status = os.stat(path)
        except OSError:
            return sources.file_key(self.path(data_dir))
        return path, status.st_mtime_ns, status.st_size

    def count(self, split: str, data_dir: str | None) -> int:
        """Number of usable rows of a split."""
        return _counts(self.dataset, sources.file_key(self.path(data_dir))).get(split, 0)

    def fingerprint(self, split: str, data_dir: str | None) -> str:
        """Hex sha256 over the file's name and content, the split and the reader's version.

        Few-shot prompts draw on the train split of the same file, so the whole file counts.
        """
        path = self.path(data_dir)
        text = f"{READER_VERSION}\x00{path.name}\x00{sources.content_hash(path)}\x00{split}"
        return hashlib.sha256(text.encode()).hexdigest()


_Fields = list[str] | BadRow


def _placed(
    dataset: str, path: pathlib.Path, line: tuple[int, int, bytes]
) -> tuple[_Fields, str, str]:
    """Returns the fields of a line, its split and its question key."""
    fields = sources.parse_tsv(path, *line, columns=3)
    if isinstance(fields, BadRow) or not fields[0]:
        return fields, "train", ""
    key = question_key(dataset, fields[0])
    return fields, _split_of_key(dataset, key), key


def _row(dataset: str, path: pathlib.Path, number: int, fields: _Fields) -> Row | BadRow:
    if isinstance(fields, BadRow):
        return fields
    question, answer, rationale = fields
    where = f"{path}:{number}"
    if not question:
        return _empty(where, "question", 1)
    if not answer:
        return _empty(where, "answer", 2, "empty target")
    if not rationale:
        return _empty(where, "rationale", 3)
    options, problem = cot_options.parse(dataset, question, answer)
    if problem:
        return BadRow(where, *problem)
    return {
        "example_id": f"{path.stem}:{number}",
        "question": question,
        "answer": answer,
        "rationale": rationale,
        "options": options,
    }


def _empty(where: str, column: str, number: int, reason: str | None = None) -> BadRow:
    return BadRow(
        where,
        reason or f"empty {column}",
        f"nothing in column {number}, the {column}",
        f"the {column} in column {number}",
    )


@functools.lru_cache(maxsize=64)
def _counts(dataset: str, key: tuple[str, int, int]) -> Mapping[str, int]:
    path = pathlib.Path(key[0])
    counts: dict[str, int] = {}
    for line in sources.read_lines(path):
        fields, split, _ = _placed(dataset, path, line)
        if not isinstance(_row(dataset, path, line[0], fields), BadRow):
            counts[split] = counts.get(split, 0) + 1
    return counts


@functools.lru_cache(maxsize=16)
def _pool(dataset: str, key: tuple[str, int, int]) -> exemplars.Pool:
    """The train rows of a file with their question keys, for exemplars.

    Kept per process: a worker fills its own at the first few-shot prompt.
    """
    path = pathlib.Path(key[0])

    def parsed(number: int, start: int, line: bytes) -> tuple[str, Row] | None:
        fields, split, question = _placed(dataset, path, (number, start, line))
        row = _row(dataset, path, number, fields) if split == "train" else None
        return None if row is None or isinstance(row, BadRow) else (question, row)

    return exemplars.Pool(path, parsed)


# --- rendering ----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def load_wordings(dataset: str, form: str, path: pathlib.Path = PROMPTS) -> tuple[Wording, ...]:
    """Returns the checked wordings of a dataset in one form.

    Raises:
      UserError: as `templates.wordings`; also an inversion whose inputs show what is to be
        predicted, or whose inputs or targets hold nothing of the row.
    """
    loaded = templates.wordings(path, dataset, form, _RULES[form])
    if form == "inv":
        for wording in loaded:
            given, wanted = (set(wording.texts[field].slots) for field in ("inputs", "targets"))
            where = f"{path.name}: {dataset}.inv ({wording.id})"
            if given & wanted:
                raise UserError(
                    f"the inputs show what is to be predicted: {', '.join(sorted(given & wanted))}",
                    where=where,
                    expected="each slot in the inputs or in the targets, not in both",
                )
            if not given or not wanted:
                raise UserError("no slot in the inputs or in the targets", where=where)
    return loaded


def draw_exemplars(
    pool: exemplars.Rows, row: Row, seed: int, task: str, dataset: str
) -> tuple[Row, ...]:
    """Returns two to five solved rows for a prompt; a pure function of (seed, task, example id).

    No exemplar asks what the query asks, and no two ask the same (`question_key`, which the
    pool's rows come with); a pool that has fewer such rows gives all of them.
    """
    example_id = row["example_id"]
    wanted = FEWEST_SHOTS + templates.choose(
        MOST_SHOTS - FEWEST_SHOTS + 1, seed, task, example_id, "number of exemplars"
    )
    used = {question_key(dataset, row["question"])}
    not_shown = row.get(NOT_SHOWN, ())
    drawn: list[Row] = []

    def take(index: int) -> None:
        key, candidate = pool[index]
        if key not in used and candidate["example_id"] not in not_shown:
            used.add(key)
            drawn.append(candidate)

    if len(pool):
        for attempt in range(4 * MOST_SHOTS):
            if len(drawn) == wanted:
                break
            take(templates.choose(len(pool), seed, task, example_id, f"exemplar {attempt}"))
        # Only a tiny pool comes here: draws kept hitting rows already used.
        start = templates.choose(len(pool), seed, task, example_id, "exemplar scan")
        for step in range(len(pool) if len(drawn) < wanted else 0):
            if len(drawn) == wanted:
                break
            take((start + step) % len(pool))
    return tuple(drawn)


def render(task: TaskDefinition, row: Row, seed: int, shots: int, data_dir: str | None) -> Rendered:
    """Returns a row rendered in its task's form, with at most `shots` exemplars."""
    listed = load_wordings(task.family, task.form)
    drawn = templates.choose(len(listed), seed, task.name, row["example_id"], "template")
    wording = listed[drawn]
    used = 0
    if task.form == "fs":
        pieces, used = _few_shot_pieces(task, wording, row, seed, shots, data_dir)
    else:
        pieces = wording.texts["inputs"].pieces(row)
    target_pieces = wording.texts["targets"].pieces(row)
    targets = "".join(target_pieces)
    inverted = task.form == "inv"
    return Rendered(
        inputs="".join(pieces),
        targets=targets,
        task=task.name,
        template_id=wording.id,
        form=task.form,
        example_id=row["example_id"],
        # The options answer the question; an inverted prompt asks for something else.
        options=() if inverted else row["options"],
        answer=targets if inverted else row["answer"],
        shots=used,
        input_pieces=tuple(pieces),
        target_pieces=tuple(target_pieces),
    )


def _few_shot_pieces(
    task: TaskDefinition, wording: Wording, row: Row, seed: int, shots: int, data_dir: str | None
) -> tuple[list[str], int]:
    """Returns the prompt in pieces with white space at every cut, and its number of exemplars."""
    drawn: tuple[Row, ...] = ()
    if shots > 0:
        source = task.source
        assert isinstance(source, CotSource)
        pool = _pool(source.dataset, source.file_key(data_dir))
        drawn = draw_exemplars(pool, row, seed, task.name, source.dataset)[:shots]
    instruction = wording.texts["instruction"].text
    separator = wording.texts["separator"].text
    pieces = [instruction, separator] if instruction else []
    for exemplar in drawn:
        pieces += wording.texts["exemplar"].pieces(exemplar)
        pieces.append(separator)
    pieces += wording.texts["query"].pieces(row)
    if not (separator[:1].isspace() and separator[-1:].isspace()):
        pieces = ["".join(pieces)]
    return pieces, len(drawn)


# --- the tasks ----------------------------------------------------------------------------------


def definitions() -> Iterator[TaskDefinition]:
    """Yields the 27 tasks `cot_<dataset>_<form>`."""
    for dataset in cot_options.DATASETS:
        source = CotSource(dataset)
        for form in FORMS:
            measure = metric_table.measure_of(f"cot_{dataset}", "cot", form)
            yield TaskDefinition(
                name=f"cot_{dataset}_{form}",
                family=dataset,
                form=form,
                source=source,
                renderer=render,
                wordings=functools.partial(templates.prompts_text, PROMPTS, dataset, form),
                extraction=measure.extraction or ("text" if form == "inv" else "after_cue"),
                default_vocabulary="t5",
                max_shots=MOST_SHOTS if form == "fs" else 0,
                base=f"cot_{dataset}",
                collection="cot",
                template_ids=functools.partial(_template_ids, dataset, form),
                metrics=measure.metrics,
            )


def _template_ids(dataset: str, form: str) -> tuple[str, ...]:
    return tuple(wording.id for wording in load_wordings(dataset, form))
