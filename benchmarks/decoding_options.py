"""Scores the options of multiple-choice prompts beside transformers, on the same weights.

  python benchmarks/decoding_options.py
  python benchmarks/decoding_options.py --prompts 16 --json results.json

T5 1.1 Small with random weights; prompts as long as five-shot MMLU's (400 to 500 tokens), each with
four options of two to four tokens. Ours encodes a prompt once for all its options. With
transformers every (prompt, option) pair is a row of a padded batch and goes through the whole
model, longest prompts first, so that little is padding; of the batch sizes tried the fastest
counts. The two sides take turns and their medians are compared, since a machine is rarely idle;
busy neighbours still cost PyTorch's threads more than ours: quote figures of an idle one. Compiling
is not counted. Needs PyTorch and transformers; exits with 1 where the numbers differ.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

OPTIONS = 4
SMALL = {
    "embed_dim": 512,
    "num_heads": 6,
    "mlp_dim": 1024,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
}
TOLERANCE = 1e-3  # of a sum over an option's tokens, in nats


def examples(count: int, vocabulary: int) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Returns prompts of 400 to 500 tokens and four options of 2 to 4 tokens each, EOS included."""
    draw = np.random.default_rng(5)

    def tokens(length: int) -> np.ndarray:
        return np.append(draw.integers(2, vocabulary, length - 1), 1).astype(np.int32)

    prompts = [tokens(length) for length in draw.integers(400, 501, count)]
    options = [[tokens(length) for length in draw.integers(2, 5, OPTIONS)] for _ in prompts]
    return prompts, options


def their_scores(
    model: Any,
    prompts: Sequence[np.ndarray],
    options: Sequence[Sequence[np.ndarray]],
    batch_size: int,
) -> np.ndarray:
    """Returns [prompts, options] summed log-likelihoods by PyTorch, one row per pair."""
    import torch

    pairs = [(p, o) for p in range(len(prompts)) for o in range(len(options[p]))]
    pairs.sort(key=lambda pair: -len(prompts[pair[0]]))
    found = np.zeros((len(prompts), OPTIONS), np.float32)
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        inputs = _padded([prompts[p] for p, _ in chunk])
        labels = _padded([options[p][o] for p, o in chunk])
        with torch.inference_mode():
            logits = model(
                input_ids=torch.from_numpy(inputs),
                attention_mask=torch.from_numpy((inputs != 0).astype(np.int64)),
                decoder_input_ids=torch.from_numpy(np.pad(labels, ((0, 0), (1, 0)))[:, :-1]),
            ).logits
            chosen = torch.log_softmax(logits, -1).gather(-1, torch.from_numpy(labels)[..., None])
        values = chosen[..., 0].numpy() * (labels != 0)
        for (p, o), row in zip(chunk, values, strict=True):
            found[p, o] = row.sum()
    return found


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    result = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for place, row in enumerate(rows):
        result[place, : len(row)] = row
    return result


def measure(
    prompts_count: int = 16,
    rounds: int = 5,
    batch_sizes: Sequence[int] = (4, 16, 32),
    sizes: Mapping[str, int] = SMALL,
) -> list[dict[str, Any]]:
    """Returns the figures as rows {name, ours, peer, peer_name, ratio, unit}.

    Args:
      prompts_count: how many prompts are scored at a time.
      rounds: how often each side scores them; medians count.
      batch_sizes: pairs that transformers is given at once, tried in a first round.
      sizes: fields of T5Config, another size than T5 1.1 Small's to try this out.

    Raises:
      SystemExit: the two sides' numbers differ.
    """
    import jax
    import torch
    import transformers

    from flan_train.convert import hf
    from flan_train.convert.hf_config import config_to_hf
    from flan_train.likelihood import OptionScorer
    from flan_train.models.t5 import T5Config

    small = T5Config(mlp_activation="gated-gelu", tie_embeddings=False, **sizes)
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config_to_hf(small))
    ).eval()
    # A fresh model shares its output with the token table, whatever its configuration says.
    output = torch.randn(small.vocab_size, small.embed_dim) * small.embed_dim**-0.5
    model.lm_head.weight = torch.nn.Parameter(output)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with hf.opened(folder) as opened:
            params, config = jax.device_put(opened.params()), opened.config
    prompts, options = examples(prompts_count, 32_000)
    scorer = OptionScorer(params, config, batch_size=min(16, prompts_count))

    def ours() -> np.ndarray:
        found = np.zeros((len(prompts), OPTIONS), np.float32)
        for index, values in scorer.score(prompts, options):
            found[index] = values
        return found

    def theirs(batch_size: int) -> np.ndarray:
        return their_scores(model, prompts, options, batch_size)

    ours()  # compiles
    best = min(batch_sizes, key=lambda size: _timed(lambda: theirs(size))[0])
    compiled = scorer.compilations
    seconds: tuple[list[float], list[float]] = ([], [])
    worst = 0.0
    for _ in range(rounds):
        mine, our_scores = _timed(ours)
        other, peer_scores = _timed(lambda: theirs(best))
        seconds[0].append(mine)
        seconds[1].append(other)
        worst = max(worst, float(np.abs(our_scores - peer_scores).max()))
    if worst > TOLERANCE or scorer.compilations != compiled:
        raise SystemExit(
            f"largest difference of a score {worst:.2g} (at most {TOLERANCE}); "
            f"{scorer.compilations - compiled} programs compiled while measuring"
        )
    pairs = len(prompts) * OPTIONS
    mine, other = (pairs / statistics.median(times) for times in seconds)
    peer = f"transformers {transformers.__version__}, PyTorch {torch.__version__}, batch {best}"
    return [
        {
            "name": "option scoring, T5 1.1 Small, prompts of 400-500 tokens, 4 options",
            "ours": mine,
            "peer": other,
            "peer_name": peer,
            "ratio": mine / other,
            "unit": "options/s",
        },
        {
            "name": "option scoring, largest difference of a score",
            "ours": worst,
            "peer": None,
            "peer_name": None,
            "ratio": None,
            "unit": "nats",
        },
    ]


def _timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def main() -> None:
    """Reads the command line, measures, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description="Option scoring beside transformers.")
    parser.add_argument("--prompts", type=int, default=16, help="prompts scored at a time")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--json", metavar="PATH", help="write the figures as a list")
    options = parser.parse_args()
    rows = measure(options.prompts, options.rounds)
    print(f"on {os.cpu_count()} cores")
    for row in rows:
        peer = ""
        if row["peer"]:
            peer = f", {row['peer']:,.4g} with {row['peer_name']}: x{row['ratio']:.2f}"
        print(f"{row['name']}: {row['ours']:,.4g} {row['unit']}{peer}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
