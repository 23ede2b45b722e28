"""Small models whose weights follow from their names, the same on every machine.

Golden files then hold inputs and results alone. Weights come from SHAKE-256 of the parameter's
path: unlike a random generator's stream, that can never change between library versions.
"""

from __future__ import annotations

import hashlib

import numpy as np

from flan_train.convert.hf_table import flat
from flan_train.models import t5

VOCABULARY = 64


def _size(version: str, embed: int, heads: int, head_dim: int, mlp: int) -> t5.T5Config:
    return t5.T5Config(
        vocab_size=VOCABULARY,
        embed_dim=embed,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=mlp,
        num_encoder_layers=2,
        num_decoder_layers=2,
        mlp_activation="gated-gelu" if version == "1_1" else "relu",
        tie_embeddings=version == "1_0",
    )


# Every published size at reduced width: heads * head_dim / embed and mlp / embed are the real ones.
SIZES: dict[str, t5.T5Config] = {
    "t5_1_1_small": _size("1_1", 32, 3, 8, 64),
    "t5_1_1_base": _size("1_1", 24, 3, 8, 64),
    "t5_1_1_large": _size("1_1", 32, 4, 8, 88),
    "t5_1_1_xl": _size("1_1", 32, 8, 4, 80),
    "t5_1_1_xxl": _size("1_1", 64, 8, 8, 160),
    "t5_1_0_small": _size("1_0", 32, 4, 8, 128),
    "t5_1_0_base": _size("1_0", 24, 3, 8, 96),
    "t5_1_0_large": _size("1_0", 32, 8, 4, 128),
    "t5_1_0_xl": _size("1_0", 16, 8, 8, 256),
    "t5_1_0_xxl": _size("1_0", 8, 16, 8, 512),
}

# Both tied to their MLP kind above; these two cross them, with unlike stacks.
CROSSED: dict[str, t5.T5Config] = {
    "t5_gated_tied": t5.T5Config(
        vocab_size=VOCABULARY,
        embed_dim=16,
        num_heads=2,
        head_dim=8,
        mlp_dim=24,
        num_encoder_layers=1,
        num_decoder_layers=3,
        mlp_activation="gated-gelu",
        tie_embeddings=True,
    ),
    "t5_relu_untied": t5.T5Config(
        vocab_size=VOCABULARY,
        embed_dim=16,
        num_heads=4,
        head_dim=8,
        mlp_dim=24,
        num_encoder_layers=3,
        num_decoder_layers=1,
        mlp_activation="relu",
        tie_embeddings=False,
    ),
}

ALL = SIZES | CROSSED


def params(config: t5.T5Config, seed: str = "") -> t5.Params:
    """Returns float32 numpy parameters: uniform, with about T5's standard deviations."""
    tree: t5.Params = {}
    for path, leaf in flat(t5.abstract_params(config)).items():
        count = int(np.prod(leaf.shape))
        stream = hashlib.shake_256(f"{seed}{path}".encode()).digest(4 * count)
        draw = np.frombuffer(stream, "<u4").reshape(leaf.shape) / 2**31 - 1.0
        if path.endswith("scale"):
            value = 1.0 + 0.2 * draw
        elif path.endswith("rel_embedding"):
            value = 1.5 * draw
        elif path.endswith("embedding"):
            # A tied output on rows as large as T5's would only ever repeat the last token.
            value = (0.5 if config.tie_embeddings else 3**0.5) * draw
        else:
            value = (3 / leaf.shape[-2]) ** 0.5 * draw
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value.astype(np.float32)
    return tree


def ids(name: str, rows: int, length: int) -> np.ndarray:
    """Returns int32 [rows, length] tokens from 2 up, the same for the same name."""
    stream = hashlib.shake_256(name.encode()).digest(4 * rows * length)
    draw = np.frombuffer(stream, "<u4").reshape(rows, length)
    return (2 + draw % (VOCABULARY - 2)).astype(np.int32)


def padded(name: str, lengths: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    """Returns a batch of one example a row, of the given (input, target) lengths, 0-padded."""
    batch: dict[str, np.ndarray] = {}
    for side, column in (("encoder", 0), ("decoder", 1)):
        sizes = np.array([pair[column] for pair in lengths])
        length = int(sizes.max())
        real = np.arange(length) < sizes[:, None]
        tokens = ids(f"{name}/{side}", len(lengths), length)
        if side == "decoder":
            tokens[:, 0] = 0
        batch[f"{side}_input_tokens"] = np.where(real, tokens, 0).astype(np.int32)
        batch[f"{side}_segment_ids"] = real.astype(np.int32)
        batch[f"{side}_positions"] = np.where(real, np.arange(length), 0).astype(np.int32)
    return batch


def packed(
    batch: dict[str, np.ndarray], rows: list[list[int]], room: int = 2
) -> dict[str, np.ndarray]:
    """Returns the rows of `batch` packed as told: [[2, 0], [1]] puts 2 and 0 in the first row.

    `room` places of padding stay at the end of the fullest row.
    """
    result: dict[str, np.ndarray] = {}
    for side in ("encoder", "decoder"):
        sizes = batch[f"{side}_segment_ids"].sum(axis=1)
        length = max(sum(sizes[i] for i in row) for row in rows) + room
        for name in ("input_tokens", "segment_ids", "positions"):
            result[f"{side}_{name}"] = np.zeros((len(rows), length), np.int32)
        for r, row in enumerate(rows):
            start = 0
            for segment, i in enumerate(row):
                place = slice(start, start + sizes[i])
                tokens = batch[f"{side}_input_tokens"][i, : sizes[i]]
                result[f"{side}_input_tokens"][r, place] = tokens
                result[f"{side}_segment_ids"][r, place] = segment + 1
                result[f"{side}_positions"][r, place] = np.arange(sizes[i])
                start += sizes[i]
    return result


def unpacked_logits(
    logits: np.ndarray, batch: dict[str, np.ndarray], rows: list[list[int]]
) -> dict[int, np.ndarray]:
    """Returns {example: its rows of logits} from the logits of `packed(batch, rows)`."""
    found = {}
    for r, row in enumerate(rows):
        start = 0
        for i in row:
            size = int(batch["decoder_segment_ids"][i].sum())
            found[i] = logits[r, start : start + size]
            start += size
    return found
