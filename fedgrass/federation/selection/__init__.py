"""Which devices a round asks: candidates, filters over them, and the strategies that choose among them.

    selection_strategy.py     a candidate, and what a strategy is
    filters.py                which devices are candidates: seen, task, examples, attributes, group, cool-
  down
    attribute_conditions.py   the language of the setting ``where``
    sampling.py               a sample of a fleet that is too large to read
    by_speed.py               everybody, random, fastest, and strategies by turnaround
    by_utility.py             strategies by loss, examples and speed

A custom strategy derives from ``Strategy`` and gets a line in ``SELECTIONS``.
"""

from collections.abc import Mapping

import msgspec

from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection.by_speed import Everybody, Fastest, Probabilistic, Uniform, WeightedBySpeed
from fedgrass.federation.selection.by_utility import Oort, PowerOfChoice
from fedgrass.federation.selection.selection_strategy import Candidate, Choose, Strategy, average_turnaround

__all__ = [
    "SELECTIONS",
    "Candidate",
    "Choose",
    "Strategy",
    "average_turnaround",
    "strategy",
]

# With their default options. Converted here and not at their first use: msgspec 0.22 crashes the process if
# two threads are the first to use a type.
SELECTIONS: Mapping[str, Strategy] = {
    name: msgspec.convert({}, kind)
    for name, kind in {
        "all": Everybody,
        "random": Uniform,
        "fastest": Fastest,
        "probabilistic": Probabilistic,
        "weighted_by_speed": WeightedBySpeed,
        "power_of_choice": PowerOfChoice,
        "oort": Oort,
    }.items()
}


def strategy(name: str, options: Mapping[str, object]) -> Strategy:
    """Return the strategy ``name`` with ``options``, a decoded JSON object.

    Raises:
        SettingsError: there is no such strategy, or it has no such option, or not of that value.
    """
    default = SELECTIONS.get(name)
    if default is None:
        message = f"the run's selection is {name!r}; it may be one of: {', '.join(sorted(SELECTIONS))}"
        raise SettingsError(message)
    try:
        return convert(
            options,
            type(default),
            whole=f"the run's selection_options with the selection {name!r}",
            part="the run's selection_options.",
        )
    except SettingsError as error:
        known = ", ".join(f"{field} = {getattr(default, field)}" for field in default.__struct_fields__)
        message = f"{error} (the selection {name!r} has {known or 'no options'})"
        raise SettingsError(message) from error
