"""Which devices a round asks: candidates, filters over them, and the strategies that choose among them.

    candidates.py   a candidate, and the average of its turnarounds
    filters.py      who is a candidate at all: seen, task, examples, attributes, thing group, cool-down
    where.py        the language of attribute conditions
    sampling.py     some candidates of a fleet too large to read
    strategy.py     what a strategy is; basic.py, by_speed.py, by_utility.py have them

A strategy of one's own derives from ``Strategy`` and gets a line in ``SELECTIONS``.
"""

from collections.abc import Mapping

import msgspec

from fedgrass.federation.conversion import convert
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.selection.basic import Everybody, Fastest, Uniform
from fedgrass.federation.selection.by_speed import Probabilistic, WeightedBySpeed
from fedgrass.federation.selection.by_utility import Oort, PowerOfChoice
from fedgrass.federation.selection.candidates import Candidate, Choose, average_turnaround
from fedgrass.federation.selection.strategy import Strategy

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
