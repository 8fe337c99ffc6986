"""Means of updates (federated averaging, FedProx, q-FedAvg), and the server optimizers that step by them.

The number of examples, an update's weight, is the device's own claim. A claim counts up to a multiple of
the median of the cohort's claims (the setting ``examples_cap``). Truncating the weights keeps a dishonest
device from dominating the mean: Portnoy, Tirosh and Hendler, "Towards Federated Learning with
Byzantine-Robust Client Weighting" (2020). The lower median is used for an even number of claims, so that
half of the cohort may claim too much without moving it.

A server optimizer treats the mean change as a gradient and makes a step along it: Reddi et al., "Adaptive
Federated Optimization" (2021), algorithm 2, and Hsu et al., "Measuring the Effects of Non-Identical Data
Distribution for Federated Visual Classification" (2019). Its state is stored with each model, so a run
can be continued. All arrays are float64 of shape (L,), one slice of the model.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from fedgrass.federation.aggregation.aggregation_strategy import Contribution, Floats, Strategy, Survey
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_fields import LARGEST_NUMBER
from fedgrass.federation.rounds import Participant, Round


def example_cap(claims: Iterable[int], multiple: float) -> float:
    """Return the most examples that a claim counts for; infinity without a limit.

    Args:
        claims: Claimed examples of all devices of the cohort; zeros are ignored.
        multiple: Factor on the median claim, at least 1; 0: without limit.
    """
    ordered = sorted(claim for claim in claims if claim > 0)
    if not ordered or not multiple:
        return math.inf
    return min(LARGEST_NUMBER, math.floor(multiple * ordered[(len(ordered) - 1) // 2]))


def example_cap_of_round(round_: Round, cohort: Iterable[Participant], multiple: float) -> float:
    """Return the most examples that an update of a round counts for.

    If groups are summed before all replies have arrived, the first group's claims fix it for the round: all
    averagers have to use the same weights.
    """
    return round_.example_cap or example_cap((part.examples for part in cohort), multiple)


class WeightedMean(Strategy, frozen=True):
    """The mean weighted by the number of examples: sum(n_i * w_i) / sum(n_i).

    Federated averaging as in McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data" (2017), algorithm 1.
    """

    separable: ClassVar[bool] = True


class Mean(Strategy, frozen=True):
    """The unweighted mean: sum(w_i) / K."""

    separable: ClassVar[bool] = True

    def share(self, contribution: Contribution) -> float:  # noqa: ARG002 - the base class's signature
        """Return 1, regardless of the number of examples."""
        return 1.0


class FedProx(WeightedMean, frozen=True):
    """The weighted mean of models that were kept close to the global one during training.

    Li et al., "Federated Optimization in Heterogeneous Networks" (2020), algorithm 2: the device adds
    ``proximal`` / 2 * ||w - w_global||^2 to its loss. The averager computes the weighted mean; the factor
    is sent to the devices with the training settings.
    """

    proximal: Annotated[float, Meta(ge=0)] = 0.01

    def training(self) -> dict[str, float]:
        """Return the factor, which the device adds to its loss."""
        return {"proximal": self.proximal}


_SMALLEST_LOSS = 1e-10  # as in the authors' code: 0 cannot be raised to a negative power
_LARGEST_PULL = 1e140  # of a loss to the power of q: its product with a squared norm stays finite


class QFedAvg(Strategy, frozen=True):
    """The mean weighted by each device's loss to the power of ``q``; q = 0 is the unweighted mean.

    Li et al., "Fair Resource Allocation in Federated Learning" (2020), algorithm 2, with the loss F_k of the
    global model on the device's data and the change c_k: the step is
    sum(F_k^q * L * c_k) / sum(q * F_k^(q-1) * ||L * c_k||^2 + L * F_k^q), where L = 1 / ``learning_rate``.
    """

    survey: ClassVar[Literal["", "norms", "products"]] = "norms"
    needs_one_model: ClassVar[str] = "it compares the losses that devices measured of it"

    q: Annotated[float, Meta(ge=0, le=100)] = 0.1
    learning_rate: Annotated[float, Meta(gt=0)] = 0.1  # of the devices' training

    def check(self, contribution: Contribution) -> None:
        """Refuse an update whose device reported no usable ``loss``.

        Raises:
            UpdateRefused: The loss is missing, negative, or too large to be raised to the power of ``q``.
        """
        loss = contribution.metrics.get("loss")
        if loss is None or not 0 <= loss <= _LARGEST_PULL ** (1 / max(1.0, self.q)):
            message = (
                f"q_fedavg weighs by the metric 'loss', and {contribution.device} reported {loss}: the task's"
                " evaluate must return a loss of at least 0 that is not too large to calculate with"
            )
            raise UpdateRefused(message)

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weights, float64 array of shape (N,); their sum, the step length, is not 1."""
        losses = np.array([contribution.metrics["loss"] for contribution in contributions]) + _SMALLEST_LOSS
        lipschitz = 1 / self.learning_rate
        norms = np.zeros(len(losses)) if survey is None else survey.squared_norms
        pulls = losses**self.q
        curvature = self.q * losses ** (self.q - 1) * norms * lipschitz**2 + lipschitz * pulls
        return np.asarray(pulls * lipschitz / curvature.sum())


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
    first_exponent: Annotated[int, Meta(ge=1, le=2)] = 1  # of the bias correction, in the first round

    def _update_variance(self, variance: Floats, square: Floats) -> None:
        variance *= self.beta_2
        variance += (1 - self.beta_2) * square

    def _rate(self, turn: int) -> float:
        exponent = turn + self.first_exponent - 1
        correction: float = np.sqrt(1 - self.beta_2**exponent) / (1 - self.beta_1**exponent)
        return self.server_rate * correction
