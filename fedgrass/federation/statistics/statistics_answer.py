"""A device's answer to a query, and the check of an answer before it is merged.

An answer is one msgpack value. It is sent in the completion, in base64, if it is small; otherwise it is
uploaded like an update. Every figure comes from a device that may be wrong or hostile: what contradicts
itself or the query is refused, by the name of the feature.
"""

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Annotated, NoReturn

import msgspec
from msgspec import Meta, Struct

from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.messages.message_fields import LARGEST_NUMBER
from fedgrass.federation.statistics import exact_sums
from fedgrass.federation.statistics.count_noise import LARGEST_SCALE, least_count
from fedgrass.federation.statistics.exact_sums import LONGEST, ExactSum
from fedgrass.federation.statistics.quantile_sketches import LARGEST_SKETCH, QuantileSketch, SketchDamaged
from fedgrass.federation.statistics.statistics_query import (
    MOST_EDGES,
    MOST_FEATURES,
    FeatureName,
    StatisticsQuery,
)

LARGEST_INLINE = 2048  # bytes of an answer in a completion, which has at most 4,096 bytes of JSON
LARGEST_ANSWER = 32 * 1024**2  # bytes of an answer in an object
MOST_LABELS = 1000
LONGEST_LABEL = 64  # characters
# The whole exponents of sums of float64 and of their squares; mantissas are limited in bytes.
_LARGEST_EXPONENT = 2200

_Whole = Annotated[int, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
_Label = Annotated[str, Meta(max_length=LONGEST_LABEL)]
_Reason = Annotated[str, Meta(max_length=200)]
_Name = Annotated[str, Meta(max_length=32)]


class LabelCounts(Struct, frozen=True, array_like=True):
    """Counts of the most frequent labels; the others are one rest."""

    counts: Annotated[dict[_Label, _Whole], Meta(max_length=MOST_LABELS)]
    rest: _Whole = 0  # examples with any other label


class FeatureAnswer(Struct, frozen=True, array_like=True, kw_only=True):
    """The statistics of one feature on one device; None where not asked for, or declined."""

    count: _Whole  # of finite values; of a feature of labels, of labels
    missing: _Whole = 0  # NaN, or no label
    infinite: _Whole = 0
    total: ExactSum | None = None
    squares: ExactSum | None = None
    smallest: float | None = None
    largest: float | None = None
    histogram: Annotated[list[_Whole], Meta(max_length=MOST_EDGES + 1)] | None = None  # below, bins, above
    sketch: Annotated[bytes, Meta(max_length=LARGEST_SKETCH)] | None = None
    labels: LabelCounts | None = None
    declined: Annotated[dict[_Name, _Reason], Meta(max_length=16)] = {}  # statistics not answered, and why


class StatisticsAnswer(Struct, frozen=True, array_like=True, kw_only=True):
    """The answer of one device."""

    features: Annotated[dict[FeatureName, FeatureAnswer], Meta(max_length=MOST_FEATURES)]
    noise_scale: Annotated[float, Meta(ge=0, le=LARGEST_SCALE)] = 0.0  # largest, of its counts; 0: exact


# Created at import, not on first use: see messages/message_codec.py.
_ANSWER = msgspec.msgpack.Decoder(StatisticsAnswer)


def encode_answer(answer: StatisticsAnswer) -> bytes:
    """Return an answer as one msgpack value."""
    return msgspec.msgpack.encode(answer)


def decode_answer(data: bytes) -> StatisticsAnswer:
    """Return the answer in ``data``. Raises UpdateRefused if it is none."""
    try:
        return _ANSWER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the answer cannot be decoded: {error}"
        raise UpdateRefused(message) from error


def to_text(data: bytes) -> str:
    """Return an answer as text for a completion."""
    return base64.b64encode(data).decode()


def from_text(text: str) -> bytes:
    """Return the answer in a completion. Raises UpdateRefused if the text is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"the answer in the completion is not base64: {error}"
        raise UpdateRefused(message) from error


class CheckedFeature(Struct, frozen=True):
    """A checked answer about one feature, with its sums and its sketch decoded."""

    answer: FeatureAnswer
    total: int = 0  # times 2^1074
    squares: int = 0  # times 2^2148
    sketch: QuantileSketch | None = None


def check_answer(answer: StatisticsAnswer, query: StatisticsQuery) -> Mapping[str, CheckedFeature]:
    """Return the features of an answer, decoded.

    Raises:
        UpdateRefused: a figure contradicts another one or the query; the message names the feature.
    """
    return {
        name: _check_feature(name, feature, query, answer.noise_scale)
        for name, feature in sorted(answer.features.items())
    }


def _check_feature(
    name: str, answer: FeatureAnswer, query: StatisticsQuery, noise_scale: float
) -> CheckedFeature:
    if not query.wants(name):
        _refuse(name, "was not asked for")
    if answer.sketch is not None and not (query.asks("quantiles") or query.agree):
        _refuse(name, "has a sketch that was not asked for")
    _check_counts(name, answer, query, noise_scale)
    if noise_scale:
        if answer.total or answer.squares or answer.sketch or answer.smallest is not None:
            _refuse(name, "has noise and statistics that cannot have any")
        return CheckedFeature(answer)
    total, squares = _sums(name, answer)
    _check_extremes(name, answer, total, squares)
    sketch = _sketch(name, answer, query) if answer.sketch is not None else None
    return CheckedFeature(answer, total or 0, squares or 0, sketch)


def _check_counts(name: str, answer: FeatureAnswer, query: StatisticsQuery, noise_scale: float) -> None:
    least = least_count(noise_scale)
    counts = {"count": answer.count, "missing": answer.missing, "infinite": answer.infinite}
    edges, bins, labels = query.edges_of(name), answer.histogram, answer.labels
    if bins is not None:
        if edges is None or len(bins) != len(edges) + 1:
            _refuse(name, f"has {len(bins)} counts of a histogram that the query does not describe")
        counts["histogram"] = min(bins)
    if labels is not None:
        if len(labels.counts) > query.most_labels:
            _refuse(name, f"has {len(labels.counts)} labels; at most {query.most_labels} were asked for")
        counts["labels"] = min([*labels.counts.values(), labels.rest])
    for what, count in counts.items():
        if count < least:
            _refuse(name, f"has a negative {what}: {count}")
    if noise_scale:
        return
    if bins is not None and sum(bins) != answer.count:
        _refuse(name, f"has {answer.count:,} values, and its histogram {sum(bins):,}")
    if labels is not None and (found := sum(labels.counts.values()) + labels.rest) != answer.count:
        _refuse(name, f"has {answer.count:,} labels, and their counts add up to {found:,}")


def _sums(name: str, answer: FeatureAnswer) -> tuple[int | None, int | None]:
    for packed in (answer.total, answer.squares):
        if packed and (len(packed.mantissa) > LONGEST or abs(packed.exponent) > _LARGEST_EXPONENT):
            _refuse(name, "has a sum that no finite values have")
    try:
        total = None if answer.total is None else exact_sums.unpack(answer.total)
        squares = None if answer.squares is None else exact_sums.unpack(answer.squares, squares=True)
    except ValueError as error:
        _refuse(name, f"has a sum that no finite values have: {error}")
    # The inequality of Cauchy and Schwarz holds exactly, since the sums are exact.
    if squares is not None and (total is None or squares < 0 or total * total > answer.count * squares):
        _refuse(name, "has sums that contradict each other")
    if total is not None and abs(total) > answer.count * exact_sums.scaled(_LARGEST_FLOAT):
        _refuse(name, "has an infinite sum")
    return total, squares


_LARGEST_FLOAT = 1.7976931348623157e308


def _check_extremes(name: str, answer: FeatureAnswer, total: int | None, squares: int | None) -> None:
    low, high = answer.smallest, answer.largest
    for value in (low, high):
        if value is not None and (not answer.count or not math.isfinite(value)):
            _refuse(name, f"has the extreme {value} of {answer.count} values")
    if low is not None and high is not None and low > high:
        _refuse(name, f"has the minimum {low:g} above the maximum {high:g}")
    if total is not None and low is not None and total < answer.count * exact_sums.scaled(low):
        _refuse(name, f"has a mean below its minimum {low:g}")
    if total is not None and high is not None and total > answer.count * exact_sums.scaled(high):
        _refuse(name, f"has a mean above its maximum {high:g}")
    if squares is not None and low is not None and high is not None:
        largest = max(abs(exact_sums.scaled(low)), abs(exact_sums.scaled(high)))
        if squares > answer.count * largest * largest:
            _refuse(name, "has a variance that its extremes exclude")


def _sketch(name: str, answer: FeatureAnswer, query: StatisticsQuery) -> QuantileSketch:
    try:
        sketch = QuantileSketch.read(answer.sketch or b"", query.sketch_k)
    except SketchDamaged as error:
        _refuse(name, f"has a damaged sketch: {error}")
    if sketch.count != answer.count:
        _refuse(name, f"has {answer.count:,} values, and its sketch {sketch.count:,}")
    if sketch.count:
        for value, extreme in ((answer.smallest, sketch.smallest), (answer.largest, sketch.largest)):
            if value is not None and value != extreme:
                _refuse(name, f"has the extreme {value:g}, and its sketch {extreme:g}")
    return sketch


def _refuse(name: str, reason: str) -> NoReturn:
    message = f"feature {name!r} of the answer {reason}"
    raise UpdateRefused(message)
