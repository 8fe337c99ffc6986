"""How the updates of a round become the next global model.

    aggregation_strategy.py   the base class of strategies
    means.py                  mean, weighted mean, FedProx, q-FedAvg; the cap on claimed examples; server
                              optimizers: FedAvgM, FedAdagrad, FedAdam, FedYogi
    byzantine_robust.py       median, trimmed mean, Krum, Multi-Krum
    scaffold.py               SCAFFOLD, the server's part and the device's
    tree_bagging.py           gradient-boosted trees: the devices' trees are appended to the model's
    staleness.py              the weight of an update by the age of the model that it started from
    buffered_settings.py      which settings go together in a buffered run
    sharding_plan.py          how the work is divided among averagers
    collapsed_average.py      whether a model is far worse than the local models it was made of

A custom strategy derives from ``Strategy`` and gets a line in ``STRATEGIES``, or is named by
``module:Class`` where the averager can import it.
"""

from collections.abc import Mapping

from fedgrass.federation.aggregation.aggregation_strategy import (
    Contribution,
    Strategy,
    Survey,
    WholeStrategy,
)
from fedgrass.federation.aggregation.byzantine_robust import Krum, Median, MultiKrum, TrimmedMean
from fedgrass.federation.aggregation.means import (
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedProx,
    FedYogi,
    Mean,
    QFedAvg,
    WeightedMean,
)
from fedgrass.federation.aggregation.scaffold import Scaffold
from fedgrass.federation.aggregation.tree_bagging import TreeBagging
from fedgrass.federation.strategy_registry import CUSTOM_STRATEGY, StrategyRegistry

__all__ = ["STRATEGIES", "Contribution", "Strategy", "Survey", "WholeStrategy", "strategy"]

STRATEGIES: StrategyRegistry[Strategy] = StrategyRegistry(
    "aggregation",
    {
        "mean": Mean,
        "weighted_mean": WeightedMean,
        "fedprox": FedProx,
        "fedavgm": FedAvgM,
        "fedadagrad": FedAdagrad,
        "fedadam": FedAdam,
        "fedyogi": FedYogi,
        "median": Median,
        "trimmed_mean": TrimmedMean,
        "krum": Krum,
        "multi_krum": MultiKrum,
        "q_fedavg": QFedAvg,
        "scaffold": Scaffold,
        "tree_bagging": TreeBagging,
    },
)


def strategy(name: str, options: Mapping[str, object]) -> Strategy | None:
    """Return the strategy ``name`` with ``options``; None for a custom one, which only the cloud can import.

    Raises:
        SettingsError: The strategy does not exist, or an option is unknown or invalid.
    """
    return None if CUSTOM_STRATEGY.fullmatch(name) else STRATEGIES.find(name, options)
