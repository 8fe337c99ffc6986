"""The model of a swarm, and the updates of its devices: noise that is drawn once per round, and a mark.

Each update has the same noise and the device's own mark, so an update costs one pass over its bytes. The mark
of the new global model is the mean of the counted devices' marks: if a reply had been averaged twice, or
left out, it would differ (``swarm_figures.mark_error``).
"""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation import weights
from fedgrass.swarm.swarm_spec import MARK, NOISE

_BYTES: Final = 4  # of a float32
_MEGABYTE: Final = 1e6
_STEP: Final = 0.01  # standard deviation of the noise


def initial_model(megabytes: float) -> dict[str, NDArray[np.float32]]:
    """Return the global model of the start: zeros, of about ``megabytes`` in total."""
    values = max(1, round(megabytes * _MEGABYTE / _BYTES))
    return {NOISE: np.zeros(values, np.float32), MARK: np.zeros(1, np.float32)}


def prepared_update(megabytes: float, seed: int, number: int, mark: int) -> tuple[bytes, str]:
    """Return the file of a device's update for round ``number``, and its checksum as in a completion.

    Args:
        megabytes: size of the model.
        seed: of the swarm.
        number: of the round.
        mark: of the device.
    """
    data = weights.encode({NOISE: _noise(megabytes, seed, number), MARK: np.array([mark], np.float32)})
    return data, weights.checksum(data)


@lru_cache(maxsize=4)
def _noise(megabytes: float, seed: int, number: int) -> NDArray[np.float32]:
    """Return the noise of a round, float32 of the shape of the model's array."""
    size = initial_model(megabytes)[NOISE].size
    return np.random.default_rng((seed, number)).normal(0, _STEP, size).astype(np.float32)
