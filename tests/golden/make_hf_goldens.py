"""Writes hf_<model>.npz: what Hugging Face's T5 computes for seeded weights and fixed inputs.

    python -m tests.golden.make_hf_goldens

Needs PyTorch and transformers; the tests that read the files do not.
"""

from __future__ import annotations

import pathlib

import numpy as np
import torch
import transformers

from flan_train.convert.hf_config import config_to_hf
from flan_train.convert.hf_table import SHARED, flat, sources
from flan_train.models import t5
from tests.models import seeded

FOLDER = pathlib.Path(__file__).parent
# Input lengths beyond 128 reach the last relative position bucket.
LENGTHS = [(150, 12), (7, 9), (40, 1)]
LONG_TARGETS = [(20, 140), (30, 5)]
NEW_TOKENS = 16


def reference(config: t5.T5Config, params: t5.Params) -> transformers.T5ForConditionalGeneration:
    """Returns transformers' model with these parameters, in float32 on the CPU."""
    theirs = transformers.T5Config(**config_to_hf(config))
    model = transformers.T5ForConditionalGeneration(theirs).eval()
    if not config.tie_embeddings:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(config.vocab_size, config.embed_dim))
    arrays = flat(params)
    state = {}
    for source in sources(config):
        for i, name in enumerate(source.theirs):
            one = arrays[source.ours][i] if source.stacked else arrays[source.ours]
            state[name] = torch.from_numpy(np.array(one.T if source.transposed else one))
    copies = [key for key in model.state_dict() if key not in state]
    model.load_state_dict(state | dict.fromkeys(copies, state[SHARED]), strict=True)
    return model


@torch.no_grad()
def logits(
    model: transformers.T5ForConditionalGeneration, batch: dict[str, np.ndarray]
) -> np.ndarray:
    """Returns float32 logits [B, Lt, V] of a padded batch."""

    def tensor(name: str) -> torch.Tensor:
        return torch.from_numpy(batch[name].astype(np.int64))

    return model(
        input_ids=tensor("encoder_input_tokens"),
        attention_mask=tensor("encoder_segment_ids"),
        decoder_input_ids=tensor("decoder_input_tokens"),
        use_cache=False,
    ).logits.numpy()


@torch.no_grad()
def generate(
    model: transformers.T5ForConditionalGeneration, tokens: np.ndarray, length: int
) -> np.ndarray:
    """Returns int32 [B, length] greedily decoded tokens, 0 after the end."""
    tokens = torch.from_numpy(tokens.astype(np.int64))
    found = model.generate(
        input_ids=tokens,
        attention_mask=(tokens != 0).long(),
        max_new_tokens=length,
        do_sample=False,
        num_beams=1,
        # Its cache counts the encoder's layers, and fails where the decoder has more.
        use_cache=False,
    )
    padded = np.zeros((len(tokens), length), np.int32)
    padded[:, : found.shape[1] - 1] = found[:, 1:].numpy()
    return padded


def main() -> None:
    """Writes every file."""
    for name, config in seeded.ALL.items():
        model = reference(config, seeded.params(config))
        batch = seeded.padded(name, LENGTHS)
        arrays = batch | {"logits": logits(model, batch)}
        if name.endswith("small"):
            long = seeded.padded(f"{name}/long", LONG_TARGETS)
            arrays |= {f"long/{key}": value for key, value in long.items()}
            arrays["long/logits"] = logits(model, long)
        prompts = seeded.padded(f"{name}/prompts", [(n, 1) for n in (5, 11, 3, 17, 8, 2)])
        arrays["prompts"] = prompts["encoder_input_tokens"]
        arrays["generated"] = generate(model, arrays["prompts"], NEW_TOKENS)
        np.savez_compressed(FOLDER / f"hf_{name}.npz", **arrays)


if __name__ == "__main__":
    main()
