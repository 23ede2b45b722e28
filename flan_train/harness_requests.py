"""What lm-evaluation-harness asks of a generation, in our words; needs nothing of the harness."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from flan_train.decode import Sampling
from flan_train.errors import UserError, check_number

BATCH_SIZE = 32

# How a task may call the number of output tokens, in the harness's order of precedence.
OUTPUT_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
GENERATION = (
    *("until", "do_sample", "temperature", "top_k", "top_p", "num_beams", "length_penalty"),
    *OUTPUT_LIMITS,
)
_WHERE = "generation_kwargs of the task, or --gen_kwargs"


@dataclasses.dataclass(frozen=True)
class Wish:
    """How one request wants its output: where it stops, its most tokens, how they are chosen."""

    until: tuple[str, ...]
    max_length: int
    sampling: Sampling


def wish(given: Mapping[str, Any], max_gen_toks: int) -> Wish:
    """Returns what the generation settings of a request mean.

    A temperature alone asks for samples, and one of 0 for none; `do_sample` alone asks for samples
    at temperature 1.

    Args:
      given: its `generation_kwargs`.
      max_gen_toks: output tokens where it says nothing.

    Raises:
      UserError: a setting that generation here does not have, or a value out of range.
    """
    unknown = sorted(set(given) - set(GENERATION))
    if unknown:
        raise UserError(
            f"the task asks for '{unknown[0]}', which generation here does not have",
            where=_WHERE,
            expected="some of " + ", ".join(GENERATION),
            fix="say max_gen_toks, the tokens of the output"
            if unknown[0] == "max_length"
            else "take it out",
        )
    until = given.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    named = [given[name] for name in OUTPUT_LIMITS if given.get(name) is not None]
    limit = named[0] if named else max_gen_toks
    settings = {
        "temperature": 1.0 if given.get("do_sample") else 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "num_beams": 1,
        "length_penalty": 1.0,
    } | {name: value for name, value in given.items() if value is not None}
    check_number("max_gen_toks", limit, whole=True, minimum=1)
    check_number("temperature", settings["temperature"], minimum=0)
    check_number("top_k", settings["top_k"], whole=True, minimum=0)
    check_number("top_p", settings["top_p"], above=0)
    check_number("num_beams", settings["num_beams"], whole=True, minimum=1)
    check_number("length_penalty", settings["length_penalty"])
    beams, temperature = settings["num_beams"], float(settings["temperature"])
    if not (settings.get("do_sample", True) and temperature > 0):
        if beams == 1:
            return Wish(until, limit, Sampling())
        penalty = float(settings["length_penalty"])
        return Wish(until, limit, Sampling("beam", beams=beams, length_penalty=penalty))
    if beams > 1:
        raise UserError(
            f"the task asks for samples and for {beams} beams",
            where=_WHERE,
            expected="do_sample=False with num_beams, or num_beams=1",
        )
    top_k, top_p = settings["top_k"], float(settings["top_p"])
    return Wish(until, limit, Sampling("sample", temperature, top_k=top_k, top_p=top_p))


def batch_size(given: int | str) -> int:
    """Returns the batch size that the harness was given, which may be text.

    Raises:
      UserError: neither a whole number of at least 1 nor "auto".
    """
    text = str(given).strip()
    if text.partition(":")[0] == "auto":
        return BATCH_SIZE
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"batch_size cannot be {given!r}",
            where="--batch_size",
            expected="a whole number of at least 1, or auto",
        )
    return int(text)


def cut(text: str, until: Sequence[str]) -> str:
    """Returns the text before the first place where one of `until` begins."""
    for stop in until:
        if stop:
            text = text.partition(stop)[0]
    return text


def seed_of(seed: int, context: str, turn: int) -> int:
    """Returns 31 bits that follow from the model's seed, the prompt and its turn."""
    digest = hashlib.sha256(f"{seed} {turn} {context}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
