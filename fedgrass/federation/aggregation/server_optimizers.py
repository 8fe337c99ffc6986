"""Server optimizers: the mean change is treated as a gradient, and a step is made along it.

Reddi et al., "Adaptive Federated Optimization" (2021), algorithm 2, and Hsu et al., "Measuring the Effects
of Non-Identical Data Distribution for Federated Visual Classification" (2019). The mean change is weighted
by examples, as in FedAvg. Their state is stored with each model, so a run can be continued.

All arrays are float64 of shape (L,), one slice of the model.
"""

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedgrass.federation.aggregation.aggregation_strategy import Floats
from fedgrass.federation.aggregation.means import WeightedMean

Rate = Annotated[float, Meta(gt=0, le=1_000)]
Decay = Annotated[float, Meta(ge=0, lt=1)]


class FedAvgM(WeightedMean, frozen=True):
    """Momentum on the server: v = momentum * v + change; model + server_rate * v (Hsu et al. 2019)."""

    state: ClassVar[tuple[str, ...]] = ("momentum",)

    server_rate: Rate = 1.0
    momentum: Decay = 0.9

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002 - the base class's signature
        """Return the model after a step along the momentum, float64 array of shape (L,)."""
        velocity = state["momentum"]
        velocity *= self.momentum
        velocity += change
        return model + self.server_rate * velocity


class _Adaptive(WeightedMean, frozen=True):
    """Base class of the adaptive optimizers: m is the moving average of the changes, v of their squares."""

    state: ClassVar[tuple[str, ...]] = ("mean", "variance")

    server_rate: Rate = 0.1
    beta_1: Decay = 0.9
    tau: Annotated[float, Meta(gt=0)] = 1e-3  # smaller values make it more adaptive

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:
        """Return the model after a step of server_rate * m / (sqrt(v) + tau), float64 array of shape (L,)."""
        mean, variance = state["mean"], state["variance"]
        mean *= self.beta_1
        mean += (1 - self.beta_1) * change
        self._update_variance(variance, np.square(change))
        return model + self._rate(turn) * mean / (np.sqrt(variance) + self.tau)

    def _update_variance(self, variance: Floats, square: Floats) -> None:
        """Update ``variance`` in place."""
        raise NotImplementedError

    def _rate(self, turn: int) -> float:  # noqa: ARG002 - for subclasses
        return self.server_rate


class FedAdagrad(_Adaptive, frozen=True):
    """v = v + change^2; by default without the moving average of changes (beta_1 = 0)."""

    beta_1: Decay = 0.0

    def _update_variance(self, variance: Floats, square: Floats) -> None:
        variance += square


class FedYogi(_Adaptive, frozen=True):
    """v = v - (1 - beta_2) * change^2 * sign(v - change^2): v grows fast and shrinks slowly."""

    server_rate: Rate = 0.01
    beta_2: Decay = 0.99

    def _update_variance(self, variance: Floats, square: Floats) -> None:
        variance -= (1 - self.beta_2) * square * np.sign(variance - square)


class FedAdam(_Adaptive, frozen=True):
    """v = beta_2 * v + (1 - beta_2) * change^2; the rate corrects for m and v starting at 0.

    The bias correction is that of Kingma and Ba, "Adam" (2015), which Reddi et al. leave out. Its exponent is
    1 in the first round; Flower's is 2.
    """

    beta_2: Decay = 0.99

    def _update_variance(self, variance: Floats, square: Floats) -> None:
        variance *= self.beta_2
        variance += (1 - self.beta_2) * square

    def _rate(self, turn: int) -> float:
        correction: float = np.sqrt(1 - self.beta_2**turn) / (1 - self.beta_1**turn)
        return self.server_rate * correction
