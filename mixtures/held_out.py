"""Suites: the mixtures that evaluation reads, on splits that training never sees."""

from __future__ import annotations

from collections.abc import Iterator

from flan_train.mixtures import cot, quickstart
from flan_train.mixtures.definitions import Member, MixtureDefinition
from flan_train.tasks import held_out
from flan_train.tasks.held_out_table import BENCHMARKS, files_of

# What the normalised average is the mean of (arXiv 2210.11416, section 2.3).
AVERAGED = tuple(
    f"heldout_{name}"
    for name in ("mmlu_direct", "mmlu_cot", "bbh_direct", "bbh_cot", "tydiqa_direct", "mgsm_cot")
)
_SAID = {
    "direct": "solved questions shown with their answers",
    "cot": "solved questions shown with rationales",
    "zs": "the question alone",
    "zs_cot": "the question, and a request for its steps",
    "rank": "as direct; the likeliest option is the answer",
    "zs_rank": "as zs; the likeliest option is the answer",
}


def definitions() -> Iterator[MixtureDefinition]:
    """Yields the suites of quickstart and chain of thought, then those of the benchmarks.

    `heldout_<benchmark>_<form>` holds one task for each file of a benchmark, `heldout` the six
    suites of the normalised average, `heldout_all` every one.
    """
    yield MixtureDefinition(
        "quickstart_unseen",
        tuple(Member(name) for name in quickstart.task_names(held_out=False)),
        description="suite: the families of quickstart, asking what training never asks",
    )
    yield MixtureDefinition(
        "quickstart_held_out",
        tuple(Member(name) for name in quickstart.task_names(held_out=True)),
        description="suite: families that quickstart never trains on",
    )
    yield MixtureDefinition(
        "cot_validation",
        tuple(Member(name) for name in cot.task_names("zs")),
        cap=cot.CAP,
        description="suite: zero-shot questions of the nine chain-of-thought datasets",
    )
    suites = []
    for suite, benchmark in BENCHMARKS.items():
        for form in held_out.FORMS[suite]:
            suites.append(f"heldout_{suite}_{form}")
            yield MixtureDefinition(
                suites[-1],
                tuple(
                    Member(held_out.task_name(file, form))
                    for file in files_of(suite)
                    if form in held_out.forms_of(file)
                ),
                description=f"suite: {benchmark}, {_SAID[form]}",
            )
    for name, members, said in (
        ("heldout", AVERAGED, "the six of the normalised average"),
        ("heldout_all", tuple(suites), "every benchmark in every form"),
    ):
        listed = tuple(Member(member, 1.0) for member in members)
        yield MixtureDefinition(name, listed, description=f"suites: {said}")
