"""The query that the options of ``fedgrass stats start`` describe."""

import argparse
from typing import Any

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.statistics.statistics_query import ALL, LABELS
from fedgrass.federation.statistics.statistics_result import StatisticsResult

_PLAIN = (
    *("features", "statistics", "bins", "quantiles", "sketch_k", "most_labels", "minimum_devices"),
    "epsilon",
)


def query_of(arguments: argparse.Namespace, other: StatisticsResult | None = None) -> dict[str, Any]:
    """Return the given options as the setting ``statistics``; what was not given is left out.

    Args:
        arguments: the parsed command line.
        other: the result whose histograms' edges are taken, if any.

    Raises:
        SettingsError: edges are not numbers, or the other result has none.
    """
    query = {name: value for name in _PLAIN if (value := getattr(arguments, name)) is not None}
    edges = dict(map(_parse_edges, arguments.edges))
    if other:
        found = {
            name: feature.histogram.edges for name, feature in other.features.items() if feature.histogram
        }
        if not found:
            message = f"--edges-of is {other.run}, whose result has no histograms"
            raise SettingsError(message)
        edges = {**found, **edges}
        query.setdefault("features", sorted(edges.keys() | other.features.keys()))
    if edges:
        query["edges"] = edges
        # Without patterns, only features that need no agreed edges are asked for: those with edges, labels.
        labels = {LABELS} if LABELS in query.get("statistics", ALL) else set()
        query.setdefault("features", sorted(labels.union(edges)))
    return query


def _parse_edges(given: str) -> tuple[str, list[float]]:
    name, equals, text = given.partition("=")
    try:
        if equals and name:
            return name, [float(edge) for edge in text.split(",")]
    except ValueError as error:
        message = f"--edges is {given!r}: {error}; it takes FEATURE=E0,E1,..., such as age=0,18,65,120"
        raise SettingsError(message) from error
    message = f"--edges is {given!r}; it takes FEATURE=E0,E1,..., such as age=0,18,65,120"
    raise SettingsError(message)
