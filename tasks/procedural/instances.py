"""What a family of procedural tasks is, and how its instances are dealt out to the splits."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping

from flan_train.tasks.procedural.draws import Draw

# Rows of each split. A held-out family has no train split.
SPLIT_SIZES: Mapping[str, int] = {"train": 2000, "validation": 40, "test": 100}
# The bucket of an instance's operation among 100 decides its split: [first, last).
SPLIT_BUCKETS: Mapping[str, tuple[int, int]] = {
    "validation": (0, 10),
    "test": (10, 20),
    "train": (20, 100),
}
# A family whose space is too small for a split would be searched for ever.
_ATTEMPTS_PER_ROW = 100


@dataclasses.dataclass(frozen=True)
class Instance:
    """One question of a family with its answer.

    Attributes:
      fields: what templates show; the question is fully determined by them.
      answer: the reference.
      rationale: the steps, in sentences, that lead to the answer without stating the cue.
      options: what the answer is chosen from, when it is a choice.
      identity: the underlying operation, which instances with other names, things or order of
        numbers share: 3 + 5 whoever has the apples, and 5 + 3; the fields when empty.
    """

    fields: Mapping[str, str]
    answer: str
    rationale: str
    options: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()

    def content(self) -> str:
        """Returns the text that duplicates are decided by: what the question shows."""
        return "\x00".join(f"{key}={self.fields[key]}" for key in sorted(self.fields))

    def operation(self) -> str:
        """Returns the text that the split is decided by: what is really asked."""
        return "\x00".join(self.identity) or self.content()


@dataclasses.dataclass(frozen=True)
class Family:
    """A generator of instances.

    Attributes:
      name: the family's name, such as "addition".
      make: draws one instance.
      held_out: never trained on.
    """

    name: str
    make: Callable[[Draw], Instance]
    held_out: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits this family has rows for."""
        return ("validation", "test") if self.held_out else ("train", "validation", "test")


def split_of(family: str, operation: str) -> str:
    """Returns the split of an operation: a fixed partition of all there can be."""
    digest = hashlib.blake2b(f"{family}\x00{operation}".encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "little") % 100
    for split, (first, last) in SPLIT_BUCKETS.items():
        if first <= bucket < last:
            return split
    raise AssertionError(f"bucket {bucket} lies in no split")


def instances(family: Family, split: str, count: int | None = None) -> Iterator[Instance]:
    """Yields a split's instances, no two the same, in an order that never changes.

    The attempts 0, 1, 2, ... of a family are drawn independently of the split asked for; a split
    takes those whose operation hashes into it. Hence what validation and test ask is never
    trained on, not even with other names; inside a split an operation may come again with other
    names. Asking for more rows keeps the first ones.

    Args:
      family: the generator.
      split: "train", "validation" or "test".
      count: how many; None for the split's size.

    Raises:
      RuntimeError: the family has fewer different instances than asked for.
    """
    wanted = SPLIT_SIZES[split] if count is None else count
    first, last = SPLIT_BUCKETS[split]
    limit = wanted * _ATTEMPTS_PER_ROW * 100 // (last - first)
    seen: set[str] = set()
    for attempt in range(limit):
        if len(seen) == wanted:
            return
        instance = family.make(Draw("quickstart", family.name, attempt))
        content = instance.content()
        if content in seen or split_of(family.name, instance.operation()) != split:
            continue
        seen.add(content)
        yield instance
    if len(seen) < wanted:
        raise RuntimeError(
            f"family {family.name} gave {len(seen)} different {split} instances in {limit} "
            f"attempts, {wanted} were asked for: widen what it draws from"
        )
