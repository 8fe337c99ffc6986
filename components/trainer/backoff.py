"""How long to wait before the next try."""

import random
from collections.abc import Iterator


def delays(first: float, largest: float, rng: random.Random) -> Iterator[float]:
    """Yield seconds to wait, with full jitter: anything up to a bound that doubles, up to ``largest``.

    A fleet that failed together so tries again evenly spread over the bound, and not in waves
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    """
    bound = first
    while True:
        yield rng.uniform(0.0, bound)
        bound = min(largest, bound * 2)
