"""Server optimizers: the mean change is taken as a gradient, and a step is made along it.

Reddi et al., "Adaptive Federated Optimization" (2021), algorithm 2, and Hsu et al., "Measuring the Effects
of Non-Identical Data Distribution for Federated Visual Classification" (2019). The mean change is weighted
by examples, as in FedAvg. Their state is kept beside each model, so a run continues it.
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

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:  # noqa: ARG002
        """Return the model after a step along the momentum."""
        velocity = state["momentum"]
        velocity *= self.momentum
        velocity += change
        return model + self.server_rate * velocity


class _Adaptive(WeightedMean, frozen=True):
    """What the three adaptive ones share: m is the mean of the changes, v of their squares."""

    state: ClassVar[tuple[str, ...]] = ("mean", "variance")

    server_rate: Rate = 0.1
    beta_1: Decay = 0.9
    tau: Annotated[float, Meta(gt=0)] = 1e-3  # how adaptive it is: the smaller, the more

    def step(self, model: Floats, change: Floats, state: dict[str, Floats], turn: int) -> Floats:
        """Return the model after a step of server_rate * m / (sqrt(v) + tau)."""
        mean, variance = state["mean"], state["variance"]
        mean *= self.beta_1
        mean += (1 - self.beta_1) * change
        self._remember(variance, np.square(change))
        return model + self._rate(turn) * mean / (np.sqrt(variance) + self.tau)

    def _remember(self, variance: Floats, square: Floats) -> None:
        """Bring ``variance`` up to date in place."""
        raise NotImplementedError

    def _rate(self, turn: int) -> float:  # noqa: ARG002
        return self.server_rate


class FedAdagrad(_Adaptive, frozen=True):
    """v = v + change^2; without the mean of earlier changes (beta_1 = 0) unless one asks for it."""

    beta_1: Decay = 0.0

    def _remember(self, variance: Floats, square: Floats) -> None:
        variance += square


class FedYogi(_Adaptive, frozen=True):
    """v = v - (1 - beta_2) * change^2 * sign(v - change^2): v grows fast and shrinks slowly."""

    server_rate: Rate = 0.01
    beta_2: Decay = 0.99

    def _remember(self, variance: Floats, square: Floats) -> None:
        variance -= (1 - self.beta_2) * square * np.sign(variance - square)


class FedAdam(_Adaptive, frozen=True):
    """v = beta_2 * v + (1 - beta_2) * change^2; the rate makes up for m and v beginning at 0.

    The correction is that of Kingma and Ba, "Adam" (2015), which Reddi et al. leave out. Its exponent is 1 in
    the first round; Flower's is 2.
    """

    beta_2: Decay = 0.99

    def _remember(self, variance: Floats, square: Floats) -> None:
        variance *= self.beta_2
        variance += (1 - self.beta_2) * square

    def _rate(self, turn: int) -> float:
        correction: float = np.sqrt(1 - self.beta_2**turn) / (1 - self.beta_1**turn)
        return self.server_rate * correction
