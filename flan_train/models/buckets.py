"""T5's relative positions: which of the few buckets a distance falls into."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Int


def bucket_starts(exact: int, buckets: int, max_distance: int) -> tuple[int, ...]:
    """Returns the smallest distance of each logarithmic bucket after the first, in order.

    Of `buckets` buckets the first `exact` hold one distance each; the rest divide the distances
    from `exact` to `max_distance` evenly on a logarithmic scale. Whole-number arithmetic puts the
    borders in the same place on every device, where float logarithms can land on either side.

    bucket_starts(8, 16, 128) == (12, 16, 23, 32, 46, 64, 91)
    """
    spread = buckets - exact
    starts = []
    distance = exact
    for i in range(1, spread):
        # distance >= exact * (max_distance / exact) ** (i / spread), raised to the power `spread`
        while distance**spread < exact ** (spread - i) * max_distance**i:
            distance += 1
        starts.append(distance)
    return tuple(starts)


def relative_buckets(
    offset: Int[Array, " P"], *, bidirectional: bool, buckets: int, max_distance: int
) -> Int[Array, " P"]:
    """Returns the bucket of each offset (place of the key minus place of the query), int32.

    Raffel et al. 2020, section 2.1. Bidirectional: the upper half of the buckets is for keys after
    the query. Otherwise keys after the query count as distance 0 (they are masked anyway).
    """
    base = jnp.zeros_like(offset)
    if bidirectional:
        buckets //= 2
        base = jnp.where(offset > 0, buckets, 0)
        distance = jnp.abs(offset)
    else:
        distance = jnp.maximum(-offset, 0)
    exact = buckets // 2
    bucket = jnp.minimum(distance, exact)
    for start in bucket_starts(exact, buckets, max_distance):
        bucket = bucket + (distance >= start)
    return base + bucket
