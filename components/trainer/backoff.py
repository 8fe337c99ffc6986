"""How long to wait before the next try."""

import random
from collections.abc import Iterator


def delays(first: float, largest: float, rng: random.Random) -> Iterator[float]:
    """Yield seconds to wait: each twice the one before, up to ``largest``.

    Each is shortened by up to a quarter at random, so that a fleet that failed together does not try again
    together (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """
    delay = first
    while True:
        yield delay * rng.uniform(0.75, 1.0)
        delay = min(largest, delay * 2)
