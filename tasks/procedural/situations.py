"""Families about what is true, who has what, and what belongs together."""

from __future__ import annotations

from flan_train.tasks.procedural.draws import Draw
from flan_train.tasks.procedural.instances import Family, Instance
from flan_train.tasks.procedural.words import KINDS, LETTERS, NAMES, OBJECTS, SEATS


def _word(value: bool) -> str:
    return "true" if value else "false"


def _boolean(draw: Draw) -> Instance:
    """Draws the answer first: each connective is as often true as false and gives nothing away."""
    x, y = draw.sample(LETTERS, 2)
    wanted, conjunction, negated = draw.coin(), draw.coin(), draw.coin()
    cases = [
        (vx, vy)
        for vx in (False, True)
        for vy in (False, True)
        if ((vx and vy != negated) if conjunction else (vx or vy != negated)) == wanted
    ]
    vx, vy = draw.pick(cases)
    connective = "and" if conjunction else "or"
    right = f"not {y}" if negated else y
    effective = vy != negated
    step = f"{right} is {_word(effective)}. " if negated else ""
    return Instance(
        fields={
            "x": x,
            "y": y,
            "x_value": _word(vx),
            "y_value": _word(vy),
            "expression": f"{x} {connective} {right}",
        },
        answer=_word(wanted),
        rationale=f"{step}{_word(vx)} {connective} {_word(effective)} gives {_word(wanted)}.",
        options=("true", "false"),
    )


def _negated_boolean(draw: Draw) -> Instance:
    """Negates the first value, which no instance of `boolean` does, and perhaps the second."""
    x, y = draw.sample(LETTERS, 2)
    wanted, conjunction, both = draw.coin(), draw.coin(), draw.coin()
    cases = [
        (vx, vy)
        for vx in (False, True)
        for vy in (False, True)
        if ((not vx and vy != both) if conjunction else (not vx or vy != both)) == wanted
    ]
    vx, vy = draw.pick(cases)
    connective = "and" if conjunction else "or"
    right = f"not {y}" if both else y
    effective = vy != both
    step = f"{right} is {_word(effective)}. " if both else ""
    return Instance(
        fields={
            "x": x,
            "y": y,
            "x_value": _word(vx),
            "y_value": _word(vy),
            "expression": f"not {x} {connective} {right}",
        },
        answer=_word(wanted),
        rationale=(
            f"not {x} is {_word(not vx)}. {step}"
            f"{_word(not vx)} {connective} {_word(effective)} gives {_word(wanted)}."
        ),
        options=("true", "false"),
    )


def _exchanges(draw: Draw) -> list[tuple[int, int]]:
    """Returns the pairs of places that are exchanged, one after the other: one pair or two."""
    return draw.sample([(0, 1), (1, 2), (0, 2)], draw.between(1, 2))


def _told(people: list[str], exchanges: list[tuple[int, int]]) -> str:
    return ", then ".join(f"{people[i]} and {people[j]} swap" for i, j in exchanges)


def _holders(people: list[str], place: int, exchanges: list[tuple[int, int]]) -> list[str]:
    """Returns who has the thing that starts at a place, at first and after each exchange."""
    holders = [people[place]]
    for pair in exchanges:
        if place in pair:
            place = pair[0] + pair[1] - place
        holders.append(people[place])
    return holders


def _swaps(draw: Draw) -> Instance:
    people, objects = draw.sample(NAMES, 3), draw.sample(OBJECTS, 3)
    exchanges, asked = _exchanges(draw), draw.below(3)
    holders = _holders(people, asked, exchanges)
    return Instance(
        fields={
            "state": ", ".join(f"{p} has the {o}" for p, o in zip(people, objects, strict=True)),
            "swaps": _told(people, exchanges),
            "object": objects[asked],
        },
        answer=holders[-1],
        rationale=f"The {objects[asked]} is with {', then '.join(holders)}.",
        options=tuple(people),
    )


def _swap_seats(draw: Draw) -> Instance:
    people, seats = draw.sample(NAMES, 3), draw.sample(SEATS, 3)
    exchanges, asked = _exchanges(draw), draw.below(3)
    sitters = _holders(people, asked, exchanges)
    return Instance(
        fields={
            "state": ", ".join(f"{p} is on {s}" for p, s in zip(people, seats, strict=True)),
            "swaps": _told(people, exchanges),
            "seat": seats[asked],
        },
        answer=sitters[-1],
        rationale=f"On {seats[asked]} is {', then '.join(sitters)}.",
        options=tuple(people),
    )


def _kind_pick(draw: Draw) -> Instance:
    kind, *others = draw.sample(tuple(KINDS), 3)
    answer = draw.pick(KINDS[kind])
    words = draw.shuffled([answer, *(draw.pick(KINDS[other]) for other in others)])
    return Instance(
        fields={"kind": kind, "words": ", ".join(words)},
        answer=answer,
        rationale=f"{answer} is {kind}.",
        options=tuple(words),
    )


def _odd_one_out(draw: Draw) -> Instance:
    kind, other = draw.sample(tuple(KINDS), 2)
    same, answer = draw.sample(KINDS[kind], 2), draw.pick(KINDS[other])
    words = draw.shuffled([*same, answer])
    return Instance(
        fields={"words": ", ".join(words)},
        answer=answer,
        rationale=f"{same[0]} and {same[1]} are each {kind}. {answer} is {other}.",
        options=tuple(words),
    )


FAMILIES = (
    Family("boolean", _boolean),
    Family("swaps", _swaps),
    Family("kind_pick", _kind_pick),
    Family("negated_boolean", _negated_boolean, held_out=True),
    Family("swap_seats", _swap_seats, held_out=True),
    Family("odd_one_out", _odd_one_out, held_out=True),
)
