"""The merged statistics of a round, as one JSON object."""

from typing import Any

import msgspec
from msgspec import Struct

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.statistics.statistics_query import StatisticsQuery

LARGEST_RESULT = 64 * 1024**2  # bytes of JSON


class Histogram(Struct, frozen=True, kw_only=True):
    """Counts of the values between edges: a bin includes its lower edge, the last one both."""

    edges: list[float]
    counts: list[int]
    below: int
    above: int
    devices: int


class Quantiles(Struct, frozen=True, kw_only=True):
    """Quantiles of the merged sketch: at least ``rank - rank_error`` of the values are below each."""

    ranks: list[float]
    values: list[float]
    rank_error: float  # not exceeded in 99 of 100 cases
    devices: int
    sketch: bytes  # as the library serializes it; base64 in JSON


class LabelCount(Struct, frozen=True, kw_only=True):
    """How often a label occurs; not ``exact``: some devices may have counted it in their rest."""

    label: str
    count: int
    exact: bool


class Labels(Struct, frozen=True, kw_only=True):
    """The most frequent labels, and the number of examples with any other one."""

    counts: list[LabelCount]
    rest: int
    devices: int


class FeatureStatistics(Struct, frozen=True, kw_only=True):
    """The statistics of one feature over all devices; ``withheld`` has the reason why one is missing."""

    devices: int
    count: int | None = None  # of finite values
    missing: int | None = None
    infinite: int | None = None
    mean: float | None = None
    variance: float | None = None  # mean square of the differences from the mean
    smallest: float | None = None
    largest: float | None = None
    histogram: Histogram | None = None
    quantiles: Quantiles | None = None
    labels: Labels | None = None
    withheld: dict[str, str] = {}


class StatisticsResult(Struct, frozen=True, kw_only=True):
    """The result of a run of statistics."""

    run: str
    task: str
    round: int
    devices: int  # whose answers were merged
    noise: bool = False  # whether some counts have noise
    query: StatisticsQuery
    features: dict[str, FeatureStatistics]


# Created at import, not on first use: see messages/message_codec.py.
_RESULT = msgspec.json.Decoder(StatisticsResult)


def encode_result(result: StatisticsResult) -> bytes:
    """Return a result as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(result), indent=1)


def decode_result(data: bytes, named: str) -> StatisticsResult:
    """Return the result in ``data``, which errors call ``named``. Raises SettingsError."""
    try:
        return _RESULT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"{named} is not a result of `fedgrass stats`: {error}"
        raise SettingsError(message) from error


def plain(result: StatisticsResult) -> dict[str, Any]:
    """Return a result as JSON values."""
    values: dict[str, Any] = msgspec.to_builtins(result)
    return values
