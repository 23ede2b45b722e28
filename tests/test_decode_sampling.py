"""Which tokens may be drawn, how often they are, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train import errors
from flan_train.decode_sampling import Sampling, candidates, drawn, likeliest, log_probability

VOCABULARY = 40
SETTINGS = [(0, 1.0), (7, 1.0), (0, 0.6), (7, 0.6), (1, 1.0), (0, 1e-6), (500, 0.9)]


def logits(rows: int = 6) -> jax.Array:
    """Returns float32 [rows, 1, V] without equals."""
    return jax.random.normal(jax.random.key(3), (rows, 1, VOCABULARY)) * 2


def kept(row: np.ndarray, top_k: int, top_p: float) -> set[int]:
    """Returns the tokens that may be drawn, one at a time."""
    order = [int(token) for token in np.argsort(-row)]
    if top_k:
        order = order[:top_k]
    chances = np.exp(row[order] - row[order].max())
    chances /= chances.sum()
    found, total = set(), 0.0
    for token, chance in zip(order, chances, strict=True):
        found.add(token)
        total += chance
        if total >= top_p:
            break
    return found


def allowed(top_k: int, top_p: float) -> list[set[int]]:
    """Returns what `candidates` leaves of each row of `logits`."""
    sampling = Sampling("sample", top_k=top_k, top_p=top_p)
    values, tokens = (np.asarray(x)[:, 0] for x in candidates(logits(), sampling))
    return [set(t[np.isfinite(v)].tolist()) for v, t in zip(values, tokens, strict=True)]


@pytest.mark.parametrize(("top_k", "top_p"), SETTINGS)
def test_the_likeliest_may_be_drawn(top_k: int, top_p: float) -> None:
    expected = [kept(row, top_k, top_p) for row in np.asarray(logits())[:, 0]]
    assert allowed(top_k, top_p) == expected
    if top_k == 1 or top_p < 0.01:
        assert {len(tokens) for tokens in expected} == {1}


@pytest.mark.torch
@pytest.mark.parametrize(("top_k", "top_p"), SETTINGS)
def test_the_same_may_be_drawn_as_with_transformers(top_k: int, top_p: float) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    process = pytest.importorskip("transformers.generation.logits_process")
    scores = torch.from_numpy(np.asarray(logits())[:, 0].copy())
    if top_k:
        scores = process.TopKLogitsWarper(top_k)(None, scores)
    scores = process.TopPLogitsWarper(top_p)(None, scores)
    theirs = [set(torch.nonzero(torch.isfinite(row))[:, 0].tolist()) for row in scores]
    assert allowed(top_k, top_p) == theirs


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.8)])
def test_tokens_are_drawn_as_often_as_their_probabilities_say(top_k: int, top_p: float) -> None:
    row = np.asarray(logits())[0, 0]
    count, temperature = 8_000, 0.8
    sampling = Sampling("sample", top_k=top_k, top_p=top_p)
    tokens = np.asarray(
        jax.jit(drawn, static_argnames="sampling")(
            jnp.broadcast_to(row, (count // 4, 4, VOCABULARY)),
            jnp.arange(count // 4, dtype=jnp.uint32),
            jnp.full((count // 4,), 3, jnp.int32),
            jnp.float32(temperature),
            sampling=sampling,
        )
    )
    possible = sorted(kept(row / temperature, top_k, top_p))
    chances = np.exp(row[possible] / temperature)
    chances /= chances.sum()
    found = np.bincount(tokens.ravel(), minlength=VOCABULARY)
    assert found.sum() == found[possible].sum() == count
    # Five standard deviations of each count; the draws are the same in every run.
    spread = np.sqrt(count * chances * (1 - chances))
    assert (np.abs(found[possible] - count * chances) <= 5 * spread + 1).all()


def test_every_step_draws_anew() -> None:
    flat = jnp.zeros((64, 2, VOCABULARY))
    steps, seeds = jnp.arange(64, dtype=jnp.int32), jnp.zeros(64, jnp.uint32)
    tokens = drawn(flat, seeds, steps, jnp.float32(1), Sampling("sample", samples=2))
    assert len(set(np.asarray(tokens)[:, 0].tolist())) > 25
    assert (np.asarray(tokens)[:, 0] != np.asarray(tokens)[:, 1]).mean() > 0.8


def test_the_likeliest_is_the_first_of_equals() -> None:
    rows = jnp.asarray([[[1.0, 3.0, 3.0, -1.0]], [[0.0, 0.0, 0.0, 0.0]]])
    assert likeliest(rows).tolist() == [[1], [0]]
    assert likeliest(jnp.full((1, 1, 4), jnp.nan)).tolist() == [[3]]
    np.testing.assert_array_equal(likeliest(logits()), jnp.argmax(logits(), -1))


def test_log_probabilities_are_those_of_a_softmax() -> None:
    tokens = jnp.asarray([[i] for i in range(6)])
    expected = jax.nn.log_softmax(logits(), -1)[np.arange(6), 0, np.arange(6)]
    np.testing.assert_allclose(log_probability(logits(), tokens)[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "beams"}, "unknown method 'beams'"),
        ({"temperature": 0.0}, "Sampling.temperature cannot be 0.0"),
        ({"top_k": -1}, "Sampling.top_k cannot be -1"),
        ({"top_p": 0}, "Sampling.top_p cannot be 0"),
        ({"top_p": 1.5}, "Sampling.top_p cannot be 1.5"),
        ({"beams": 0}, "Sampling.beams cannot be 0"),
        ({"length_penalty": float("inf")}, "Sampling.length_penalty cannot be inf"),
        ({"samples": 2}, "2 outputs a prompt were asked for, and 'greedy' gives 1"),
        ({"method": "beam", "beams": 3, "samples": 4}, "'beam' gives 3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        Sampling(**fields)
