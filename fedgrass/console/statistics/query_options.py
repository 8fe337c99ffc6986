"""The query that the options of ``fedgrass stats start`` describe."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.statistics.statistics_query import ALL, LABELS
from fedgrass.federation.statistics.statistics_result import StatisticsResult


def query_of(
    given: Mapping[str, Any], given_edges: Sequence[str], other: StatisticsResult | None = None
) -> dict[str, Any]:
    """Return the given options as the setting ``statistics``.

    Args:
        given: the plain options, by the name of their setting.
        given_edges: histograms' edges, as FEATURE=E0,E1,...
        other: the result whose histograms' edges are taken, if any.

    Raises:
        SettingsError: edges are not numbers, or the other result has none.
    """
    query = dict(given)
    edges = dict(map(_parse_edges, given_edges))
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
