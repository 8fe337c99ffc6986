"""SCAFFOLD: each device knows how its own gradients differ from the fleet's, and corrects its steps by that.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (2020), algorithm 1.
Here is the server's half; the device's is in fedgrass/federation/scaffold.py.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from fedgrass.federation.aggregation.means import Mean
from fedgrass.federation.aggregation.strategy import Floats


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
