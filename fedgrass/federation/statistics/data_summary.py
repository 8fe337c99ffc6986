"""A device's answer, computed from batches of its data in memory that does not grow with their number."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import FedgrassError
from fedgrass.federation.statistics import exact_sums, quantile_sketches
from fedgrass.federation.statistics.count_noise import LARGEST_SCALE, with_noise
from fedgrass.federation.statistics.quantile_sketches import QuantileSketch
from fedgrass.federation.statistics.statistics_answer import (
    LONGEST_LABEL,
    FeatureAnswer,
    LabelCounts,
    StatisticsAnswer,
)
from fedgrass.federation.statistics.statistics_query import (
    LABELS,
    LONGEST_NAME,
    MOST_FEATURES,
    Statistic,
    StatisticsQuery,
)

MOST_COLUMNS = 64  # of an array of shape (n, columns), each of which becomes a feature
_MOST_DISTINCT = 100_000  # labels counted by name on the device; further ones are added to the rest
_RARE = 20.0  # times the scale of the noise: a single example exceeds it once in 10^9 times
_NOISE = "noise is added to counts, histograms and label counts only"
_AGREEING = "the first round only agrees the edges of histograms"
_TEXT_KINDS = "USO"  # of numpy: str, bytes, objects
_NUMBER_KINDS = "iufb"  # whole numbers, floats, truth values
Batch = Mapping[str, Any]


class UnusableFeatures(FedgrassError):
    """The features of a task cannot be summarized; the text names the feature and what is accepted."""


def columns_of(batch: Batch) -> dict[str, NDArray[Any]]:
    """Return the features of a batch, each an array of shape (n, ...), with names that a query may match.

    An array of shape (n, c) with at most 64 columns becomes the features ``name.0`` to ``name.<c - 1>``; one
    with more columns or dimensions stays one feature of all its values. ``labels`` stays as it is.

    Raises:
        UnusableFeatures: the arrays differ in length, or one has no rows to count.
    """
    found: dict[str, NDArray[Any]] = {}
    rows: dict[str, int] = {}
    for name, values in batch.items():
        array = np.asarray(values)
        if not array.ndim:
            message = f"feature {name!r} is {values!r}: it takes an array with a row per example"
            raise UnusableFeatures(message)
        rows[name] = len(array)
        if array.ndim == 2 and array.shape[1] <= MOST_COLUMNS and name != LABELS:  # noqa: PLR2004 - a table
            found.update({f"{name}.{column}": array[:, column] for column in range(array.shape[1])})
        else:
            found[name] = array
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name!r} {count}" for name, count in rows.items())
        message = f"the features have different numbers of rows: {counts}"
        raise UnusableFeatures(message)
    return found


class DataSummary:
    """Collects the statistics that a query asks for, batch by batch.

    Args:
        query: what to compute.
        epsilon: privacy budget of the device's own noise; 0: only the query's. The smaller of both counts.
    """

    def __init__(self, query: StatisticsQuery, epsilon: float = 0.0) -> None:
        self._query = query
        self._epsilon = min(filter(None, (query.epsilon, epsilon)), default=0.0)
        self._features: dict[str, _Feature] = {}
        self._started = False
        self.examples = 0

    def add(self, batch: Batch) -> None:
        """Add a batch: arrays by name with a row per example. Raises UnusableFeatures."""
        columns = columns_of(batch)
        wanted = {name: array for name, array in columns.items() if self._query.wants(name)}
        if not self._started:
            self._begin(wanted)
        if wanted.keys() != self._features.keys():
            differing = ", ".join(sorted(wanted.keys() ^ self._features.keys()))
            message = f"the batches of the features differ: not all have {differing}"
            raise UnusableFeatures(message)
        self.examples += len(next(iter(columns.values()), ()))
        for name, array in wanted.items():
            self._features[name].add(array)

    def _begin(self, wanted: Mapping[str, NDArray[Any]]) -> None:
        if len(wanted) > MOST_FEATURES:
            message = (
                f"the task has {len(wanted)} of these features, and at most {MOST_FEATURES} are answered:"
                " name fewer in the query's features"
            )
            raise UnusableFeatures(message)
        for name in wanted:
            if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
                message = f"feature {name!r} needs a printable name of at most {LONGEST_NAME} characters"
                raise UnusableFeatures(message)
        self._started = True
        has_sketches = quantile_sketches.available()
        self._features = {
            name: _Feature(name, array, self._query, has_sketches=has_sketches, has_noise=bool(self._epsilon))
            for name, array in wanted.items()
        }

    def answer(self, rng: np.random.Generator) -> StatisticsAnswer:
        """Return the answer; ``rng`` makes the noise, if there is any."""
        vectors = sum(feature.noisy_vectors for feature in self._features.values())
        scales = [
            feature.width * vectors / self._epsilon if self._epsilon else 0.0
            for feature in self._features.values()
        ]
        answers = {
            name: feature.answer(scale, rng)
            for (name, feature), scale in zip(self._features.items(), scales, strict=True)
        }
        return StatisticsAnswer(features=answers, noise_scale=min(max(scales, default=0.0), LARGEST_SCALE))


class _Feature:
    """The statistics of one feature so far."""

    def __init__(
        self, name: str, first: NDArray[Any], query: StatisticsQuery, *, has_sketches: bool, has_noise: bool
    ) -> None:
        self._name = name
        self._query = query
        self.is_labels = name == LABELS or first.dtype.kind in _TEXT_KINDS
        self.width = max(1, int(np.prod(first.shape[1:], dtype=np.int64)))  # values per example
        self._count = self._missing = self._infinite = 0
        self._total = self._squares = 0
        self._smallest, self._largest = np.inf, -np.inf
        self._labels: Counter[str] = Counter()
        self._rest = 0
        self.declined: dict[str, str] = {}
        self._computed: set[Statistic] = set()
        asked: set[Statistic] = {s for s in query.statistics if (s == "labels") is self.is_labels}
        if query.agree and not self.is_labels:
            asked.add("quantiles")  # they agree the edges, also if the result is to have none
        for statistic in sorted(asked):
            if reason := self._why_not(statistic, has_sketches=has_sketches, has_noise=has_noise):
                self.declined[statistic] = reason
            else:
                self._computed.add(statistic)
        edges = query.edges_of(name) if self._computes("histogram") else None
        self._edges = None if edges is None else np.array(edges)
        self._bins = np.zeros(0 if edges is None else len(edges) + 1, dtype=np.int64)
        self._sketch = QuantileSketch(query.sketch_k) if self._computes("quantiles") else None

    def _why_not(self, statistic: Statistic, *, has_sketches: bool, has_noise: bool) -> str:
        """Return why a statistic that the query asks for is not computed; empty if it is."""
        if self._query.agree and statistic != "quantiles":
            return _AGREEING
        if has_noise and statistic not in {"histogram", "labels"}:
            return _NOISE
        if statistic == "quantiles" and not has_sketches:
            return quantile_sketches.MISSING
        if statistic == "histogram" and self._query.edges_of(self._name) is None:
            return "no edges were given or agreed"
        return ""

    def _computes(self, statistic: Statistic) -> bool:
        return statistic in self._computed

    @property
    def noisy_vectors(self) -> int:
        """The number of vectors that need noise: counts of values, histogram, label counts."""
        return 1 + (self._edges is not None) + self._computes("labels")

    def add(self, array: NDArray[Any]) -> None:
        """Add the values of a batch, array of shape (n, ...)."""
        if self.is_labels:
            self._add_labels(array.reshape(-1))
            return
        if array.dtype.kind not in _NUMBER_KINDS:
            message = f"feature {self._name!r} has the type {array.dtype}: it takes numbers, texts or labels"
            raise UnusableFeatures(message)
        values = np.asarray(array, dtype=np.float64).reshape(-1)
        missing = np.isnan(values)
        finite = values[np.isfinite(values)]
        self._missing += int(missing.sum())
        self._infinite += int(len(values) - missing.sum() - len(finite))
        self._count += len(finite)
        if len(finite):
            self._add_numbers(finite)

    def _add_numbers(self, finite: NDArray[np.float64]) -> None:
        if self._computes("mean") or self._computes("variance"):
            self._total += exact_sums.scaled_sum(finite)
        if self._computes("variance"):
            self._squares += exact_sums.scaled_square_sum(finite)
        self._smallest = min(self._smallest, float(finite.min()))
        self._largest = max(self._largest, float(finite.max()))
        if self._edges is not None:
            self._bins += histogram(finite, self._edges)
        if self._sketch:
            self._sketch.add(finite)

    def _add_labels(self, values: NDArray[Any]) -> None:
        if values.dtype.kind == "f":
            missing = int(np.isnan(values).sum())
            values = values[~np.isnan(values)]
        elif values.dtype.kind == "O":
            present = np.array([value is not None and value == value for value in values], dtype=bool)  # noqa: PLR0124 - NaN
            missing = int(len(values) - present.sum())
            values = np.array([str(value) for value in values[present]])
        else:
            missing = 0
        self._missing += missing
        self._count += len(values)
        for label, count in zip(*np.unique(values, return_counts=True), strict=True):
            text = label_text(label)
            if text in self._labels or len(self._labels) < _MOST_DISTINCT:
                self._labels[text] += int(count)
            else:
                self._rest += int(count)

    def answer(self, scale: float, rng: np.random.Generator) -> FeatureAnswer:
        """Return the answer, with noise of a scale above 0."""
        declined = dict(self.declined)
        counts = np.array([self._count, self._missing, self._infinite], dtype=np.int64)
        bins, labels = self._bins, self._most_frequent() if self._computes("labels") else None
        if scale > LARGEST_SCALE:
            reason = "the noise that its epsilon requires is too large to leave anything"
            declined |= dict.fromkeys(("histogram", "labels"), reason)
            return FeatureAnswer(count=0, declined=declined)
        if scale:
            counts, bins = with_noise(counts, scale, rng), with_noise(bins, scale, rng)
            labels = labels and _noisy_labels(labels, scale, rng)
        has_values = self._count > 0 and not self.is_labels
        wants_total = self._computes("mean") or self._computes("variance")
        return FeatureAnswer(
            count=int(counts[0]),
            missing=int(counts[1]),
            infinite=int(counts[2]),
            total=exact_sums.pack(self._total) if wants_total else None,
            squares=exact_sums.pack(self._squares, squares=True) if self._computes("variance") else None,
            smallest=self._smallest if has_values and self._computes("min") else None,
            largest=self._largest if has_values and self._computes("max") else None,
            histogram=None if self._edges is None else bins.tolist(),
            sketch=self._sketch.serialize() if self._sketch else None,
            labels=labels,
            declined=declined,
        )

    def _most_frequent(self) -> LabelCounts:
        ranked = sorted(self._labels.items(), key=lambda pair: (-pair[1], pair[0]))
        kept = dict(ranked[: self._query.most_labels])
        return LabelCounts(kept, self._count - sum(kept.values()))


def _noisy_labels(labels: LabelCounts, scale: float, rng: np.random.Generator) -> LabelCounts:
    """Add noise to label counts; labels that could be those of a single example join the rest.

    That a label occurs at all would reveal an example, whatever its count (Korolova et al., "Releasing
    search queries and clicks privately", WWW 2009).
    """
    exact = np.array([*labels.counts.values(), labels.rest], dtype=np.int64)
    *counts, rest = with_noise(exact, scale, rng).tolist()
    noisy = dict(zip(labels.counts, counts, strict=True))
    kept = {label: count for label, count in noisy.items() if count > 1 + _RARE * scale}
    return LabelCounts(kept, rest + sum(counts) - sum(kept.values()))


def histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many finite values, array of shape (n,), are below, in the bins, and above.

    A bin includes its lower edge; the last one both edges. The result has shape (edges + 1,).
    """
    places = np.searchsorted(edges, values, side="right")
    places[values == edges[-1]] = len(edges) - 1
    return np.bincount(places, minlength=len(edges) + 1).astype(np.int64)


def label_text(label: object) -> str:
    """Return a label as text of at most 64 characters: whole numbers without a decimal point."""
    if isinstance(label, float | np.floating) and float(label).is_integer():
        label = int(label)
    text = label.decode(errors="replace") if isinstance(label, bytes) else str(label)
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def summarize(
    batches: Iterable[Batch], query: StatisticsQuery, rng: np.random.Generator, epsilon: float = 0.0
) -> tuple[StatisticsAnswer, int]:
    """Return the answer to a query about batches of data, and the number of examples."""
    summary = DataSummary(query, epsilon)
    for batch in batches:
        summary.add(batch)
    return summary.answer(rng), summary.examples
