"""Our model and the harness's own, on the same weights, answer the same requests alike."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Any

import pytest

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra eval)")

from flan_train.convert import hf
from flan_train.convert.hf_config import config_to_hf
from flan_train.models import t5
from flan_train.vocabulary import load_vocabulary

TINY = t5.T5Config(
    vocab_size=32128,
    embed_dim=16,
    num_heads=2,
    head_dim=8,
    mlp_dim=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    mlp_activation="gated-gelu",
    tie_embeddings=False,
)
TEXTS = ["Which is bigger, 3 or 4?\nAnswer:", "Hello there, world.  ", "Is it?", "One more, " * 12]
MODEL_LENGTH = 32


@pytest.mark.torch
def test_the_harness_s_own_encoder_decoder_says_the_same(
    tmp_path: pathlib.Path, flan_data_dir: pathlib.Path
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="the harness's own model needs accelerate")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from flan_train.harness import FlanTrainLM

    words = load_vocabulary("t5", flan_data_dir)
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config_to_hf(TINY))
    ).eval()
    output = torch.randn(TINY.vocab_size, TINY.embed_dim)
    model.lm_head.weight = torch.nn.Parameter(output)
    model.save_pretrained(tmp_path / "hf")
    with hf.opened(tmp_path / "hf") as folder:
        params, config = folder.params(), folder.config
    shutil.copy(words.path, tmp_path / "hf" / "spiece.model")
    theirs = HFLM(
        pretrained=model,
        tokenizer=transformers.AutoTokenizer.from_pretrained(tmp_path / "hf"),
        backend="seq2seq",
        device="cpu",
        batch_size=4,
        max_length=MODEL_LENGTH,
    )
    # It ties the output to the token table of any model it is given.
    theirs.model.lm_head.weight = torch.nn.Parameter(output)
    ours = FlanTrainLM(params, config, words, batch_size=4, max_length=MODEL_LENGTH)

    def ask(kind: str, arguments: list[tuple[Any, ...]]) -> tuple[list[Any], list[Any]]:
        found = []
        for asked in (theirs, ours):
            requests = [
                Instance(request_type=kind, doc={}, arguments=given, idx=place)
                for place, given in enumerate(arguments)
            ]
            found.append(getattr(asked, kind)(requests, disable_tqdm=True))
        return found[0], found[1]

    pairs = [(text, wanted) for text in TEXTS for wanted in (" yes", " no, never", "(A)")]
    wanted, found = ask("loglikelihood", [*pairs, ("", "one two")])
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    wanted, found = ask("loglikelihood_rolling", [(text,) for text in TEXTS])
    assert found == pytest.approx(wanted, rel=1e-6)
    kwargs = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
    wanted, found = ask("generate_until", [(text, dict(kwargs)) for text in TEXTS])
    # Theirs goes on for as many tokens more as the prompt has.
    assert [text[: len(said)] for text, said in zip(wanted, found, strict=True)] == found
    assert all(found)
