"""Which devices a round asks: candidates, filters, and the strategies that choose among the candidates.

    selection_strategy.py     a candidate, and the base class of strategies
    filters.py                which devices are candidates: last seen, task, examples, attributes, group, ...
    attribute_conditions.py   the language of the setting ``where``
    sampling.py               a sample of a fleet that is too large to read
    by_history.py             all, random, fastest; strategies by turnaround, loss, examples and speed

To add a strategy, derive it from ``Strategy`` and add a line to ``SELECTIONS``.
"""

from fedgrass.federation.selection.by_history import (
    Everybody,
    Fastest,
    Oort,
    PowerOfChoice,
    Probabilistic,
    Uniform,
    WeightedBySpeed,
)
from fedgrass.federation.selection.selection_strategy import Candidate, Choose, Strategy, average_turnaround
from fedgrass.federation.strategy_registry import StrategyRegistry

__all__ = ["SELECTIONS", "Candidate", "Choose", "Strategy", "average_turnaround", "strategy"]

SELECTIONS: StrategyRegistry[Strategy] = StrategyRegistry(
    "selection",
    {
        "all": Everybody,
        "random": Uniform,
        "fastest": Fastest,
        "probabilistic": Probabilistic,
        "weighted_by_speed": WeightedBySpeed,
        "power_of_choice": PowerOfChoice,
        "oort": Oort,
    },
)
strategy = SELECTIONS.find
