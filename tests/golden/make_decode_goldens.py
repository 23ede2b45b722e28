"""Writes decode_<model>.npz: what Hugging Face's `generate` gives, greedily and by beam search.

    python -m tests.golden.make_decode_goldens

One model has seeded random weights, the other was trained for a moment to repeat its prompt, so
that its outputs end in different places. The file holds the weights that were trained. Needs
PyTorch and transformers; the tests that read the files do not.
"""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flan_train.convert.hf_table import flat
from flan_train.models import t5
from tests.models import seeded

FOLDER = pathlib.Path(__file__).parent
MODELS = ("random", "trained")
# transformers 5 caches only where both stacks are equally deep.
CONFIG = t5.T5Config(
    vocab_size=seeded.VOCABULARY,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
)
PROMPTS = 200
LONGEST = 12
NEW_TOKENS = 16
BEAMS = 4
PENALTIES = (-1.0, 0.0, 0.6, 1.0, 2.0)
EOS = 1
TRAINING_STEPS = 400


def prompts(name: str = "prompts", rows: int = PROMPTS) -> np.ndarray:
    """Returns int32 [rows, LONGEST], 0-padded: 2 to LONGEST tokens, the last one the end."""
    tokens = seeded.ids(f"decode/{name}", rows, LONGEST)
    lengths = 2 + np.arange(rows) * 7 % (LONGEST - 1)
    places = np.arange(LONGEST)
    tokens[places == lengths[:, None] - 1] = EOS
    return np.where(places < lengths[:, None], tokens, 0).astype(np.int32)


def trained(steps: int = TRAINING_STEPS) -> t5.Params:
    """Returns parameters after some steps of repeating prompts, rounded to what a file holds."""
    optimizer = optax.adam(3e-3)

    def loss(params: t5.Params, tokens: jax.Array) -> jax.Array:
        real = (tokens != 0).astype(jnp.int32)
        batch = {
            "encoder_input_tokens": tokens,
            "encoder_segment_ids": real,
            "decoder_input_tokens": jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
            "decoder_segment_ids": real,
        }
        losses = optax.softmax_cross_entropy_with_integer_labels(
            t5.apply(params, CONFIG, batch), tokens
        )
        return jnp.sum(losses * real) / jnp.sum(real)

    @jax.jit
    def update(params: t5.Params, state: optax.OptState, tokens: jax.Array) -> tuple:
        changes, state = optimizer.update(jax.grad(loss)(params, tokens), state)
        return optax.apply_updates(params, changes), state

    params = jax.tree.map(jnp.asarray, seeded.params(CONFIG, "trained"))
    state = optimizer.init(params)
    for step in range(steps):
        params, state = update(params, state, prompts(f"training/{step}", 64))
    return jax.tree.map(rounded, params)


def rounded(x: jax.Array) -> np.ndarray:
    """Returns x float32 as it is after a stay in a float16 file."""
    return np.asarray(x).astype(np.float16).astype(np.float32)


def generated(params: t5.Params, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what transformers generates: `greedy` int8 [B, NEW_TOKENS], 0 after the end, and for
    each length penalty `beam_<penalty>` and its `scores_<penalty>` float32 [B]."""
    import torch

    from tests.golden.make_hf_goldens import reference

    model = reference(CONFIG, params)
    # A model this small gains nothing from threads, which wait for each other by spinning.
    torch.set_num_threads(1)
    inputs = torch.from_numpy(tokens.astype(np.int64))

    def run(**options: object) -> tuple[np.ndarray, np.ndarray | None]:
        with torch.no_grad():
            found = model.generate(
                input_ids=inputs,
                attention_mask=(inputs != 0).long(),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
                **options,
            )
        padded = np.zeros((len(tokens), NEW_TOKENS), np.int8)
        padded[:, : found.sequences.shape[1] - 1] = found.sequences[:, 1:].numpy()
        # Beam search fills up with the end, as the padding is 0.
        ends = np.cumsum(padded == EOS, axis=1) - (padded == EOS)
        padded[ends > 0] = 0
        scores = getattr(found, "sequences_scores", None)
        return padded, None if scores is None else scores.numpy()

    arrays = {"greedy": run(num_beams=1)[0]}
    for penalty in PENALTIES:
        texts, scores = run(num_beams=BEAMS, length_penalty=penalty)
        assert scores is not None
        arrays |= {f"beam_{penalty}": texts, f"scores_{penalty}": scores}
    return arrays


def main() -> None:
    """Writes both files."""
    for name in MODELS:
        params = trained() if name == "trained" else seeded.params(CONFIG)
        arrays = generated(params, prompts())
        if name == "trained":
            arrays |= {
                f"params/{path}": np.asarray(leaf).astype(np.float16)
                for path, leaf in flat(params).items()
            }
        np.savez_compressed(FOLDER / f"decode_{name}.npz", **arrays)


if __name__ == "__main__":
    main()
