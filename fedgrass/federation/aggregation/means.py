"""Averages: federated averaging, and the strategies whose other half is in the training on the device."""

from typing import Annotated, ClassVar

from msgspec import Meta

from fedgrass.federation.aggregation.strategy import Contribution, Strategy


class WeightedMean(Strategy, frozen=True):
    """Each update counts by its number of examples: sum(n_i * w_i) / sum(n_i).

    Federated averaging as in McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data" (2017), algorithm 1.
    """

    separable: ClassVar[bool] = True


class Mean(Strategy, frozen=True):
    """Each update counts the same: sum(w_i) / K."""

    separable: ClassVar[bool] = True

    def share(self, contribution: Contribution) -> float:  # noqa: ARG002
        """Return 1, whatever the number of examples."""
        return 1.0


class FedProx(WeightedMean, frozen=True):
    """The weighted mean of models that were held near the global one while they were trained.

    Li et al., "Federated Optimization in Heterogeneous Networks" (2020), algorithm 2: the device adds
    ``proximal`` / 2 * ||w - w_global||^2 to its loss. The averager's part is the weighted mean; the factor
    goes to the devices with the training settings.
    """

    proximal: Annotated[float, Meta(ge=0)] = 0.01

    def training(self) -> dict[str, float]:
        """Return the factor, which the device's part needs."""
        return {"proximal": self.proximal}
