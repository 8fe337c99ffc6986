"""Merges the answers of many devices into one result, in memory that does not grow with their number.

The result does not depend on the order of the answers, except for the choice of values in merged sketches
and of labels beyond the most frequent ones.
"""

from collections import Counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.statistics import exact_sums
from fedgrass.federation.statistics.quantile_sketches import QuantileSketch
from fedgrass.federation.statistics.statistics_answer import (
    CheckedFeature,
    FeatureAnswer,
    LabelCounts,
    StatisticsAnswer,
    check_answer,
)
from fedgrass.federation.statistics.statistics_query import (
    MOST_FEATURES,
    Statistic,
    StatisticsQuery,
    agreed_edges,
    agreed_ranks,
)
from fedgrass.federation.statistics.statistics_result import (
    FeatureStatistics,
    Histogram,
    LabelCount,
    Labels,
    Quantiles,
    StatisticsResult,
)

_MOST_MERGED = 4 * MOST_FEATURES  # features of all devices
_MOST_REASONS = 20  # different ones per feature, for which statistics are declined
_KEPT_LABELS = 32  # times the number that the query asks for
_TOO_LARGE = "it exceeds the largest float64"


class AnswerMerger:
    """Merges answers one by one.

    Args:
        query: what the devices were asked.
    """

    def __init__(self, query: StatisticsQuery) -> None:
        self._query = query
        self._features: dict[str, _Merged] = {}
        self._devices = 0
        self._noise = False

    def add(self, answer: StatisticsAnswer) -> None:
        """Merge an answer, or no part of it.

        Raises:
            UpdateRefused: it contradicts itself or the query, or has too many features.
        """
        checked = check_answer(answer, self._query)
        further = checked.keys() - self._features.keys()
        if len(self._features) + len(further) > _MOST_MERGED:
            message = (
                f"the answer has further features, such as {min(further)!r}, and the devices before it have"
                f" {len(self._features)}; {_MOST_MERGED} are allowed: name the query's features"
            )
            raise UpdateRefused(message)
        for name, feature in checked.items():
            self._features.setdefault(name, _Merged(self._query, name)).add(feature)
        self._devices += 1
        self._noise = self._noise or answer.noise_scale > 0

    def result(self, run: str, task: str, number: int) -> StatisticsResult:
        """Return the merged statistics of round ``number`` of a run.

        A figure behind which there are fewer devices than the query's ``minimum_devices`` is withheld.
        """
        return StatisticsResult(
            run=run,
            task=task,
            round=number,
            devices=self._devices,
            noise=self._noise,
            query=self._query,
            features={name: merged.result() for name, merged in sorted(self._features.items())},
        )

    def next_query(self) -> StatisticsQuery:
        """Return the query of the run's second round, with the agreed edges of each feature that has some."""
        agreed: dict[str, list[float]] = {}
        for name, merged in sorted(self._features.items()):
            if name not in self._query.edges and (edges := merged.agreed()):
                agreed[name] = edges
        return msgspec.structs.replace(self._query, edges={**self._query.edges, **agreed}, agree=False)


class _Merged:
    """The merged statistics of one feature; ``devices`` counts the answers behind each part."""

    def __init__(self, query: StatisticsQuery, name: str) -> None:
        self._query = query
        self._edges = query.edges_of(name)
        self.devices: Counter[str] = Counter()
        self._counts = np.zeros(3, dtype=object)  # finite, missing, infinite: whole numbers of any size
        self._moments = [0, 0]  # values behind the mean, their sum
        self._spread = [0, 0, 0]  # values behind the variance, their sum, the sum of their squares
        self._smallest, self._largest = np.inf, -np.inf
        self._bins: NDArray[np.object_] = np.zeros(len(self._edges or ()) + 1, dtype=object)
        self._sketch: QuantileSketch | None = None
        self._labels = _MergedLabels(query.most_labels)
        self._declined: Counter[tuple[str, str]] = Counter()

    def add(self, feature: CheckedFeature) -> None:
        """Merge a checked answer."""
        answer = feature.answer
        self.devices["counts"] += 1
        self._counts += np.array([answer.count, answer.missing, answer.infinite], dtype=object)
        self._add_moments(feature)
        if answer.smallest is not None:
            self._smallest = min(self._smallest, answer.smallest)
        if answer.largest is not None:
            self._largest = max(self._largest, answer.largest)
        if answer.histogram is not None:
            self._bins += np.array(answer.histogram, dtype=object)
            self.devices["histogram"] += 1
        if feature.sketch is not None and feature.sketch.count:
            self.devices["quantiles"] += 1
            if self._sketch is None:
                self._sketch = feature.sketch
            else:
                self._sketch.merge(feature.sketch)
        if answer.labels is not None:
            self.devices["labels"] += 1
            self._labels.add(answer.labels)
        for pair in answer.declined.items():
            if pair in self._declined or len(self._declined) < _MOST_REASONS:
                self._declined[pair] += 1

    def _add_moments(self, feature: CheckedFeature) -> None:
        answer: FeatureAnswer = feature.answer
        if not answer.count:
            return
        if answer.smallest is not None:
            self.devices["min"] += 1
        if answer.largest is not None:
            self.devices["max"] += 1
        if answer.total is not None:
            self.devices["mean"] += 1
            self._moments[0] += answer.count
            self._moments[1] += feature.total
        if answer.squares is not None:
            self.devices["variance"] += 1
            self._spread[0] += answer.count
            self._spread[1] += feature.total
            self._spread[2] += feature.squares

    def agreed(self) -> list[float] | None:
        """Return edges from the merged sketch; None if too few devices answered one."""
        if self._sketch is None or self.devices["quantiles"] < self._query.minimum_devices:
            return None
        low, high = self._sketch.quantiles(agreed_ranks())
        return agreed_edges(low, high, self._query.bins)

    def result(self) -> FeatureStatistics:
        """Return the statistics behind which there are enough devices."""
        withheld: dict[str, str] = {}

        def enough(part: str, statistic: Statistic | None = None) -> bool:
            if statistic and not self._query.asks(statistic):
                return False
            found = self.devices[part]
            if found < self._query.minimum_devices and (found or statistic is None or self._why(part)):
                why = self._why(part)
                withheld[part] = (
                    f"{found} devices answered; at least {self._query.minimum_devices} are needed{why}"
                )
            return found >= self._query.minimum_devices

        counts: list[int] | list[None] = self._counts.tolist() if enough("counts") else [None] * 3
        mean = exact_sums.mean(*self._moments) if enough("mean", "mean") else None
        variance = None
        if enough("variance", "variance"):
            try:
                variance = exact_sums.variance(*self._spread)
            except OverflowError:
                withheld["variance"] = _TOO_LARGE
        return FeatureStatistics(
            devices=self.devices["counts"],
            count=counts[0],
            missing=counts[1],
            infinite=counts[2],
            mean=mean,
            variance=variance,
            smallest=self._smallest if enough("min", "min") else None,
            largest=self._largest if enough("max", "max") else None,
            histogram=self._histogram() if enough("histogram", "histogram") else None,
            quantiles=self._quantiles() if enough("quantiles", "quantiles") else None,
            labels=self._label_counts() if enough("labels", "labels") else None,
            withheld=withheld,
        )

    def _why(self, part: str) -> str:
        """Return the reasons for which devices declined a statistic, the most frequent one first."""
        reasons = Counter({why: count for (what, why), count in self._declined.items() if what == part})
        return "".join(f"; {count} declined: {why}" for why, count in reasons.most_common(3))

    def _histogram(self) -> Histogram | None:
        if self._edges is None:
            return None
        below, *bins, above = self._bins.tolist()
        devices = self.devices["histogram"]
        return Histogram(edges=self._edges, counts=bins, below=below, above=above, devices=devices)

    def _quantiles(self) -> Quantiles | None:
        sketch, number = self._sketch, self._query.quantiles
        if sketch is None:
            return None
        ranks = [place / number for place in range(1, number)]
        return Quantiles(
            ranks=ranks,
            values=sketch.quantiles(ranks),
            rank_error=sketch.rank_error,
            devices=self.devices["quantiles"],
            sketch=sketch.serialize(),
        )

    def _label_counts(self) -> Labels:
        counts, rest = self._labels.counted(self._query.minimum_devices)
        return Labels(counts=counts, rest=rest, devices=self.devices["labels"])


class _Label(msgspec.Struct):
    """A label of the devices so far."""

    count: int = 0
    devices: int = 0
    listed: int = 0  # by how many devices that also have a rest, in which it is therefore not
    complete: bool = True  # no device before has had it without its being counted here


class _MergedLabels:
    """Label counts of all devices: the most frequent ones by name.

    When there are too many, the less frequent half joins the rest; a label that comes (back) later is not
    exact any more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._labels: dict[str, _Label] = {}
        self._rest = 0
        self._with_rest = 0  # devices
        self._dropped = False

    def add(self, labels: LabelCounts) -> None:
        """Add the label counts of one device."""
        self._rest += labels.rest
        has_rest = labels.rest != 0
        self._with_rest += has_rest
        for text, count in labels.counts.items():
            label = self._labels.setdefault(text, _Label(complete=not self._dropped))
            label.count += count
            label.devices += 1
            label.listed += has_rest
        if len(self._labels) > self._most * _KEPT_LABELS:
            ranked = self._ranked()
            for text, label in ranked[len(ranked) // 2 :]:
                self._rest += label.count
                del self._labels[text]
            self._dropped = True

    def counted(self, minimum_devices: int) -> tuple[list[LabelCount], int]:
        """Return the most frequent labels that enough devices have, and the rest."""
        common = [(text, label) for text, label in self._ranked() if label.devices >= minimum_devices]
        kept = common[: self._most]
        counts = [
            LabelCount(
                label=text,
                count=label.count,
                exact=label.complete and label.listed == self._with_rest,
            )
            for text, label in kept
        ]
        total = self._rest + sum(label.count for label in self._labels.values())
        return counts, total - sum(count.count for count in counts)

    def _ranked(self) -> list[tuple[str, _Label]]:
        return sorted(self._labels.items(), key=lambda pair: (-pair[1].count, pair[0]))
