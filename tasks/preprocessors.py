"""The SeqIO side of a task: tokenise prompt candidates, take the first that fits, append EOS.

`flan_train.prepare` follows the same rule without TensorFlow; tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

AUTOTUNE = tf.data.experimental.AUTOTUNE


def tokenise(dataset: tf.data.Dataset, output_features: Mapping[str, Any]) -> tf.data.Dataset:
    """Adds the ids of every prompt candidate and of the targets, without EOS.

    Args:
      dataset: elements of `register.RenderedSource`: "candidates" string [C], the same prompt
        with fewer exemplars each, and "targets_pretokenized" string [].
      output_features: SeqIO features with their vocabularies.

    Returns:
      The dataset with "candidate_ids" int32 ragged [C, None] and "targets" int32 [None].
    """
    inputs, targets = output_features["inputs"].vocabulary, output_features["targets"].vocabulary

    def encode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {
            **example,
            "candidate_ids": inputs.encode_tf(example["candidates"]),
            "targets": targets.encode_tf(example["targets_pretokenized"]),
        }

    return dataset.map(encode, num_parallel_calls=AUTOTUNE)


def fit(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, Any],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Chooses the candidate with the most exemplars that fits, and appends EOS.

    With limits of 6 inputs and 4 targets, EOS included: candidates of 9, 5 and 3 ids give the
    second one; a lone candidate of 9 ids is cut to 5 and gets its EOS; an example with 4 target
    ids is dropped, because targets are never cut.

    Args:
      dataset: elements of `tokenise`.
      output_features: SeqIO features with their vocabularies.
      sequence_length: limits in tokens for "inputs" and "targets"; None or a missing key for no
        limit. It has a default because `seqio.Evaluator` measures the lengths itself only where no
        preprocessor insists on being told them.

    Returns:
      The dataset with "inputs" and "targets" int32 [None], EOS last, the chosen candidate's
      "inputs_pretokenized" and "shots", and without "candidates" and "candidate_ids".
    """
    limits = dict(sequence_length or {})
    input_limit, target_limit = limits.get("inputs"), limits.get("targets")
    input_eos = output_features["inputs"].vocabulary.eos_id
    target_eos = output_features["targets"].vocabulary.eos_id

    def choose(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        kept = dict(example)
        ids, texts = kept.pop("candidate_ids"), kept.pop("candidates")
        shots = kept.pop("candidate_shots")
        chosen = tf.constant(0, tf.int64)
        if input_limit is not None:
            fits = tf.cast(ids.row_lengths() + 1 <= input_limit, tf.int32)
            last = tf.cast(tf.size(texts) - 1, tf.int64)
            chosen = tf.where(tf.reduce_any(fits > 0), tf.argmax(fits), last)
        tokens = ids[chosen]
        if input_limit is not None:
            tokens = tokens[: input_limit - 1]
        return {
            **kept,
            "inputs": tf.concat([tokens, [input_eos]], axis=0),
            "targets": tf.concat([kept["targets"], [target_eos]], axis=0),
            "inputs_pretokenized": texts[chosen],
            "shots": shots[chosen],
        }

    dataset = dataset.map(choose, num_parallel_calls=AUTOTUNE)
    if target_limit is None:
        return dataset
    return dataset.filter(lambda example: tf.size(example["targets"]) <= target_limit)
