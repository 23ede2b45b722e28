"""Generation: what comes out depends on the prompt and the way of sampling, on nothing else."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train import decode, decode_batch, sharding
from flan_train.models import t5
from tests.models import seeded

CONFIG = seeded.CROSSED["t5_relu_untied"]
TIED = seeded.CROSSED["t5_gated_tied"]
LENGTH = 10
# Outputs at once. Slots of the small batch are refilled; the big one shrinks to the small.
SMALL, BIG = 6, 24
WAYS = {
    "greedy": decode.Sampling(),
    "sample": decode.Sampling("sample", temperature=0.7, top_k=20, top_p=0.9, samples=2),
    "beam": decode.Sampling("beam", beams=3, samples=2),
}
Outputs = dict[int, list[decode.Generated]]


@functools.cache
def params() -> t5.Params:
    """Returns the model's parameters on the device."""
    return jax.tree.map(jnp.asarray, seeded.params(CONFIG))


def prompts(count: int = 21) -> list[np.ndarray]:
    """Returns prompts of 2 to 14 tokens."""
    lengths = [2 + i * 5 % 13 for i in range(count)]
    return [seeded.ids(f"decode/{i}", 1, length)[0] for i, length in enumerate(lengths)]


def outputs_of(
    sampling: decode.Sampling,
    given: list[np.ndarray] | None = None,
    *,
    batch_size: int = BIG,
    partitioner: sharding.Partitioner | None = None,
    placed: Any = None,
    order: list[int] | None = None,
    length: int = LENGTH,
) -> Outputs:
    """Returns every prompt's outputs; prompt i has the seed 100 + i wherever it stands."""
    given = prompts() if given is None else given
    order = list(range(len(given))) if order is None else order
    generator = decode.Generator(
        params() if placed is None else placed,
        CONFIG,
        partitioner=partitioner,
        batch_size=batch_size,
    )
    found = generator.generate(
        [given[i] for i in order],
        max_length=length,
        sampling=sampling,
        seeds=[100 + i for i in order],
    )
    return {order[place]: outputs for place, outputs in found}


def assert_same(found: Outputs, expected: Outputs) -> None:
    assert sorted(found) == sorted(expected)
    for index, outputs in expected.items():
        for one, other in zip(found[index], outputs, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            assert one.ended == other.ended
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)


@functools.cache
def alone(way: str) -> Outputs:
    """Returns the outputs of all prompts in one batch."""
    return outputs_of(WAYS[way])


def test_greedy_outputs_repeat_the_argmax_of_the_forward_pass() -> None:
    found = alone("greedy")
    ends = set()
    for index, prompt in enumerate(prompts()):
        (output,) = found[index]
        tokens = np.append(output.tokens, [1] * output.ended).astype(np.int32)
        logits = forward(prompt, tokens)
        np.testing.assert_array_equal(np.argmax(logits, -1), tokens)
        chances = jax.nn.log_softmax(logits)[np.arange(len(tokens)), tokens]
        assert output.log_probability == pytest.approx(float(chances.sum()), abs=1e-4)
        assert output.ended or len(tokens) == LENGTH
        ends.add(output.ended)
    assert ends == {True, False}


def forward(prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Returns float32 [n, V] logits of the whole target at once, without a cache."""
    inputs = np.zeros((1, 90), np.int32)
    inputs[0, : len(prompt)] = prompt
    targets = np.zeros((1, LENGTH), np.int32)
    targets[0, 1 : len(tokens)] = tokens[:-1]
    batch = {
        "encoder_input_tokens": inputs,
        "encoder_segment_ids": (np.arange(90) < len(prompt))[None].astype(np.int32),
        "decoder_input_tokens": targets,
        "decoder_segment_ids": np.ones_like(targets),
    }
    return np.asarray(whole(params(), CONFIG, batch))[0, : len(tokens)]


whole = jax.jit(t5.apply, static_argnums=1)


@pytest.mark.parametrize("way", WAYS)
def test_outputs_depend_neither_on_the_batch_nor_on_the_order(way: str) -> None:
    # Slots are refilled again and again, long after the ring is full; the big batch shrinks.
    backwards = list(range(len(prompts())))[::-1]
    assert_same(outputs_of(WAYS[way], batch_size=SMALL, order=backwards), alone(way))
    some = [8, 3]
    expected = {index: alone(way)[index] for index in some}
    assert_same(outputs_of(WAYS[way], batch_size=SMALL, order=some), expected)


def test_prompts_of_unlike_lengths_are_put_into_unlike_shapes() -> None:
    mixed = [*prompts(5), seeded.ids("decode/long", 1, 90)[0], *prompts(3)]
    found = outputs_of(WAYS["greedy"], mixed, batch_size=SMALL)
    assert_same(
        {index: found[index] for index in range(5)},
        {index: alone("greedy")[index] for index in range(5)},
    )
    (output,) = found[5]
    logits = forward(mixed[5], output.tokens)
    np.testing.assert_array_equal(np.argmax(logits, -1), output.tokens)


@pytest.mark.parametrize(
    ("preset", "partitions", "way"),
    [
        ("data_parallel", 1, "greedy"),
        ("fsdp", 4, "beam"),
        ("tensor", 4, "sample"),
        ("fsdp_tensor", 4, "greedy"),
    ],
)
def test_every_preset_gives_the_same_outputs(preset: str, partitions: int, way: str) -> None:
    mesh = sharding.make_mesh(sharding.ShardingConfig(preset, partitions), jax.devices()[:8])
    partitioner = sharding.Partitioner(mesh, preset)
    shardings = partitioner.param_shardings(t5.param_axes(CONFIG), params())
    placed = jax.device_put(params(), shardings)
    given = prompts(11)
    found = outputs_of(WAYS[way], given, batch_size=SMALL, partitioner=partitioner, placed=placed)
    assert_same(found, {index: alone(way)[index] for index in range(len(given))})


def test_the_layers_laid_out_are_divided_like_the_parameters() -> None:
    mesh = sharding.make_mesh(sharding.ShardingConfig("fsdp_tensor", 4), jax.devices()[:8])
    partitioner = sharding.Partitioner(mesh, "fsdp_tensor")
    layer = decode_batch.lay_out(params(), CONFIG, partitioner)[0]
    for leaf in jax.tree.leaves(layer):
        # Norms have no width to divide between the groups of four.
        parts = 2 if leaf.ndim == 1 else 8
        assert leaf.addressable_shards[0].data.size * parts == leaf.size


def test_nothing_is_compiled_in_steady_state() -> None:
    generator = decode.Generator(params(), CONFIG, batch_size=SMALL)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiled.append(name) if "backend_compile" in name else None
    )

    def run(way: str, seed: int, length: int, **more: Any) -> None:
        given = prompts()[seed:] + prompts()[:seed]
        sampling = dataclasses.replace(WAYS[way], **more)
        seeds = [seed + i for i in range(len(given))]
        found = generator.generate(given, max_length=length, sampling=sampling, seeds=seeds)
        assert len(list(found)) == len(given)

    for way in WAYS:
        run(way, 0, LENGTH)
    before = generator.compilations, len(compiled)
    run("greedy", 1, 16)
    run("sample", 2, 7, temperature=1.3)
    run("beam", 4, 9, length_penalty=0.3)
    assert (generator.compilations, len(compiled)) == before
    # Not for other parameters of the same shapes either: programs outlive a generator.
    other = decode.Generator(jax.tree.map(lambda x: x * 0.5, params()), CONFIG, batch_size=SMALL)
    assert len(list(other.generate(prompts(), max_length=LENGTH))) == len(prompts())
    assert other.compilations == 0
    # Another end of outputs is another program; that both counts see it, shows that they count.
    other = decode.Generator(params(), CONFIG, batch_size=SMALL, eos_id=5)
    assert len(list(other.generate(prompts(), max_length=LENGTH))) == len(prompts())
    assert other.compilations > 0
    assert len(compiled) > before[1]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Gathers the lengths of the prompts of each run of the encoder."""
    calls: list[tuple[int, ...]] = []
    encode = decode_batch.encode

    def watched(params: Any, weights: Any, tokens: Any, lengths: Any, **static: Any) -> Any:
        calls.append(tuple(int(length) for length in lengths if length))
        return encode(params, weights, tokens, lengths, **static)

    monkeypatch.setattr(decode_batch, "encode", watched)
    return calls


@pytest.mark.parametrize("way", WAYS)
def test_each_prompt_goes_through_the_encoder_once(
    way: str, encoded: list[tuple[int, ...]]
) -> None:
    outputs_of(WAYS[way], batch_size=SMALL)
    lengths = sorted(length for call in encoded for length in call)
    assert lengths == sorted(map(len, prompts()))


def test_finished_prompts_leave_and_are_handed_out_while_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[int] = []
    advance = decode_batch.advance

    def watched(batch: Any, *arguments: Any, **static: Any) -> Any:
        begun = int(batch.place)
        batch, news = advance(batch, *arguments, **static)
        steps.append(int(batch.place) - begun)
        return batch, news

    monkeypatch.setattr(decode_batch, "advance", watched)
    # Two prompts whose outputs end at once between many whose outputs do not.
    lengths = {
        index: len(output.tokens) + output.ended for index, (output,) in alone("greedy").items()
    }
    short = [index for index, prompt in enumerate(prompts()) if len(prompt) < 64]
    quick = [index for index in short if lengths[index] < LENGTH // 2]
    slow = [index for index in short if lengths[index] == LENGTH]
    assert quick
    order = [*slow[:3], *quick * 6]
    generator = decode.Generator(params(), CONFIG, batch_size=SMALL)
    found = generator.generate([prompts()[index] for index in order], max_length=LENGTH)
    came = [order[place] for place, _ in found]
    assert sorted(came) == sorted(order)
    assert came[0] in quick
    # The batch never waits for its slowest row: one slot serves the quick ones meanwhile.
    waves = LENGTH * -(-len(order) // SMALL)
    assert sum(steps) < waves


def test_a_draw_follows_from_the_seed_the_sample_and_the_step() -> None:
    few, many = (decode.Sampling("sample", samples=count) for count in (3, 5))
    first, more = (outputs_of(sampling, batch_size=SMALL) for sampling in (few, many))
    assert_same({index: outputs[:3] for index, outputs in more.items()}, first)
    texts = {tuple(output.tokens) for outputs in more.values() for output in outputs}
    assert len(texts) > 80
    same = [prompts()[0]] * 2
    generator = decode.Generator(params(), CONFIG, batch_size=SMALL)

    def texts_of(seeds: list[int]) -> list[list[int]]:
        found = dict(generator.generate(same, max_length=LENGTH, sampling=few, seeds=seeds))
        return [[int(t) for t in output.tokens] for index in (0, 1) for output in found[index]]

    equal, unlike = texts_of([7, 7]), texts_of([7, 8])
    assert equal[:3] == equal[3:] == unlike[:3]
    assert unlike[3:] != unlike[:3]


def test_the_best_beams_come_first() -> None:
    for outputs in alone("beam").values():
        scores = [
            output.log_probability / (len(output.tokens) + output.ended) for output in outputs
        ]
        assert scores == sorted(scores, reverse=True)
    one = outputs_of(decode.Sampling("beam", beams=3), batch_size=SMALL)
    assert_same(one, {index: outputs[:1] for index, outputs in alone("beam").items()})
    # A search one beam wide takes the likeliest token each time.
    assert_same(outputs_of(decode.Sampling("beam"), batch_size=SMALL), alone("greedy"))


def test_one_token_is_room_enough() -> None:
    for way in WAYS:
        for outputs in outputs_of(WAYS[way], prompts(3), length=1).values():
            for output in outputs:
                assert len(output.tokens) + output.ended == 1


def test_a_gated_tied_model_of_unlike_stacks_in_bfloat16() -> None:
    config = dataclasses.replace(TIED, dtype="bfloat16")
    weights = seeded.params(config)
    rows = seeded.padded("decode", [(5, 1), (11, 1), (2, 1)])["encoder_input_tokens"]
    rows = np.concatenate([rows, np.zeros((1, 11), np.int32)])
    found = decode.greedy(weights, config, rows, max_length=6, eos_id=-1)
    batch = {
        "encoder_input_tokens": rows,
        "encoder_segment_ids": (rows != 0).astype(np.int32),
        "decoder_input_tokens": np.pad(found, ((0, 0), (1, 0)))[:, :-1],
        "decoder_segment_ids": np.ones_like(found),
    }
    logits = np.asarray(whole(weights, config, batch))[:3]
    chosen = np.take_along_axis(logits, found[:3, :, None], axis=-1)[..., 0]
    # Of two logits that bfloat16 rounds differently here and there, either may be the highest.
    assert (chosen >= logits.max(-1) - 0.05).all()
    assert (found[3] == 0).all()


def test_what_cannot_be_generated_is_refused() -> None:
    generator = decode.Generator(params(), CONFIG)
    with pytest.raises(ValueError, match="max_length = 0"):
        list(generator.generate(prompts(), max_length=0))
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        list(generator.generate([prompts()[0], np.zeros(0, np.int32)], max_length=2))
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        list(generator.generate(prompts(2), max_length=2, seeds=[1]))
    with pytest.raises(ValueError, match="batch_size = 0"):
        decode.Generator(params(), CONFIG, batch_size=0)
    assert list(generator.generate([], max_length=2)) == []
