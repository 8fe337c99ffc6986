"""Virtual devices that answer queries of statistics, before the real cloud functions over ports in memory."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import xxhash

from fedgrass.federation import object_keys
from fedgrass.federation.rounds import Round
from fedgrass.federation.statistics.data_summary import Batch, summarize
from fedgrass.federation.statistics.statistics_answer import (
    LARGEST_INLINE,
    StatisticsAnswer,
    encode_answer,
    to_text,
)
from fedgrass.federation.statistics.statistics_query import StatisticsQuery
from fedgrass.federation.statistics.statistics_result import StatisticsResult, decode_result
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import sha256
from tests.fakes.small_fleet import RUN, SmallFleet


class StatisticsFleet(SmallFleet):
    """A fleet with a run of statistics.

    Args:
        data: the batches of each device, by its number.
        query: the run's setting ``statistics``.
        settings: other settings of the run.
    """

    def __init__(
        self,
        data: Callable[[int], list[Batch]],
        devices: int = 6,
        query: Mapping[str, object] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(devices=devices, statistics=query or {}, rounds=5, **settings)
        self.data = data

    def announced_query(self, device: str) -> StatisticsQuery:
        """Return the query that was last announced to a device, checked as the device does."""
        work = self.announced(device)[-1]
        assert work.work == "statistics"
        data = self.bucket.objects[work.model_key]
        assert (sha256(data), len(data)) == (work.model_sha256, work.model_bytes)
        return msgspec.json.decode(data, type=StatisticsQuery)

    def answer_of(self, device: str) -> StatisticsAnswer:
        """Return the answer of a device to the query that was last announced to it."""
        number = self.names.index(device)
        answer, _ = summarize(self.data(number), self.announced_query(device), np.random.default_rng(number))
        return answer

    def answers(self, device: str, made: StatisticsAnswer | bytes | None = None, **changes: object) -> bool:
        """Send a device's answer: in the completion, or uploaded if it is large."""
        of: Round = self.newest()
        found = made if made is not None else self.answer_of(device)
        data = found if isinstance(found, bytes) else encode_answer(found)
        inline = len(data) <= LARGEST_INLINE
        if not inline:
            key = object_keys.update(device, of.run, of.number, of.attempt)
            self.bucket.write(key, data)
        fields: dict[str, Any] = {
            "bytes": 0 if inline else len(data),
            "checksum": xxhash.xxh3_128_hexdigest(data),
            "answer": to_text(data) if inline else "",
            "metrics": {},
            **changes,
        }
        return self.say(device, Kind.COMPLETE, self.completion(of, data, device, **fields))

    def all_answer(self) -> None:
        """Let each device answer the newest round."""
        for device in self.names:
            self.answers(device)

    def result(self, number: int) -> StatisticsResult:
        """Return the merged statistics of a round."""
        key = object_keys.statistics(RUN, number)
        return decode_result(self.bucket.objects[key], key)
