"""SCAFFOLD: each device corrects its steps by how its gradients differ from the fleet's.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (2020), algorithm 1
with option II. ``Scaffold`` is the server's part; the functions are the device's, as arithmetic on named
arrays that a task applies around its training. In each of the K steps of local training with the
learning rate r, a device computes

    y = y - r * (gradient + correction)        correction = c - c_i

and afterwards its control variate c_i becomes c_i - c + (x - y) / (K * r), where x is the downloaded global
model and c the server's downloaded control variate. c_i stays on the device; its change is sent to the
averager with the update. c_i is the mean gradient only for plain steps: with momentum or an adaptive
optimizer the effective rate differs, and the method does not hold.
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

    The server's control variate moves by |S| / N of the mean change, where |S| is the number of updates of
    the round and N the ``population`` from which rounds select their cohorts.
    """

    state: ClassVar[tuple[str, ...]] = ("control",)
    carried: ClassVar[tuple[str, ...]] = ("control",)
    without: ClassVar[tuple[str, ...]] = ("momentum", "patience_epochs", "max_grad_norm")

    server_rate: Annotated[float, Meta(gt=0, le=1_000)] = 1.0
    population: Annotated[int, Meta(ge=1)] | None = None  # default: the number of devices asked

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the base class's signature
        """Return the model after a step along the mean change, float64 array of shape (L,)."""
        return model + self.server_rate * change

    def carry(self, values: Floats, change: Floats, counted: int, asked: int) -> Floats:
        """Return the server's control variate after the round, float64 array of shape (L,)."""
        return values + min(1.0, counted / (self.population or asked)) * change


Arrays = Mapping[str, NDArray[np.floating]]
Control = dict[str, NDArray[np.float32]]


def correction(server: Arrays, own: Arrays) -> Control:
    """Return what is added to each gradient, c - c_i: float32 arrays in the shapes of the model's.

    Args:
        server: The server's control variate by array name, floating-point arrays; missing arrays are zero, as
            all are before the first round.
        own: The device's control variate, in the same form.
    """
    names = server.keys() | own.keys()
    return {name: _values(server, name) - _values(own, name) for name in sorted(names)}


def control_change(
    start: Arrays, trained: Arrays, server: Arrays, steps: int, learning_rate: float
) -> Control:
    """Return the change of the device's control variate: (x - y) / (K * r) - c.

    Args:
        start: x, the model's floating-point arrays before training, by name.
        trained: y, the same arrays after training.
        server: c, in the same form; missing arrays are zero.
        steps: K, the number of steps taken, at least 1.
        learning_rate: r, of plain gradient steps, above 0.

    Returns:
        float32 arrays by name, in the shapes of ``start``.

    Raises:
        ValueError: ``steps`` is below 1, or ``learning_rate`` not above 0.
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
    """Return the device's control variate after its change: float32 arrays in the shapes of ``change``."""
    return {name: (_values(own, name) + _values(change, name)).astype(np.float32) for name in change}


def _values(arrays: Arrays, name: str) -> NDArray[np.float32]:
    found = arrays.get(name)
    return np.zeros((), np.float32) if found is None else np.asarray(found, np.float32)
