"""Checks the settings of a run whose strategy reads whole updates, such as ``tree_bagging``."""

from collections.abc import Iterator

from fedgrass.federation.aggregation import Strategy
from fedgrass.federation.aggregation.tree_bagging import (
    MOST_PER_ROUND,
    TREES_PER_ROUND,
    TreeBagging,
    is_trees_per_round,
)
from fedgrass.federation.conversion import shown
from fedgrass.federation.settings import RunSettings

_NEEDS_FIXED_SHAPES = {
    "upload_encoding": "float32",
    "upload_difference": False,
    "download_encoding": "float32",
    "clip_norm": None,
    "largest_norm": None,
    "shared": [],
    "mode": "synchronous",
}


def whole_contradictions(settings: RunSettings, chosen: Strategy) -> Iterator[str]:
    """Yield a message on each setting that does not fit ``chosen``, a strategy that reads whole updates."""
    for field, plain in _NEEDS_FIXED_SHAPES.items():
        if (value := getattr(settings, field)) != plain:
            yield (
                f"the run's {field} is {shown(value)}, which needs updates with the model's shapes; the"
                f" updates of the aggregation {settings.aggregation!r} have their own: leave {field} out"
            )
    if isinstance(chosen, TreeBagging):
        yield from _tree_contradictions(settings)


def _tree_contradictions(settings: RunSettings) -> Iterator[str]:
    places = {"training": settings.training}
    places |= {f"training_by_round.{number}": found for number, found in settings.training_by_round.items()}
    for place, training in places.items():
        if TREES_PER_ROUND in training and not is_trees_per_round(value := training[TREES_PER_ROUND]):
            yield (
                f"the run's {place}.{TREES_PER_ROUND} is {shown(value)}: it takes a whole number from 1 to"
                f" {MOST_PER_ROUND}"
            )
        if "most_nodes" in training:
            yield f"the run's {place}.most_nodes belongs to aggregation_options: the server checks it"
