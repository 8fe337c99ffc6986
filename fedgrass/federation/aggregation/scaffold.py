"""SCAFFOLD: each device corrects its steps by how its own gradients differ from the fleet's.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (2020), algorithm 1
with option II. ``Scaffold`` is the server's part; the functions are the device's, as arithmetic on named
arrays that a task applies around its own training. In each of the K steps of local training, at the
learning rate r, a device takes

    y = y - r * (gradient + correction)        correction = c - c_i

and afterwards its control variate c_i becomes c_i - c + (x - y) / (K * r), where x is the global model
and c the server's control variate, both as they were downloaded. c_i stays on the device; its change is
sent to the averager with the update. That c_i is the mean gradient only holds for plain steps: with
momentum or an adaptive optimizer the effective rate differs, and so does the method.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.aggregation.means import Mean


class Scaffold(Mean, frozen=True):
    """The mean of the models, and of the changes of the devices' control variates.

    The server's control variate follows by |S| / N of their mean: |S| are the updates of the round, and N is
    the ``population`` of which the rounds ask some.
    """

    state: ClassVar[tuple[str, ...]] = ("control",)
    carried: ClassVar[tuple[str, ...]] = ("control",)
    without: ClassVar[tuple[str, ...]] = (
        "momentum",
        "patience_epochs",
        "max_grad_norm",
    )  # the steps have to be plain

    server_rate: Annotated[float, Meta(gt=0, le=1_000)] = 1.0
    population: Annotated[int, Meta(ge=1)] | None = None  # as many as the round asked unless it is given

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002
        """Return the model after a step along the mean change."""
        return model + self.server_rate * change

    def carry(self, values: Floats, change: Floats, counted: int, asked: int) -> Floats:
        """Return the server's control variate after the round."""
        return values + min(1.0, counted / (self.population or asked)) * change


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
