"""Families about numbers: sums, differences, order, size."""

from __future__ import annotations

from flan_train.tasks.procedural.draws import Draw
from flan_train.tasks.procedural.instances import Family, Instance
from flan_train.tasks.procedural.words import NAMES, NUMBER_WORDS, THINGS

_TWO_DIGITS = tuple(range(10, 100))


def _addition(draw: Draw) -> Instance:
    a, b = draw.between(1, 99), draw.between(1, 99)
    tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    return Instance(
        fields={"a": str(a), "b": str(b)},
        answer=str(a + b),
        rationale=(
            f"{a // 10 * 10}+{b // 10 * 10}={tens}. {a % 10}+{b % 10}={ones}. "
            f"{tens}+{ones}={a + b}."
        ),
        identity=(str(min(a, b)), str(max(a, b))),
    )


def _story_sum(draw: Draw) -> Instance:
    a, b = draw.between(2, 30), draw.between(2, 12)
    return Instance(
        fields={"name": draw.pick(NAMES), "things": draw.pick(THINGS), "a": str(a), "b": str(b)},
        answer=str(a + b),
        rationale=f"{a}+{b}={a + b}.",
        identity=(str(min(a, b)), str(max(a, b))),
    )


def _story_difference(draw: Draw) -> Instance:
    b, left = draw.between(2, 12), draw.between(2, 20)
    a = b + left
    return Instance(
        fields={"name": draw.pick(NAMES), "things": draw.pick(THINGS), "a": str(a), "b": str(b)},
        answer=str(left),
        rationale=f"{a}-{b}={left}.",
        identity=(str(a), str(b)),
    )


def _larger(draw: Draw) -> Instance:
    a, b = draw.sample(_TWO_DIGITS, 2)
    high, low = max(a, b), min(a, b)
    if a // 10 != b // 10:
        steps = f"Tens: {a // 10} and {b // 10}. {high // 10} is more than {low // 10}."
    else:
        steps = (
            f"Tens: {a // 10} and {b // 10}. Ones: {a % 10} and {b % 10}. "
            f"{high % 10} is more than {low % 10}."
        )
    return Instance(
        fields={"a": str(a), "b": str(b)},
        answer=str(high),
        rationale=steps,
        options=(str(a), str(b)),
        identity=(str(low), str(high)),
    )


def _sort_digits(draw: Draw, descending: bool) -> Instance:
    digits = [str(digit) for digit in draw.sample(range(10), 4)]
    ordered = sorted(digits, reverse=descending)
    first, second, third, fourth = ordered
    return Instance(
        fields={"digits": "".join(digits)},
        answer="".join(ordered),
        rationale=f"First {first}, then {second}, then {third}, then {fourth}.",
        identity=tuple(sorted(digits)),
    )


def _sort_ascending(draw: Draw) -> Instance:
    return _sort_digits(draw, descending=False)


def _sort_descending(draw: Draw) -> Instance:
    return _sort_digits(draw, descending=True)


def _extreme(draw: Draw, largest: bool) -> Instance:
    numbers = draw.sample(_TWO_DIGITS, 3)
    choose = max if largest else min
    a, b, c = numbers
    kept = choose(a, b)
    return Instance(
        fields={"numbers": f"{a}, {b}, {c}"},
        answer=str(choose(numbers)),
        rationale=f"{a} and {b}: keep {kept}. {kept} and {c}: keep {choose(numbers)}.",
        options=(str(a), str(b), str(c)),
        identity=tuple(map(str, sorted(numbers))),
    )


def _maximum(draw: Draw) -> Instance:
    return _extreme(draw, largest=True)


def _minimum(draw: Draw) -> Instance:
    return _extreme(draw, largest=False)


def _second_largest(draw: Draw) -> Instance:
    numbers = draw.sample(_TWO_DIGITS, 3)
    low, middle, high = sorted(numbers)
    a, b, c = numbers
    return Instance(
        fields={"numbers": f"{a}, {b}, {c}"},
        answer=str(middle),
        rationale=f"From large to small: {high}, {middle}, {low}.",
        options=(str(a), str(b), str(c)),
        identity=(str(low), str(middle), str(high)),
    )


def _parity(draw: Draw) -> Instance:
    number = draw.between(1000, 9999)
    kind = "odd" if number % 2 else "even"
    return Instance(
        fields={"number": str(number)},
        answer=kind,
        rationale=f"It ends in {number % 10}, and {number % 10} is {kind}.",
        options=("even", "odd"),
    )


def _quantity(draw: Draw) -> Instance:
    first, second = draw.sample(NAMES, 2)
    a, b = draw.sample(range(2, len(NUMBER_WORDS)), 2)
    more = draw.coin()
    winner, count, other = (first, a, b) if (a > b) == more else (second, b, a)
    word = "more" if more else "fewer"
    return Instance(
        fields={
            "first": first,
            "second": second,
            "a": NUMBER_WORDS[a],
            "b": NUMBER_WORDS[b],
            "things": draw.pick(THINGS),
            "word": word,
        },
        answer=winner,
        rationale=(
            f"{NUMBER_WORDS[count]} is {word} than {NUMBER_WORDS[other]}, "
            f"and {winner} has {NUMBER_WORDS[count]}."
        ),
        options=(first, second),
        # Neither who has which nor whether more or fewer is asked makes it another comparison.
        identity=(NUMBER_WORDS[min(a, b)], NUMBER_WORDS[max(a, b)]),
    )


FAMILIES = (
    Family("addition", _addition),
    Family("story_sum", _story_sum),
    Family("story_difference", _story_difference),
    Family("larger", _larger),
    Family("sort_ascending", _sort_ascending),
    Family("maximum", _maximum),
    Family("minimum", _minimum),
    Family("parity", _parity),
    Family("quantity", _quantity),
    Family("sort_descending", _sort_descending, held_out=True),
    Family("second_largest", _second_largest, held_out=True),
)
