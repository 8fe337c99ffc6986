"""How the updates of a round become the next global model.

    aggregation_strategy.py   what a strategy is
    means.py                  mean, weighted mean, FedProx, q-FedAvg; the cap on claimed examples
    server_optimizers.py      FedAvgM, FedAdagrad, FedAdam, FedYogi
    byzantine_robust.py       median, trimmed mean, Krum, Multi-Krum
    scaffold.py               SCAFFOLD, the server's part and the device's
    sharding_plan.py          how the work is divided among averagers

A custom strategy derives from ``Strategy`` and gets a line in ``STRATEGIES``, or is named by
``module:Class`` where the averager can import it.
"""

import re
from collections.abc import Mapping

import msgspec

from fedgrass.federation.aggregation.aggregation_strategy import Contribution, Strategy, Survey
from fedgrass.federation.aggregation.byzantine_robust import Krum, Median, MultiKrum, TrimmedMean
from fedgrass.federation.aggregation.means import FedProx, Mean, QFedAvg, WeightedMean
from fedgrass.federation.aggregation.scaffold import Scaffold
from fedgrass.federation.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from fedgrass.federation.conversion import convert, nearest
from fedgrass.federation.errors import SettingsError

__all__ = ["OWN", "STRATEGIES", "Contribution", "Strategy", "Survey", "configured", "strategy"]

OWN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")  # module:Class

# With their default options, converted here and not at their first use: see selection/__init__.py.
STRATEGIES: Mapping[str, Strategy] = {
    name: msgspec.convert({}, kind)
    for name, kind in {
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
    }.items()
}


def strategy(name: str, options: Mapping[str, object]) -> Strategy | None:
    """Return the strategy ``name`` with ``options``; None for one of the user's own, which the cloud has.

    Raises:
        SettingsError: there is no such strategy, or it has no such option, or not of that value.
    """
    if OWN.fullmatch(name):
        return None
    default = STRATEGIES.get(name)
    if default is None:
        message = f"the run's aggregation is {name!r}: {nearest(name, STRATEGIES)}"
        raise SettingsError(message)
    return configured(name, type(default), options)


def configured(name: str, kind: type[Strategy], options: Mapping[str, object]) -> Strategy:
    """Return a strategy of ``kind`` with ``options``. Raises SettingsError in words that name the option."""
    try:
        return convert(
            options,
            kind,
            whole=f"the run's aggregation_options with the aggregation {name!r}",
            part="the run's aggregation_options.",
        )
    except SettingsError as error:
        known = ", ".join(map(_option, msgspec.structs.fields(kind)))
        message = f"{error} (the aggregation {name!r} has {known or 'no options'})"
        raise SettingsError(message) from error


def _option(field: msgspec.structs.FieldInfo) -> str:
    return field.name if field.required else f"{field.name} = {field.default}"
