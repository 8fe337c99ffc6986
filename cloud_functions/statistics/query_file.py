"""The query of a run of statistics as an object in the bucket, which devices download like a model."""

from typing import NamedTuple

import msgspec

from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.errors import AggregationFailed, SettingsError, UpdateRefused
from fedgrass.federation.statistics.statistics_query import LARGEST_QUERY, StatisticsQuery
from fedgrass.federation.weights import sha256

# Created at import, not on first use: see fedgrass/federation/messages/message_codec.py.
_QUERY = msgspec.json.Decoder(StatisticsQuery)


class QueryFile(NamedTuple):
    """A query as it is stored."""

    sha256: str
    bytes: int


def encode_query(query: StatisticsQuery) -> bytes:
    """Return a query as JSON."""
    return msgspec.json.encode(query)


def write_first_query(services: Services, run: str, query: StatisticsQuery) -> QueryFile:
    """Store the query of a run's first round, unless it is stored already.

    Raises:
        SettingsError: another query is stored under the run's name.
    """
    data, key = encode_query(query.first()), object_keys.query(run, 0)
    if services.bucket.write_once(key, data) != data:
        message = f"another query exists at {key}: choose another name for the run"
        raise SettingsError(message)
    return QueryFile(sha256(data), len(data))


def read_query(services: Services, run: str, number: int, expected: str) -> StatisticsQuery:
    """Return the query whose SHA-256 is ``expected``. Raises AggregationFailed if it cannot be read."""
    key = object_keys.query(run, number)
    try:
        data = services.bucket.read(key, LARGEST_QUERY)
    except KeyError as error:
        message = f"the query {key} is missing in the bucket: put it back"
        raise AggregationFailed(message) from error
    except UpdateRefused as error:
        message = f"the query {key} cannot be read: {error}"
        raise AggregationFailed(message) from error
    if sha256(data) != expected:
        message = f"the SHA-256 of the query {key} is {sha256(data)}, and should be {expected}"
        raise AggregationFailed(message)
    return _QUERY.decode(data)
