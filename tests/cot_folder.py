"""A small data folder with all nine chain-of-thought files, in the real files' formats."""

from __future__ import annotations

import pathlib

NUMBERS = ("one", "two", "three", "four", "five")


def row(dataset: str, index: int) -> tuple[str, str, str]:
    """Returns (question, answer, rationale) as a file of that dataset spells them."""
    fact = f"Item {index} of {dataset} follows from its number."
    lettered = [f"({letter}) {word}" for letter, word in zip("ABCDE", NUMBERS, strict=True)]
    picked = index % 5
    if dataset == "aqua":
        listed = "\\n".join(lettered)
        return f"Which one is {index}?\\nOptions:\\n{listed}", f"({'ABCDE'[picked]})", fact
    if dataset == "qasc":
        listed = "\\n".join("- " + option for option in lettered)
        return f"What does item {index} need?\\nOptions:\\n{listed}", f"({'ABCDE'[picked]})", fact
    if dataset == "ecqa":
        listed = "\\n".join(f"- {word} {index}" for word in NUMBERS)
        return f"Where is item {index}?\\nOptions:\\n{listed}", f"{NUMBERS[picked]} {index}", fact
    if dataset == "creak":
        listed = "\\nOptions:\\n- yes\\n- no" if index % 2 else "\\nTrue?"
        return f"Item {index} is odd.{listed}", ("no", "yes")[index % 2], fact
    if dataset == "esnli":
        listed = "\\nOptions:\\n- yes\\n- no\\n- it is not possible to tell"
        return f"Premise {index}. Can we conclude?{listed}", "it is not possible to tell", fact
    if dataset == "sensemaking":
        listed = f'\\n- Sentence A: "He ate {index}."\\n- Sentence B: "It sang {index}."\\n'
        return f"Which is odd?\\nOptions:{listed}", "Sentence B", fact
    if dataset == "strategyqa":
        return f"Is item {index} older than itself? ", "no", fact
    return f"How much is {index} + {index}?", str(2 * index), fact


def write_cot_folder(folder: pathlib.Path, rows: int = 60, leave_out: tuple[str, ...] = ()) -> str:
    """Writes `<folder>/cot/<dataset>_train.tsv` for the nine datasets; returns the data folder."""
    from flan_train.tasks.cot_options import DATASETS

    (folder / "cot").mkdir(parents=True)
    for dataset in DATASETS:
        if dataset not in leave_out:
            lines = ["\t".join(row(dataset, index)) for index in range(rows)]
            path = folder / "cot" / f"{dataset}_train.tsv"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder)
