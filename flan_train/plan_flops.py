"""What a T5 needs, by its formula: the floating point operations that no rewriting can save."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flan_train.models.config import T5Config


def model_flops(model: T5Config, batch_size: int, inputs: int, targets: int) -> float:
    """Returns the operations of one update of a whole batch, recomputation not counted.

    Matrix multiplications alone, two operations a multiplication and addition, the gradient twice
    the forward pass. Attention counts all pairs of places, masked ones too. Embedding a token is a
    lookup and counts nothing. Source: Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B,
    carried over to an encoder-decoder.

    Args:
      model: whose shape.
      batch_size: rows.
      inputs, targets: places of a row.
    """
    d, hk = model.embed_dim, model.num_heads * model.head_dim
    mlp = (3 if model.gated else 2) * d * model.mlp_dim
    encoder_place = 4 * d * hk + mlp + 2 * hk * inputs
    # Cross-attention takes its keys and values of the inputs, once a layer.
    decoder_place = 4 * d * hk + 2 * d * hk + mlp + 2 * hk * (targets + inputs)
    cross_keys = 2 * d * hk
    forward = inputs * model.num_encoder_layers * encoder_place
    forward += model.num_decoder_layers * (targets * decoder_place + inputs * cross_keys)
    forward += targets * d * model.vocab_size
    return 3.0 * 2.0 * batch_size * forward
