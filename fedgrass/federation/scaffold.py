"""The device's half of SCAFFOLD, as arithmetic on named arrays; a task does it around its own training.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (2020), algorithm 1
with option II. In each of the K steps of local training, at the learning rate r, a device takes

    y = y - r * (gradient + correction)        correction = c - c_i

and afterwards its control variate c_i becomes c_i - c + (x - y) / (K * r), where x is the global model and c
the server's control variate, both as they were downloaded. c_i stays on the device; what changed goes to the
averager with the update. That c_i is the mean gradient only holds for plain steps: with momentum or an
adaptive optimizer the effective rate differs, and so does the method.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.floating]]
Control = dict[str, NDArray[np.float32]]


def correction(server: Arrays, own: Arrays) -> Control:
    """Return what is added to each gradient: c - c_i, in the shapes of the model's arrays of floats.

    Args:
        server: the server's control variate; an array that it lacks is zero, as all are before round 1.
        own: the device's, likewise.
    """
    names = server.keys() | own.keys()
    return {name: _values(server, name) - _values(own, name) for name in sorted(names)}


def control_change(
    start: Arrays, trained: Arrays, server: Arrays, steps: int, learning_rate: float
) -> Control:
    """Return by how much the device's control variate changes: (x - y) / (K * r) - c.

    Args:
        start: x, the arrays of floats of the model that the training started from.
        trained: y, the same arrays after it.
        server: c; an array that it lacks is zero.
        steps: K, the steps that the training took, 1 or more.
        learning_rate: r, of plain gradient steps.

    Raises:
        ValueError: there were no steps, or the rate is not above 0.
    """
    if steps < 1 or not learning_rate > 0:
        message = f"SCAFFOLD divides by {steps} steps times the learning rate {learning_rate}: both above 0"
        raise ValueError(message)
    path = steps * learning_rate
    return {
        name: ((_values(start, name) - _values(trained, name)) / path - _values(server, name)).astype(
            np.float32
        )
        for name in start
    }


def control_after(own: Arrays, change: Arrays) -> Control:
    """Return the device's control variate with its change, to be kept until it trains again."""
    return {name: (_values(own, name) + _values(change, name)).astype(np.float32) for name in change}


def _values(arrays: Arrays, name: str) -> NDArray[np.float32]:
    found = arrays.get(name)
    return np.zeros((), np.float32) if found is None else np.asarray(found, np.float32)
