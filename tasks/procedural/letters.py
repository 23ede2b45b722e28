"""Families about letters that stand apart, so that each is one piece of the vocabulary."""

from __future__ import annotations

from flan_train.tasks.procedural.draws import Draw
from flan_train.tasks.procedural.instances import Family, Instance
from flan_train.tasks.procedural.words import LETTERS

_PLACES = ("first", "second", "third", "fourth", "last")


def _without(letters: tuple[str, ...], *unwanted: str) -> tuple[str, ...]:
    return tuple(letter for letter in letters if letter not in unwanted)


def _count_letter(draw: Draw) -> Instance:
    length, count = 5, draw.between(1, 4)
    letter = draw.pick(LETTERS)
    others = draw.sample(_without(LETTERS, letter), length - count)
    letters = draw.shuffled([letter] * count + others)
    steps, seen = [], 0
    for shown in letters:
        seen += shown == letter
        steps.append(f"{shown} {seen}")
    return Instance(
        fields={"letters": " ".join(letters), "letter": letter},
        answer=str(count),
        rationale=", ".join(steps) + ".",
    )


def _count_either(draw: Draw) -> Instance:
    length, count = 5, draw.between(1, 4)
    wanted = draw.sample(LETTERS, 2)
    others = draw.sample(_without(LETTERS, *wanted), length - count)
    letters = draw.shuffled([draw.pick(wanted) for _ in range(count)] + others)
    steps, seen = [], 0
    for shown in letters:
        seen += shown in wanted
        steps.append(f"{shown} {seen}")
    return Instance(
        fields={"letters": " ".join(letters), "one": wanted[0], "other": wanted[1]},
        answer=str(count),
        rationale=", ".join(steps) + ".",
    )


def _reverse_letters(draw: Draw) -> Instance:
    letters = draw.sample(LETTERS, 4)
    a, b, c, d = letters
    return Instance(
        fields={"letters": " ".join(letters)},
        answer=" ".join(reversed(letters)),
        rationale=f"The last is {d}, before it {c}, before it {b}, before it {a}.",
    )


def _letter_at(draw: Draw) -> Instance:
    letters = draw.sample(LETTERS, 5)
    place = draw.below(5)
    word, letter = _PLACES[place], letters[place]
    return Instance(
        fields={"letters": " ".join(letters), "place": word},
        answer=letter,
        rationale=f"{_counted(letters[: place + 1])}, so {letter} is {word}.",
    )


def _counted(letters: list[str]) -> str:
    return ", ".join(f"{i} {letter}" for i, letter in enumerate(letters, start=1))


def _replace_letter(draw: Draw) -> Instance:
    old, new = draw.sample(LETTERS, 2)
    count = draw.between(1, 2)
    others = draw.sample(_without(LETTERS, old, new), 5 - count)
    letters = draw.shuffled([old] * count + others)
    places = [str(i) for i, letter in enumerate(letters, start=1) if letter == old]
    return Instance(
        fields={"letters": " ".join(letters), "old": old, "new": new},
        answer=" ".join(new if letter == old else letter for letter in letters),
        rationale=f"{old} is at {' and '.join(places)}. Put {new} there.",
    )


def _membership(draw: Draw) -> Instance:
    letters = draw.sample(LETTERS, 5)
    if draw.coin():
        place = draw.below(5)
        letter, answer = letters[place], "yes"
        steps = f"The letter at {place + 1} is {letter}."
    else:
        letter, answer = draw.pick(_without(LETTERS, *letters)), "no"
        steps = f"None of {' '.join(letters)} is {letter}."
    return Instance(
        fields={"letters": " ".join(letters), "letter": letter},
        answer=answer,
        rationale=steps,
        options=("yes", "no"),
    )


def _pattern(draw: Draw) -> Instance:
    period = draw.between(2, 3)
    part = draw.sample(LETTERS, period)
    shown = draw.between(2 * period, 2 * period + 2)
    letters = [part[i % period] for i in range(shown)]
    following = part[shown % period]
    return Instance(
        fields={"letters": " ".join(letters)},
        answer=following,
        rationale=f"{' '.join(part)} comes again and again. After {letters[-1]} comes {following}.",
    )


FAMILIES = (
    Family("count_letter", _count_letter),
    Family("reverse_letters", _reverse_letters),
    Family("letter_at", _letter_at),
    Family("replace_letter", _replace_letter),
    Family("membership", _membership),
    Family("pattern", _pattern),
    Family("count_either", _count_either, held_out=True),
)
