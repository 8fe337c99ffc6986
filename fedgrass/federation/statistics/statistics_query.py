"""The query of a run of statistics: which statistics of which features the devices compute.

A histogram needs edges that all devices share. Those that the operator does not give are agreed by a first
round that asks for quantile sketches only: the edges of each feature divide the range between two quantiles
of the merged sketch into equal parts. Minimum and maximum would agree them as well, but each is the value of
a single example of a single device, and the second round shows the edges to every device; a quantile of the
merged sketch is part of the result in any case. See docs/statistics.md.
"""

import fnmatch
import math
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from fedgrass.federation.errors import SettingsError

Statistic = Literal["mean", "variance", "min", "max", "histogram", "quantiles", "labels"]
ALL: tuple[Statistic, ...] = ("mean", "variance", "min", "max", "histogram", "quantiles", "labels")
LEAST_DEVICES = 3  # a result of two devices shows each of them the other's data
MOST_FEATURES = 256  # of a device
MOST_EDGES = 257
LARGEST_QUERY = 4 * 1024**2  # bytes of JSON: 256 features with 257 edges each
LABELS = "labels"  # the column of class labels
LONGEST_NAME = 64  # characters of a feature's name
_CUT_OFF = 0.005  # of the values are below the first agreed edge, the same share above the last one

FeatureName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_NAME,
        pattern=r"^[^\x00-\x1f\x7f]*\Z",
        description="a text of 1 to 64 characters without control characters",
    ),
]
Edges = Annotated[
    list[float], Meta(min_length=2, max_length=MOST_EDGES, description="2 to 257 ascending numbers")
]


class StatisticsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the devices of a run compute. Counts of values, missing and infinite ones are always included."""

    features: Annotated[list[FeatureName], Meta(min_length=1, max_length=MOST_FEATURES)] = field(
        default_factory=lambda: ["*"]
    )  # patterns
    statistics: Annotated[list[Statistic], Meta(min_length=1, max_length=len(ALL))] = field(
        default_factory=lambda: list(ALL)
    )
    edges: Annotated[dict[FeatureName, Edges], Meta(max_length=4 * MOST_FEATURES)] = {}  # of histograms
    bins: Annotated[int, Meta(ge=1, le=MOST_EDGES - 1)] = 20  # of histograms whose edges are agreed
    quantiles: Annotated[int, Meta(ge=2, le=1000)] = 20  # at the ranks 1/quantiles, 2/quantiles, ...
    sketch_k: Annotated[int, Meta(ge=8, le=4096)] = 200  # of KLL: the larger, the more precise
    most_labels: Annotated[int, Meta(ge=1, le=1000)] = 100  # counted by name; the others are one rest
    minimum_devices: Annotated[int, Meta(ge=LEAST_DEVICES, le=1_000_000)] = 5  # behind any published figure
    # Total privacy budget of an answer: smaller means more noise. 0: no noise, unless a device adds its own.
    epsilon: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    agree: bool = False  # a first round: only the sketches from which edges are agreed

    def asks(self, statistic: Statistic) -> bool:
        """Return whether the query asks for a statistic."""
        return statistic in self.statistics

    def wants(self, feature: str) -> bool:
        """Return whether a feature matches one of the query's patterns."""
        return any(fnmatch.fnmatchcase(feature, pattern) for pattern in self.features)

    @property
    def rounds(self) -> int:
        """The number of rounds of the run: 2 if edges of histograms have to be agreed, otherwise 1."""
        return 2 if self.asks("histogram") and not self.complete else 1

    @property
    def complete(self) -> bool:
        """Whether the query has edges for each feature that it names. Patterns may match any feature.

        Class labels are counted by value, so they need no edges.
        """
        return all(pattern in self.edges or pattern == LABELS for pattern in self.features)

    def edges_of(self, feature: str) -> list[float] | None:
        """Return the edges of a feature's histogram, or None if it has none."""
        return self.edges.get(feature) if self.asks("histogram") else None

    def first(self) -> "StatisticsQuery":
        """Return the query of the run's first round."""
        return msgspec.structs.replace(self, agree=True) if self.rounds > 1 else self


def check_query(query: StatisticsQuery) -> None:
    """Check what no single field of a query can express. Raises SettingsError."""
    for complaint in _contradictions(query):
        raise SettingsError(complaint)


def _contradictions(query: StatisticsQuery) -> Iterator[str]:
    for feature, edges in query.edges.items():
        if problem := why_not_edges(edges):
            yield f"the edges of {feature!r} {problem}: give ascending finite numbers"
        if not query.wants(feature):
            asked = ", ".join(query.features)
            yield f"the query has edges of {feature!r}, which none of its features matches: {asked}"
    if query.edges and not query.asks("histogram"):
        yield "the query has edges but does not ask for 'histogram': add it to statistics, or leave edges out"
    if not math.isfinite(query.epsilon):
        yield f"the query's epsilon is {query.epsilon}: it takes a finite number"
    if query.epsilon and query.rounds > 1:
        yield (
            f"the query's epsilon is {query.epsilon:g}, and its histograms lack edges: these are agreed by"
            " quantile sketches, which cannot have noise. Name the features, and give edges for each"
        )


def why_not_edges(edges: list[float]) -> str:
    """Return why a list of numbers cannot be the edges of a histogram; empty if it can."""
    for place, edge in enumerate(edges):
        if not math.isfinite(edge):
            return f"have {edge} at place {place + 1}"
        if place and edge <= edges[place - 1]:
            return f"are not ascending: {edge:g} follows {edges[place - 1]:g}"
    return ""


def agreed_ranks() -> tuple[float, float]:
    """Return the ranks between whose quantiles the agreed edges lie."""
    return _CUT_OFF, 1 - _CUT_OFF


def agreed_edges(low: float, high: float, bins: int) -> list[float] | None:
    """Return ``bins + 1`` edges from ``low`` to ``high``, or fewer where floats are too coarse for them.

    A feature with one value gets one bin around it. None: there are no two floats to enclose it.
    """
    if low == high:
        spread = max(1.0, abs(low)) / 2
        found = [low - spread, high + spread]
    else:
        # Both halves separately: high - low may exceed the largest float.
        found = [low * (1 - place / bins) + high * (place / bins) for place in range(bins + 1)]
    ascending = sorted({edge for edge in found if math.isfinite(edge)})
    return ascending if len(ascending) > 1 else None
