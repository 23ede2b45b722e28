"""How a held-out question is put: published exemplars in their own framing, else in ours.

Forms: "direct" (exemplars with answers alone), "cot" (exemplars with rationales), "zs" and "zs_cot"
(no exemplars; the latter asks for a rationale), "rank" and "zs_rank" (the prompts of "direct" and
"zs", for scoring options).
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping

from flan_train.tasks import held_out_exemplars, sources, templates
from flan_train.tasks.definitions import Rendered, Row, TaskDefinition
from flan_train.tasks.held_out_exemplars import Exemplar, Published
from flan_train.tasks.held_out_table import HeldOutFile
from flan_train.tasks.templates import FieldRule, Wording

PROMPTS = templates.PROMPTS / "held_out.json"
SHOTS = {"mmlu": 5, "bbh": 3, "tydiqa": 1, "mgsm": 8}

_BETWEEN = "\n\n"
# Form -> whose wording it has.
_WORDED_AS = {"rank": "direct", "zs_rank": "zs"}
_ABOUT_FILE = ("subject", "description", "label", "opening", "closing", "answer_label")
_QUESTION = ("question", "passage")
_RULES = {
    "head": FieldRule(("subject", "description")),
    "exemplar": FieldRule((*_QUESTION, "answer", "rationale", "answer_label")),
    "query": FieldRule((*_QUESTION, *_ABOUT_FILE), ("question",)),
    "targets": FieldRule(("answer", "closing"), ("answer",)),
}


def prompting_of(form: str) -> str:
    """Returns "cot" for the forms that ask for a rationale, else "direct"."""
    return "cot" if form.endswith("cot") else "direct"


def has_exemplars(form: str) -> bool:
    """Returns whether the prompts of a form show solved questions."""
    return not form.startswith("zs")


def reads_published(file: HeldOutFile, form: str) -> bool:
    """Returns whether prompts of a form need the file of published exemplars.

    Without exemplars BBH still has its descriptions from there, and MGSM its native words.
    """
    return file.suite != "tydiqa" and (has_exemplars(form) or file.suite in ("bbh", "mgsm"))


@functools.lru_cache(maxsize=64)
def load_wording(suite: str, form: str, path: pathlib.Path = PROMPTS) -> Wording:
    """Returns the checked wording of a benchmark in one form.

    Raises:
      UserError: as `templates.wordings`.
    """
    return templates.wordings(path, suite, _WORDED_AS.get(form, form), _RULES)[0]


@functools.lru_cache(maxsize=16)
def answer_label(language: str, path: pathlib.Path = PROMPTS) -> str:
    """Returns the word "Answer:" in a language of MGSM, with the space that follows it there."""
    rules = {"text": FieldRule(())}
    return templates.wordings(path, "mgsm_answer_label", language, rules)[0].texts["text"].text


def wordings_text(file: HeldOutFile, form: str) -> str:
    """Returns the wordings of a file in one form as canonical JSON, for hashing."""
    text = templates.prompts_text(PROMPTS, file.suite, _WORDED_AS.get(form, form))
    return text + (answer_label(file.name) if file.suite == "mgsm" else "")


def template_ids(file: HeldOutFile, form: str) -> tuple[str, ...]:
    """Returns the ids of examples of a file in one form; none where the data folder decides."""
    if file.suite == "tydiqa" and has_exemplars(form):
        return ()
    return (load_wording(file.suite, form).id,)


def render(
    file: HeldOutFile,
    task: TaskDefinition,
    row: Row,
    seed: int,
    shots: int,
    data_dir: str | None,
) -> Rendered:
    """Returns a row rendered in its task's form, with at most `shots` exemplars.

    An exemplar that is the question itself is left out. Fewer exemplars are the first ones.

    Raises:
      UserError: the published exemplars are missing or damaged.
    """
    root = sources.resolve_data_dir(data_dir)
    wording = load_wording(file.suite, task.form)
    template_id = wording.id
    published = Published(())
    if reads_published(file, task.form):
        published = held_out_exemplars.published(file, prompting_of(task.form), root)
    exemplars = published.exemplars
    if file.suite == "tydiqa" and has_exemplars(task.form):
        exemplars, pool = held_out_exemplars.draw_passage(file, row, seed, task.name, root)
        template_id = f"{wording.id}-{pool}"
    about = {
        "subject": file.title,
        "description": published.description,
        "label": published.label,
        "opening": published.opening,
        "closing": published.closing,
        "answer_label": answer_label(file.name) if file.suite == "mgsm" else "",
    }
    shown = _shown(exemplars, published.label + row["question"], shots)
    query = {**about, "question": row["question"], "passage": row.get("passage", "")}
    texts = [wording.texts["head"].fill(about)]
    texts += [wording.texts["exemplar"].fill(_values(each, about)) for each in shown]
    texts.append(wording.texts["query"].fill(query).rstrip())
    return Rendered(
        inputs=_BETWEEN.join(filter(None, texts)),
        targets=wording.texts["targets"].fill({**about, "answer": row["answer"]}),
        task=task.name,
        template_id=template_id,
        form=task.form,
        example_id=row["example_id"],
        # Options that are ranked are what a target may be. Of an output the texts are read as well.
        options=row["options" if task.method == "rank" else "choices"],
        answer=row["answer"],
        shots=len(shown),
        references=row["references"],
    )


def _shown(exemplars: tuple[Exemplar, ...], question: str, shots: int) -> tuple[Exemplar, ...]:
    asked = held_out_exemplars.key_of(question)
    others = (each for each in exemplars if held_out_exemplars.key_of(each.question) != asked)
    return tuple(others)[:shots]


def _values(exemplar: Exemplar, about: Mapping[str, str]) -> dict[str, str]:
    return {
        **about,
        "question": exemplar.question,
        "passage": exemplar.passage,
        "answer": exemplar.answer,
        "rationale": exemplar.rationale,
    }
