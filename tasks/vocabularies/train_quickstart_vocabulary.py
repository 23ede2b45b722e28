"""Trains the quickstart's vocabulary: python tasks/vocabularies/train_quickstart_vocabulary.py

A byte-pair-encoding SentencePiece model over rendered quickstart examples of the training
families, all wordings and the stock of words. One thread, fixed text and no paths in the file:
the same SentencePiece version (0.2.1 made the committed file) writes the same bytes; another
version may write its fields differently. `--check` writes nothing and says whether the committed
file is what training gives.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import pathlib
import string
import sys
from collections.abc import Iterator

import sentencepiece

from flan_train.tasks import quickstart
from flan_train.tasks.definitions import BadRow
from flan_train.tasks.procedural import words

VOCABULARY = pathlib.Path(__file__).resolve().parent / "quickstart.spiece.model"
# The least multiple of 128 at which every word of the tasks is one piece (a unigram model of 640
# pieces cut "and" and "What" in two).
PIECES = 896
ROWS_PER_TASK = 200
# Often enough that a word which few instances use becomes a piece of its own.
WORD_REPEATS = 100


def corpus() -> Iterator[str]:
    """Yields the lines that the vocabulary is trained on, always the same ones."""
    # Every printable ASCII character is a piece, whether or not a task has it.
    yield " ".join(string.ascii_letters + string.digits + string.punctuation)
    for task in quickstart.definitions():
        if not task.held_out:
            for row in itertools.islice(task.rows("train"), ROWS_PER_TASK):
                if isinstance(row, BadRow):
                    raise ValueError(f"{row.where}: {row.reason}: {row.found}")
                rendered = task.render(row, seed=0)
                yield rendered.inputs
                yield rendered.targets
    prompts = json.loads(quickstart.PROMPTS.read_text(encoding="utf-8"))
    for forms in prompts.values():
        for wordings in forms.values():
            for wording in wordings:
                # Slots vanish, so that their names do not become pieces.
                for text in (wording["inputs"], wording["targets"]):
                    yield "".join(part.rpartition("}")[2] for part in text.split("{"))
    kinds = (word for members in words.KINDS.values() for word in members)
    stock = (*words.NAMES, *words.THINGS, *words.OBJECTS, *words.SEATS, *words.OCCASIONS,
             *words.PROJECTS, *words.WEEKDAYS, *words.MONTHS, *words.LETTERS,
             *words.NUMBER_WORDS, *kinds)  # fmt: skip
    for word in stock:
        yield from [word] * WORD_REPEATS


def train() -> bytes:
    """Returns the serialized SentencePiece model: pad 0, eos 1, unk 2, then the pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        # Layout is part of a prompt: line ends are pieces, runs of spaces stay.
        user_defined_symbols=["\n"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        byte_fallback=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> int:
    """Writes the vocabulary, or compares it under `--check`; returns the exit status."""
    parser = argparse.ArgumentParser(description="Train the quickstart vocabulary.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    trained = train()
    if arguments.check:
        same = VOCABULARY.is_file() and VOCABULARY.read_bytes() == trained
        print(f"{VOCABULARY.name}: {'as trained' if same else 'differs from what training gives'}")
        return 0 if same else 1
    VOCABULARY.write_bytes(trained)
    print(f"{VOCABULARY}: {PIECES} pieces, {len(trained):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
