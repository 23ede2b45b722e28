"""The features of packed sequences, from the ids of their examples.

Two examples, inputs [5 6 1] -> targets [7 1], and [8 1] -> [9 4 1], in one sequence of 6 + 6:

    encoder_input_tokens    5 6 1 8 1 0        decoder_target_tokens   7 1 9 4 1 0
    encoder_segment_ids     1 1 1 2 2 0        decoder_input_tokens    0 7 0 9 4 0
    encoder_positions       0 1 2 0 1 0        decoder_loss_weights    1 1 1 1 1 0
                                               decoder_segment_ids     1 1 2 2 2 0
                                               decoder_positions       0 1 0 1 2 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FEATURES = (
    "encoder_input_tokens",
    "encoder_segment_ids",
    "encoder_positions",
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
    "decoder_segment_ids",
    "decoder_positions",
)
Batch = dict[str, np.ndarray]
Lengths = Mapping[str, int] | tuple[int, int]


def assemble(examples: Sequence[tuple[np.ndarray, np.ndarray]], lengths: Lengths) -> Batch:
    """Returns one packed sequence: the features of the examples in turn, each of shape [L].

    Args:
      examples: ids of inputs and targets, EOS included.
      lengths: {"inputs": L of the encoder, "targets": L of the decoder}, or the two in that order.

    Raises:
      ValueError: the examples do not fit.
    """
    batch = _from_pairs(examples, np.zeros(len(examples), np.int64), 1, lengths)
    return {name: array[0] for name, array in batch.items()}


def unpacked(examples: Sequence[tuple[np.ndarray, np.ndarray]], lengths: Lengths) -> Batch:
    """Returns the same features with one example a sequence, each of shape [n, L].

    Args and raises: as `assemble`.
    """
    rows = np.arange(len(examples), dtype=np.int64)
    return _from_pairs(examples, rows, len(examples), lengths)


def _from_pairs(
    examples: Sequence[tuple[np.ndarray, np.ndarray]],
    rows: np.ndarray,
    count: int,
    lengths: Lengths,
) -> Batch:
    sizes = np.array([(len(a), len(b)) for a, b in examples], np.int64).reshape(-1, 2)
    parts = [np.asarray(part) for example in examples for part in example]
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return assemble_rows(tokens, sizes, rows, count, lengths)


def assemble_rows(
    tokens: np.ndarray, sizes: np.ndarray, rows: np.ndarray, count: int, lengths: Lengths
) -> Batch:
    """Returns a batch of packed sequences, each feature of shape [count, L].

    Args:
      tokens: ids on end, inputs then targets of each example (`PreparedDataset.read`).
      sizes: int [k, 2], tokens of inputs and targets of each example.
      rows: int [k], the sequence each example goes into, in rising order.
      count: number of sequences.
      lengths: as `assemble`.

    Raises:
      ValueError: the examples of a sequence do not fit.
    """
    capacity = capacity_of(lengths)
    sizes = sizes.astype(np.int64)
    ends = sizes.sum(axis=1).cumsum()
    starts = ends - sizes.sum(axis=1)
    first = np.searchsorted(rows, rows, side="left")  # of each example: the first of its sequence
    segments = np.arange(len(rows)) - first + 1
    batch: Batch = {}
    for side, name in enumerate(("encoder", "decoder")):
        size = sizes[:, side]
        before = size.cumsum() - size
        column = before - before[first] if len(rows) else before
        if len(rows) and int((column + size).max()) > capacity[side]:
            worst = int((column + size).argmax())
            raise ValueError(
                f"sequence {int(rows[worst])} needs {int((column + size)[worst])} {name} tokens, "
                f"its side holds {capacity[side]}"
            )
        position = np.arange(int(size.sum())) - np.repeat(before, size)
        source = position + np.repeat(starts + (sizes[:, 0] if side else 0), size)
        place = position + np.repeat(rows * capacity[side] + column, size)
        ids = tokens[source].astype(np.int32)
        values = {"segment_ids": np.repeat(segments, size), "positions": position}
        if side == 0:
            values["input_tokens"] = ids
        else:
            shifted = np.zeros_like(ids)
            shifted[1:] = ids[:-1]
            shifted[position == 0] = 0
            values["input_tokens"] = shifted
            values["target_tokens"] = ids
        for feature, value in values.items():
            flat = np.zeros(count * capacity[side], np.int32)
            flat[place] = value
            batch[f"{name}_{feature}"] = flat.reshape(count, capacity[side])
    batch["decoder_loss_weights"] = (batch["decoder_segment_ids"] > 0).astype(np.float32)
    return {name: batch[name] for name in FEATURES}


def capacity_of(lengths: Lengths) -> tuple[int, int]:
    """Returns the encoder and decoder side of a sequence in tokens."""
    if isinstance(lengths, Mapping):
        return int(lengths["inputs"]), int(lengths["targets"])
    return int(lengths[0]), int(lengths[1])
