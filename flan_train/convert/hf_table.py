"""Which tensors of a Hugging Face T5 make which array of ours: one table, read both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flan_train.convert.slices import row_blocks
from flan_train.errors import UserError
from flan_train.models import t5

MAX_LAYERS = 10_000  # a stack deeper than this is a mistake, and its names alone would fill memory


@dataclasses.dataclass(frozen=True)
class Pattern:
    """One kind of tensor: their name ({layer} where there is one a layer) and our path."""

    theirs: str
    ours: str
    transposed: bool


def _attention(theirs: str, ours: str) -> list[Pattern]:
    letters = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return [
        Pattern(f"{theirs}.{letter}.weight", f"{ours}/{name}/kernel", True)
        for letter, name in letters.items()
    ]


def _mlp(theirs: str, ours: str) -> list[Pattern]:
    return [
        Pattern(f"{theirs}.DenseReluDense.{name}.weight", f"{ours}/{name}/kernel", True)
        for name in ("wi", "wi_0", "wi_1", "wo")
    ]


SHARED = "shared.weight"
LM_HEAD = "lm_head.weight"
# The names under which a folder may hold the token table, once or several times.
TOKEN_TABLES = (SHARED, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Old T5 1.0 folders carry this one; no program reads it, so it is left out.
UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

_RELPOS = "SelfAttention.relative_attention_bias.weight"
_ENCODER, _DECODER = "encoder.block.{layer}.layer", "decoder.block.{layer}.layer"

# Every tensor a T5 can have; a model has those whose path is in its own parameter tree.
TABLE: tuple[Pattern, ...] = (
    Pattern(SHARED, "token_embedder/embedding", False),
    Pattern(LM_HEAD, "decoder/logits_dense/kernel", True),
    Pattern(f"encoder.block.0.layer.0.{_RELPOS}", "encoder/relpos_bias/rel_embedding", True),
    Pattern(f"decoder.block.0.layer.0.{_RELPOS}", "decoder/relpos_bias/rel_embedding", True),
    Pattern("encoder.final_layer_norm.weight", "encoder/encoder_norm/scale", False),
    Pattern("decoder.final_layer_norm.weight", "decoder/decoder_norm/scale", False),
    *(
        Pattern(f"{theirs}.layer_norm.weight", f"{ours}/scale", False)
        for theirs, ours in (
            (f"{_ENCODER}.0", "encoder/layers/pre_attention_layer_norm"),
            (f"{_ENCODER}.1", "encoder/layers/pre_mlp_layer_norm"),
            (f"{_DECODER}.0", "decoder/layers/pre_self_attention_layer_norm"),
            (f"{_DECODER}.1", "decoder/layers/pre_cross_attention_layer_norm"),
            (f"{_DECODER}.2", "decoder/layers/pre_mlp_layer_norm"),
        )
    ),
    *_attention(f"{_ENCODER}.0.SelfAttention", "encoder/layers/attention"),
    *_attention(f"{_DECODER}.0.SelfAttention", "decoder/layers/self_attention"),
    *_attention(f"{_DECODER}.1.EncDecAttention", "decoder/layers/encoder_decoder_attention"),
    *_mlp(f"{_ENCODER}.1", "encoder/layers/mlp"),
    *_mlp(f"{_DECODER}.2", "decoder/layers/mlp"),
)


@dataclasses.dataclass(frozen=True)
class Source:
    """One array of ours and the tensors it is made of: one, or one a layer in order."""

    ours: str
    shape: tuple[int, ...]
    theirs: tuple[str, ...]
    stacked: bool
    transposed: bool

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape each of their tensors has."""
        one = self.shape[1:] if self.stacked else self.shape
        return one[::-1] if self.transposed else one

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """The chunks in which blocks of rows of their tensors are written to our array."""
        block = row_blocks(self.tensor_shape)
        block = block[::-1] if self.transposed else block
        return (1, *block) if self.stacked else block

    def index(self, layer: int, rows: slice) -> tuple[int | slice, ...]:
        """Returns where a block of rows of a layer's tensor is in our array."""
        own = (slice(None), rows) if self.transposed else (rows,)
        return (layer, *own) if self.stacked else own


def sources(config: t5.T5Config) -> list[Source]:
    """Returns how each array of the model's parameter tree is made, in the order of TABLE.

    Raises:
      UserError: the model has more layers than MAX_LAYERS.
    """
    layers = max(config.num_encoder_layers, config.num_decoder_layers)
    if layers > MAX_LAYERS:
        raise UserError(
            f"a T5 with {layers:,} layers is not converted", expected=f"up to {MAX_LAYERS:,}"
        )
    shapes = {path: leaf.shape for path, leaf in flat(t5.abstract_params(config)).items()}
    found = []
    for pattern in TABLE:
        if pattern.ours not in shapes:
            continue
        shape = shapes[pattern.ours]
        stacked = "{layer}" in pattern.theirs
        names = [pattern.theirs.format(layer=i) for i in range(shape[0] if stacked else 1)]
        found.append(Source(pattern.ours, shape, tuple(names), stacked, pattern.transposed))
    return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested tree as one level of paths joined by slashes."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}/")
        else:
            leaves[prefix + name] = value
    return leaves
