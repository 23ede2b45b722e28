"""The SeqIO face of the tasks: each definition as a `seqio.Task`, for any SeqIO user.

Imported only once SeqIO is there (see the package's import hook); nothing here reads data until
a dataset is asked for.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import seqio
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from flan_train.errors import UserError, unknown_name
from flan_train.tasks import answers, metrics, preprocessors, registry, sources
from flan_train.tasks.definitions import BadRow, TaskDefinition
from flan_train.tasks.protocol import Protocol

PACKAGED_VOCABULARY = (
    pathlib.Path(__file__).resolve().parent / "vocabularies" / "quickstart.spiece.model"
)
T5_VOCABULARY = pathlib.PurePosixPath("vocab", "t5_cc_all.32000.spiece.model")
_EXTRA_IDS = {"quickstart": 0, "t5": 100}


class LazyVocabulary(seqio.SentencePieceVocabulary):
    """A SentencePiece vocabulary whose file is looked up when it is first used.

    Args:
      name: "quickstart" (ships with the package) or "t5" (in the data folder, 100 extra ids).

    Raises:
      UserError: at first use, when the file or the data folder is missing.
    """

    _sentencepiece_model_file: str

    def __init__(self, name: str) -> None:
        if name not in _EXTRA_IDS:
            raise unknown_name("vocabulary", name, _EXTRA_IDS)
        self._short_name = name
        super().__init__(sentencepiece_model_file="", extra_ids=_EXTRA_IDS[name])

    @property
    def sentencepiece_model_file(self) -> str:
        """The file's path, resolved now."""
        if self._short_name == "quickstart":
            path = PACKAGED_VOCABULARY
            fix = "install the package again"
        else:
            path = sources.resolve_data_dir(None) / T5_VOCABULARY
            fix = f"put T5's vocabulary there ({T5_VOCABULARY.name})"
        if not path.is_file():
            raise UserError("the vocabulary file is missing", where=str(path), fix=fix)
        return str(path)

    def _model_context(self) -> Any:
        if not self._sentencepiece_model_file:
            self._sentencepiece_model_file = self.sentencepiece_model_file
        return super()._model_context()

    def __eq__(self, other: object) -> bool:
        """Whether both give any text the same ids; among vocabularies of ours reads no file.

        T5X compares a task's vocabulary with its model's, whose file has another path and which
        may have the extra ids in the file.
        """
        if isinstance(other, LazyVocabulary):
            return self._short_name == other._short_name
        if not isinstance(other, seqio.SentencePieceVocabulary):
            return False
        return _pieces(self) == _pieces(other)

    def __hash__(self) -> int:
        return hash(self._short_name)


def _pieces(
    vocabulary: seqio.SentencePieceVocabulary,
) -> tuple[bytes, int, list[tuple[str, float, int]]]:
    """Returns what a model's ids follow from: how it normalises, its size, its ordinary pieces."""
    model = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.sp_model)
    ordinary = [
        (piece.piece, piece.score, piece.type)
        for piece in model.pieces
        # Extra ids, which no text has; they are spelt in more than one way.
        if piece.type != sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
    ]
    spec = model.normalizer_spec.SerializeToString(deterministic=True)
    return spec, len(model.pieces), ordinary


class RenderedSource(seqio.DataSource):
    """A SeqIO data source over a task's rows, rendered by the task's own plain function.

    Elements: "candidates" string [C] and "candidate_shots" int32 [C] (the prompt with the most
    exemplars first, down to none), "targets_pretokenized" and the record of the rendering. The
    data folder is the one that FLAN_DATA_DIR names. The seed of `get_dataset` is the seed of the
    rendering; without one it is 0.
    """

    def __init__(self, definition: TaskDefinition) -> None:
        self._definition = definition
        super().__init__(splits=definition.splits)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: SeqIO shards the examples instead."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """One shard, named after the split."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Number of usable rows; raises UserError when the source is missing."""
        return self._definition.num_examples(split, None)

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: Any = None,
        shard_info: Any = None,
        **_: Any,
    ) -> tf.data.Dataset:
        """Returns the split's rows, rendered, in the order of the source.

        Raises:
          UserError: the source is missing; while iterating, SeqIO's own error that holds the
            message of the first bad row.
        """
        if shard_info and shard_info.num_shards > 1:
            raise ValueError("the source has one shard; SeqIO shards the examples")
        problem = self._definition.available(None)
        if problem:
            raise UserError(f"task {self._definition.name} has no data", fix=problem)
        rendering_seed = 0 if seed is None else int(seed)
        return tf.data.Dataset.from_generator(
            lambda: _elements(self._definition, split, rendering_seed),
            output_signature=_SIGNATURE,
        )


_SIGNATURE = {
    "candidates": tf.TensorSpec([None], tf.string),
    "candidate_shots": tf.TensorSpec([None], tf.int32),
    "targets_pretokenized": tf.TensorSpec([], tf.string),
    "task": tf.TensorSpec([], tf.string),
    "template_id": tf.TensorSpec([], tf.string),
    "form": tf.TensorSpec([], tf.string),
    "example_id": tf.TensorSpec([], tf.string),
    "options": tf.TensorSpec([None], tf.string),
    "answer": tf.TensorSpec([], tf.string),
    "references": tf.TensorSpec([None], tf.string),
    "target_text": tf.TensorSpec([], tf.string),
}


def _elements(definition: TaskDefinition, split: str, seed: int) -> Iterator[dict[str, Any]]:
    for row in definition.rows(split, None):
        if isinstance(row, BadRow):
            raise UserError(
                f"bad row: {row.reason}: {row.found}", where=row.where, expected=row.expected
            )
        candidates = list(definition.candidates(row, seed, None))
        first = candidates[0]
        yield {
            "candidates": [rendered.inputs for rendered in candidates],
            "candidate_shots": [rendered.shots for rendered in candidates],
            "targets_pretokenized": first.targets,
            "task": first.task,
            "template_id": first.template_id,
            "form": first.form,
            "example_id": first.example_id,
            "options": list(first.options),
            "answer": first.answer,
            "references": list(first.references),
            "target_text": first.target_text,
        }


# What needs no more than outputs and right answers, which is all that SeqIO hands over.
_OF_OUTPUTS = (
    *("exact_match", "accuracy", "normalized", "f1", "rouge1", "rouge2", "rougeL", "bleu"),
)


class Measure:
    """SeqIO's metric function of a task: its metrics of `tasks.metrics`, in percent."""

    def __init__(self, definition: TaskDefinition) -> None:
        """Remembers the task.

        Args:
          definition: whose metrics are computed, but for those that take more than outputs.
        """
        self._style = definition.extraction
        self._chance = definition.chance
        protocol = Protocol.of(definition)
        self._names = [name for name in metrics.names_of(protocol) if name in _OF_OUTPUTS]

    def __call__(
        self, targets: Sequence[tuple[str, ...]], predictions: Sequence[str | None]
    ) -> dict[str, float]:
        """Returns {metric: percent} of what `ReadAnswer` made of targets and outputs."""
        examples = [
            {
                "extracted": found,
                "answer": right[0],
                "references": right,
                "correct": answers.is_right(found, right, self._style),
                "chance": self._chance,
            }
            for right, found in zip(targets, predictions, strict=True)
        ]
        measured = {}
        for name in self._names if examples else ():
            metric = metrics.METRICS[name]
            measured[name] = 100 * metric.score([metric.values(each) for each in examples])
        return measured


class ReadAnswer:
    """SeqIO post-processing: the answer that an output gives, or all that are right."""

    def __init__(self, extraction: str) -> None:
        self._extraction = extraction

    def __call__(
        self, output: str, example: Any = None, is_target: bool = False, **_: Any
    ) -> str | tuple[str, ...] | None:
        """Returns the answer, or None when none can be read out of the output.

        For the target: every answer that is right.
        """
        known = {} if example is None else example
        if is_target and example is not None:
            right = list(known.get("references", ())) or [known["answer"]]
            return tuple(map(tf.compat.as_text, right))
        options = [tf.compat.as_text(option) for option in known.get("options", ())]
        return answers.extract(output, self._extraction, options)


class RenderedTask(seqio.Task):
    """A task of which a further epoch begins after everything that can leave examples out.

    SeqIO repeats the rows and then drops; where all are dropped, an endless dataset never comes to
    an example nor to an end, and a mixture waits for it for ever.
    """

    def get_dataset(
        self, *arguments: Any, num_epochs: int | None = 1, **named: Any
    ) -> tf.data.Dataset:
        """Returns what `seqio.Task.get_dataset` does, `num_epochs` times; None is endlessly.

        Each time in another order, where `shuffle` is set. Ends at once if there is no example.
        """
        dataset = super().get_dataset(*arguments, num_epochs=1, **named)
        return dataset if num_epochs == 1 else dataset.repeat(num_epochs)


def add_task(definition: TaskDefinition) -> seqio.Task:
    """Registers one definition with SeqIO and returns the task."""
    vocabulary = LazyVocabulary(definition.default_vocabulary)
    feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
    return seqio.TaskRegistry.add(
        definition.name,
        source=RenderedSource(definition),
        output_features={"inputs": feature, "targets": feature},
        preprocessors=[preprocessors.tokenise, preprocessors.fit],
        postprocess_fn=ReadAnswer(definition.extraction),
        metric_fns=[Measure(definition)],
        task_cls=RenderedTask,
    )


def register(definition: TaskDefinition) -> None:
    """Registers a definition unless SeqIO has a task of that name; reads no data."""
    if definition.name not in seqio.TaskRegistry.names():
        add_task(definition)


def unregister(name: str) -> None:
    """Takes a task out of SeqIO's registry again, if it is one of ours."""
    known = name in seqio.TaskRegistry.names()
    if known and isinstance(seqio.TaskRegistry.get(name).source, RenderedSource):
        seqio.TaskRegistry.remove(name)


def register_all() -> None:
    """Registers every task that SeqIO does not know yet; reads no data."""
    for name in registry.names():
        register(registry.get(name))


register_all()
