"""Generation and option scoring beside transformers on the CPU, on the same weights: one run.

  python benchmarks/decoding.py --json results.json
  python benchmarks/decoding.py --quick --only greedy

Sections: greedy (here) and options (decoding_options.py). T5 1.1 Small, random weights, float32.

greedy: 16 prompts of 64 tokens, 128 new tokens each; nothing ends an output on either side. The
outputs of both sides are compared in every round, token for token. Both sides use every core;
PyTorch is measured with one thread as well, because its threads wait for each other by spinning and
lose much of their time where other processes want the cores too; its faster way counts. The sides
take turns, and of each the fastest round counts, being the least disturbed one. Compiling is not
counted; what it takes is printed.

Needs PyTorch and transformers. Takes some minutes; --quick uses a tiny model, to show that every
part works: its figures mean nothing. Exit code 1: the two sides' outputs differ.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import decoding_options
import numpy as np
from input_pipeline_parts import figures

BATCH, PROMPT, NEW_TOKENS = 16, 64, 128
SMALL = {
    "embed_dim": 512,
    "num_heads": 6,
    "mlp_dim": 1024,
    "num_encoder_layers": 8,
    "num_decoder_layers": 8,
}
TINY = {
    "embed_dim": 16,
    "num_heads": 2,
    "mlp_dim": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
}
Rows = list[dict[str, Any]]


def greedy(rounds: int, quick: bool) -> tuple[Rows, list[figures.Bar]]:
    """Returns the figures and the bar of greedy decoding.

    Raises:
      SystemExit: the outputs of the two sides differ.
    """
    import jax
    import torch
    import transformers

    from flan_train.convert import hf
    from flan_train.convert.hf_config import config_to_hf
    from flan_train.decode import Generator
    from flan_train.models.t5 import T5Config

    size = TINY if quick else SMALL
    asked = T5Config(mlp_activation="gated-gelu", tie_embeddings=False, **size)
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**config_to_hf(asked)))
    # A fresh model shares its output with the token table, whatever its configuration says.
    output = torch.randn(asked.vocab_size, asked.embed_dim) * asked.embed_dim**-0.5
    model.lm_head.weight = torch.nn.Parameter(output)
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with hf.opened(folder) as opened:
            params, config = jax.device_put(opened.params()), opened.config
    # Nothing ends an output, on either side.
    model.generation_config.eos_token_id = None
    generator = Generator(params, config, batch_size=BATCH, eos_id=-1)
    new_tokens = 8 if quick else NEW_TOKENS
    prompts = np.random.default_rng(7).integers(2, 32_000, (BATCH, PROMPT)).astype(np.int32)

    def ours() -> np.ndarray:
        found = np.zeros((BATCH, new_tokens), np.int32)
        for index, (generated,) in generator.generate(list(prompts), max_length=new_tokens):
            found[index] = generated.tokens
        return found

    def theirs(threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        inputs = torch.from_numpy(prompts.astype(np.int64))
        with torch.inference_mode():
            found = model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=new_tokens,
                do_sample=False,
                num_beams=1,
            )
        return found[:, 1:].numpy()

    seconds, expected = timed(ours)
    print(f"greedy: first call, compiling included: {seconds:.1f} s", flush=True)
    compiled = generator.compilations
    every = os.cpu_count() or 1
    sides: dict[str, Callable[[], np.ndarray]] = {"ours": ours}
    for threads in sorted({1, every}):
        sides[f"{threads} thread{'s' * (threads > 1)}"] = lambda n=threads: theirs(n)
    best = dict.fromkeys(sides, float("inf"))
    for number in range(rounds):
        for name, run in sides.items():
            seconds, found = timed(run)
            if not np.array_equal(found, expected):
                raise SystemExit(f"greedy: the outputs differ ({name}, round {number})")
            best[name] = min(best[name], seconds)
    if generator.compilations != compiled:
        raise SystemExit("greedy: a program was compiled while measuring")
    rates = {name: BATCH * new_tokens / seconds for name, seconds in best.items()}
    mine = rates.pop("ours")
    print("greedy: PyTorch with " + ", ".join(f"{k}: {v:,.0f} tokens/s" for k, v in rates.items()))
    peer = max(rates, key=rates.__getitem__)
    figure = figures.Figure(
        f"greedy: T5 1.1 Small, float32, batch {BATCH}, {new_tokens} new tokens",
        mine,
        "tokens/s",
        rates[peer],
        f"transformers {transformers.__version__}, PyTorch {torch.__version__}, {peer}",
    )
    return [figure.row()], [figures.Bar("greedy: times transformers", figure.ratio, 1.5, "x")]


def options(rounds: int, quick: bool) -> tuple[Rows, list[figures.Bar]]:
    """Returns the figures and the bar of option scoring."""
    if quick:
        rows = decoding_options.measure(2, rounds, (4,), TINY)
    else:
        rows = decoding_options.measure(rounds=rounds)
    ratio = next(row["ratio"] for row in rows if row["peer"])
    return rows, [figures.Bar("options: times transformers", ratio, 3.0, "x")]


SECTIONS = {"greedy": greedy, "options": options}


def timed(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Returns the seconds that a call takes, and what it returns."""
    begun = time.perf_counter()
    found = run()
    return time.perf_counter() - begun, found


def main() -> int:
    """Reads the command line, runs the sections, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--json", metavar="PATH", help="write the figures as a list")
    parser.add_argument(
        "--only", metavar="SECTIONS", default=",".join(SECTIONS), help="comma-separated; else all"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--quick", action="store_true", help="a tiny model, one round")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown sections {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    rows: Rows = []
    bars = []
    for name in names:
        found, reached = SECTIONS[name](1 if arguments.quick else arguments.rounds, arguments.quick)
        rows += found
        bars += reached
        for row in found:
            beside = f", {row['peer']:,.4g} with {row['peer_name']}" if row["peer"] else ""
            times = f": x{row['ratio']:.2f}" if row["ratio"] else ""
            print(f"{row['name']}: {row['ours']:,.4g} {row['unit']}{beside}{times}", flush=True)
    print(f"\nbars\n{figures.bars_table(bars)}")
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
