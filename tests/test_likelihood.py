"""Options packed behind one prompt get what plain teacher forcing gives each of them alone."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flan_train import decode, likelihood, sharding
from flan_train.likelihood import OptionScorer, padded_length
from flan_train.models import t5
from tests.models import seeded

UNTIED = seeded.CROSSED["t5_relu_untied"]
TIED = dataclasses.replace(seeded.CROSSED["t5_gated_tied"], scan_layers=False)
WIDE = seeded.SIZES["t5_1_1_xxl"]  # divides over every mesh of eight devices

forward = jax.jit(t5.apply, static_argnums=1)


def tokens(name: str, length: int) -> np.ndarray:
    """Returns so many tokens, the last of them EOS."""
    return np.append(seeded.ids(name, 1, length - 1)[0], 1).astype(np.int32)


PROMPTS = [tokens(f"prompt {length}", length) for length in (5, 70, 1, 64, 33)]
OPTIONS = [
    [tokens(f"option {prompt} {place}", length) for place, length in enumerate(lengths)]
    for prompt, lengths in enumerate([(2, 3), (1,), (4, 4, 2, 6), (7, 2, 2, 2, 3), (3, 5)])
]


@functools.cache
def expected(config: t5.T5Config) -> list[np.ndarray]:
    """Returns the scores of OPTIONS, one padded forward pass for each (prompt, option)."""
    params = seeded.params(config)
    pairs = [(p, option) for p, options in enumerate(OPTIONS) for option in options]
    batch = {"encoder_input_tokens": np.zeros((len(pairs), 70), np.int32)}
    batch["decoder_input_tokens"] = np.zeros((len(pairs), 7), np.int32)
    wanted = np.zeros((len(pairs), 7), np.int32)
    for row, (p, option) in enumerate(pairs):
        batch["encoder_input_tokens"][row, : len(PROMPTS[p])] = PROMPTS[p]
        batch["decoder_input_tokens"][row, 1 : len(option)] = option[:-1]
        wanted[row, : len(option)] = option
    batch["encoder_segment_ids"] = (batch["encoder_input_tokens"] != 0).astype(np.int32)
    batch["decoder_segment_ids"] = (wanted != 0).astype(np.int32)
    values = jax.nn.log_softmax(forward(params, config, batch), axis=-1)
    chosen = np.take_along_axis(np.asarray(values), wanted[..., None], -1)[..., 0]
    sums = iter((chosen * (wanted != 0)).sum(axis=1))
    return [np.array([next(sums) for _ in options]) for options in OPTIONS]


def scores(scorer: OptionScorer, order: list[int] | None = None) -> list[np.ndarray]:
    """Returns the scores of OPTIONS in their order, asked for in another."""
    order = list(range(len(PROMPTS))) if order is None else order
    found = dict(scorer.score([PROMPTS[p] for p in order], [OPTIONS[p] for p in order]))
    assert sorted(found) == list(range(len(order)))
    by_prompt = {p: found[place] for place, p in enumerate(order)}
    return [by_prompt[p] for p in sorted(order)]


def assert_close(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float) -> None:
    """Asserts that the scores of every prompt agree."""
    assert [len(one) for one in found] == [len(one) for one in wanted]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), atol=tolerance)


@pytest.mark.parametrize("config", [UNTIED, TIED], ids=["untied", "tied"])
def test_equal_to_plain_teacher_forcing(config: t5.T5Config) -> None:
    scorer = OptionScorer(seeded.params(config), config, batch_size=2)
    found = scores(scorer)
    assert all(one.dtype == np.float32 for one in found)
    assert_close(found, expected(config), 2e-5)


def test_options_too_many_for_one_row_take_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "WIDEST_ROW", 6)
    scorer = OptionScorer(seeded.params(UNTIED), UNTIED, batch_size=2)
    assert_close(scores(scorer), expected(UNTIED), 2e-5)
    # The prompt with options of 7, 2, 2, 2 and 3 tokens: one of them is wider than a row.
    plan = scorer._plan(0, PROMPTS[3], OPTIONS[3])
    assert plan.rows == [[0], [1, 2, 3], [4]]
    assert plan.shape == (64, 8, 3)


def test_neither_order_nor_batch_mates_nor_batch_size_matter() -> None:
    params = seeded.params(UNTIED)
    together = scores(OptionScorer(params, UNTIED, batch_size=2))
    backwards = scores(OptionScorer(params, UNTIED, batch_size=2), [4, 3, 2, 1, 0])
    assert_close(backwards, together, 1e-5)
    scorer = OptionScorer(params, UNTIED, batch_size=1)
    for p in (0, 3):
        assert_close(scores(scorer, [p]), [together[p]], 1e-5)
    shuffled = [OPTIONS[3][place] for place in (4, 1, 0, 3, 2)]
    (found,) = dict(scorer.score([PROMPTS[3]], [shuffled])).values()
    assert_close([found], [together[3][[4, 1, 0, 3, 2]]], 1e-5)


@pytest.mark.parametrize(
    ("preset", "partitions"), [("data_parallel", 1), ("fsdp", 4), ("tensor", 4), ("fsdp_tensor", 2)]
)
def test_every_sharding_gives_the_same_scores(preset: str, partitions: int) -> None:
    mesh = sharding.make_mesh(sharding.ShardingConfig(preset, partitions), jax.devices())
    partitioner = sharding.Partitioner(mesh, preset)
    layout = partitioner.param_shardings(t5.param_axes(WIDE), t5.abstract_params(WIDE))
    params = jax.device_put(seeded.params(WIDE), layout)
    scorer = OptionScorer(params, WIDE, partitioner=partitioner, batch_size=3)
    found = scores(scorer, [2, 3])
    assert_close(found, [expected(WIDE)[p] for p in (2, 3)], 1e-5)


def test_a_second_suite_of_the_same_kind_compiles_nothing() -> None:
    scorer = OptionScorer(seeded.params(UNTIED), UNTIED, batch_size=2)
    first = scores(scorer)
    programs = scorer.compilations
    compiled = likelihood._encode._cache_size(), likelihood._score._cache_size()
    again = [np.where(prompt == 1, prompt, 2 + prompt % 50) for prompt in PROMPTS]
    assert len(dict(scorer.score(again, OPTIONS))) == len(first)
    assert scorer.compilations == programs > 0
    assert (likelihood._encode._cache_size(), likelihood._score._cache_size()) == compiled


def test_what_greedy_decoding_says_is_greedy() -> None:
    params = seeded.params(UNTIED)
    prompts = np.zeros((2, 64), np.int32)
    for row, p in enumerate((0, 3)):
        prompts[row, : len(PROMPTS[p])] = PROMPTS[p]
    said = np.asarray(decode.greedy(params, UNTIED, jnp.asarray(prompts), max_length=6, eos_id=-1))
    other = said.copy()
    other[:, -1] = 2 + (said[:, -1] - 1) % 60
    scorer = OptionScorer(params, UNTIED, batch_size=2, eos_id=None)
    options = [[said[row], other[row], said[row, :2]] for row in range(2)]
    for _, found in scorer.details([PROMPTS[0], PROMPTS[3]], options):
        assert found.greedy.tolist() == [True, False, True]
        assert found.lengths.tolist() == [6, 6, 2]


def test_eos_is_scored_whether_the_option_has_it_or_not() -> None:
    params = seeded.params(UNTIED)
    with_eos = scores(OptionScorer(params, UNTIED, batch_size=2))
    bare = [[option[:-1] for option in options] for options in OPTIONS]
    found = dict(OptionScorer(params, UNTIED, batch_size=2).score(PROMPTS, bare))
    assert_close([found[p] for p in range(len(PROMPTS))], with_eos, 0)
    as_given = dict(OptionScorer(params, UNTIED, batch_size=2, eos_id=None).details(PROMPTS, bare))
    for p, one in as_given.items():
        assert one.lengths.tolist() == [len(option) - 1 for option in OPTIONS[p]]
        assert (one.log_probabilities >= with_eos[p]).all()
    # Nothing to say is certain.
    assert (as_given[1].log_probabilities.tolist(), as_given[1].greedy.tolist()) == ([0.0], [True])


def test_equal_options_tie_and_no_options_is_no_score() -> None:
    scorer = OptionScorer(seeded.params(UNTIED), UNTIED, batch_size=2)
    one, other = OPTIONS[3][0], OPTIONS[3][2]
    found = dict(scorer.score(PROMPTS[:2], [[one, other, one], []]))
    assert found[0][0] == found[0][2] != found[0][1]
    assert found[1].shape == (0,)
    assert list(scorer.score([], [])) == []


def test_what_cannot_be_scored_is_refused() -> None:
    params = seeded.params(UNTIED)
    with pytest.raises(ValueError, match="batch_size"):
        OptionScorer(params, UNTIED, batch_size=0)
    scorer = OptionScorer(params, UNTIED, batch_size=2)
    with pytest.raises(ValueError, match="5 prompts with 4 lists"):
        list(scorer.score(PROMPTS, OPTIONS[:4]))
    with pytest.raises(ValueError, match="prompt 0 has no token"):
        list(scorer.score([np.zeros(0, np.int32)], [OPTIONS[0]]))


@given(st.integers(1, 5000), st.sampled_from([(64, 4), (8, 2)]))
def test_padded_lengths_are_few_and_near(length: int, steps: tuple[int, int]) -> None:
    shortest, per_octave = steps
    found = padded_length(length, shortest, per_octave)
    assert found >= length
    assert found % shortest == 0
    assert found - length < max(shortest, length / per_octave)
    assert padded_length(found, shortest, per_octave) == found
    assert len({padded_length(n, 64, 4) for n in range(1, 4097)}) == 20


@pytest.mark.torch
def test_live_hugging_face(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from flan_train.convert import hf
    from flan_train.convert.hf_config import config_to_hf

    torch.manual_seed(7)
    config = seeded.SIZES["t5_1_1_small"]
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config_to_hf(config))
    ).eval()
    output = torch.randn(config.vocab_size, config.embed_dim)
    model.lm_head.weight = torch.nn.Parameter(output)
    model.save_pretrained(tmp_path / "hf")
    with hf.opened(tmp_path / "hf") as folder:
        params, read = folder.params(), folder.config
    found = scores(OptionScorer(params, read, batch_size=2))
    wanted = []
    for prompt, options in zip(PROMPTS, OPTIONS, strict=True):
        inputs = torch.from_numpy(prompt[None].astype(np.int64))
        sums = []
        for option in options:
            labels = torch.from_numpy(option[None].astype(np.int64))
            with torch.no_grad():
                logits = model(input_ids=inputs, labels=labels).logits
            sums.append(torch.log_softmax(logits, -1).gather(-1, labels[..., None]).sum().item())
        wanted.append(np.array(sums))
    assert_close(found, wanted, 1e-4)
