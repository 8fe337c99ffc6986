"""q-FedAvg: devices whose loss is high pull harder."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from fedgrass.federation.aggregation.strategy import Contribution, Floats, Strategy, Survey
from fedgrass.federation.errors import UpdateRefused

_SMALLEST_LOSS = 1e-10  # as in the authors' code: a loss of 0 has no power below 0
_LARGEST_PULL = 1e140  # of a loss to the power of q: times a squared norm it still is a number


class QFedAvg(Strategy, frozen=True):
    """Weighs each change by its device's loss to the power of ``q``; q = 0 is the plain mean.

    Li et al., "Fair Resource Allocation in Federated Learning" (2020), algorithm 2, with the loss F_k of the
    global model on the device's data and the change c_k: the step is
    sum(F_k^q * L * c_k) / sum(q * F_k^(q-1) * ||L * c_k||^2 + L * F_k^q), where L = 1 / ``learning_rate``.
    """

    survey: ClassVar[Literal["", "norms", "products"]] = "norms"

    q: Annotated[float, Meta(ge=0, le=100)] = 0.1
    learning_rate: Annotated[float, Meta(gt=0)] = 0.1  # of the devices' training

    def check(self, contribution: Contribution) -> None:
        """Refuse an update whose device did not report its ``loss``, or one that has no weight.

        Raises:
            UpdateRefused: the loss is missing, negative, or too large to be raised to the power of ``q``.
        """
        loss = contribution.metrics.get("loss")
        if loss is None or not 0 <= loss <= _LARGEST_PULL ** (1 / max(1.0, self.q)):
            message = (
                f"q_fedavg weighs by the metric 'loss', and {contribution.device} reported {loss}: the task's"
                " evaluate must return a loss that is 0 or more, and not too large to calculate with"
            )
            raise UpdateRefused(message)

    def weigh(self, contributions: Sequence[Contribution], survey: Survey | None) -> Floats:
        """Return the weights; their sum is not 1, since the step has a length of its own."""
        losses = np.array([contribution.metrics["loss"] for contribution in contributions]) + _SMALLEST_LOSS
        lipschitz = 1 / self.learning_rate
        norms = np.zeros(len(losses)) if survey is None else survey.squared_norms
        pulls = losses**self.q
        curvature = self.q * losses ** (self.q - 1) * norms * lipschitz**2 + lipschitz * pulls
        return np.asarray(pulls * lipschitz / curvature.sum())
