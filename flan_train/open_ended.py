"""Which of several drawn outputs is the answer: ranked by likelihood, repetitions dropped.

The rule of arXiv 2210.11416 for open-ended prompts (facts section 6): five samples at temperature
0.7 are ranked by their log-probability, not divided by their length, and those that score better
than half the median are dropped: text that repeats itself is far likelier than text that says
something. Log-probabilities are negative, so half the median lies above it, and "better" is
closer to 0:

    log-probabilities    -30    -4   -22   -26   -11
    median -22, half of it -11: -4 is better and goes; -11 is no better and stays
    kept, best first     -11 (the answer), -22, -26, -30
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def kept_order(log_probabilities: Sequence[float]) -> list[int]:
    """Returns the positions of the outputs that are kept, best first; of equal ones the earlier.

    At least one is kept: the median is never above half of itself.

    >>> kept_order([-30.0, -4.0, -22.0, -26.0, -11.0])
    [4, 2, 3, 0]

    Args:
      log_probabilities: of each output the sum over its tokens, EOS included, under the model at
        temperature 1: at most 0. Of an even number of them the median is the mean of the two in
        the middle.

    Raises:
      ValueError: there is none, or one is above 0 or not finite.
    """
    if not log_probabilities:
        raise ValueError("there is no output to choose from")
    for value in log_probabilities:
        if not (math.isfinite(value) and value <= 0):
            raise ValueError(f"{value} is no log-probability: finite and at most 0")
    limit = statistics.median(log_probabilities) / 2
    kept = [index for index, value in enumerate(log_probabilities) if value <= limit]
    return sorted(kept, key=lambda index: -log_probabilities[index])
