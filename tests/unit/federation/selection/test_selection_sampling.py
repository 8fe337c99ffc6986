"""A sample of a large fleet: large enough, fair, and at a cost in proportion to its own size."""

import hashlib
from collections import Counter, defaultdict

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fedgrass.federation.selection import Candidate
from fedgrass.federation.selection.sampling import FINEST, sample_segments
from tests.unit.federation.selection.test_selection import seeded


class SegmentedTable:
    """A fleet spread over segments by a hash of the names, as in DynamoDB; counts what is read."""

    def __init__(self, devices: int, live: int | None = None) -> None:
        self.size = devices
        self.rows_read = self.requests = 0
        self._live = devices if live is None else live
        names = [f"thing-{number}" for number in range(devices)]
        hashed = (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in names)
        self._rows = sorted(zip(hashed, range(devices), names, strict=True))
        self._segments: dict[int, dict[int, list[Candidate]]] = {}

    def read(self, segment: int, segments: int) -> list[Candidate]:
        if segments not in self._segments:
            of: dict[int, list[Candidate]] = defaultdict(list)
            for position, number, name in self._rows:
                of[position % segments].append(Candidate(name, last_seen=int(number < self._live)))
            self._segments[segments] = of
        rows = self._segments[segments][segment]
        self.requests += 1
        self.rows_read += len(rows)
        return [row for row in rows if row.last_seen]


@settings(max_examples=50)
@given(devices=st.integers(0, 300), wanted=st.integers(1, 400), seed=st.integers(0, 99))
def test_the_wanted_number_is_found_if_there_are_enough(devices: int, wanted: int, seed: int) -> None:
    found = [
        candidate.device for candidate in sample_segments(SegmentedTable(devices).read, wanted, seeded(seed))
    ]
    assert len(found) == len(set(found)) >= min(wanted, devices)


@pytest.mark.parametrize("devices", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_rows_are_read_in_proportion_to_the_sample_and_not_to_the_fleet(devices: int) -> None:
    table = SegmentedTable(devices)
    for seed in range(20):
        sample_segments(table.read, 100, seeded(seed))
    assert table.rows_read / 20 < 4 * 100
    assert table.requests / 20 < 8


def test_a_fleet_smaller_than_the_sample_is_read_little_more_than_once() -> None:
    table = SegmentedTable(500)
    assert len(sample_segments(table.read, 10_000, seeded(0))) == 500
    assert table.rows_read < 1.2 * 500
    assert table.requests <= 17


def test_an_empty_fleet_ends_after_a_few_requests() -> None:
    table = SegmentedTable(0)
    assert sample_segments(table.read, 10, seeded(0)) == []
    assert table.requests == 5


@pytest.mark.slow
def test_if_few_devices_live_as_many_more_rows_are_read() -> None:
    table = SegmentedTable(20_000, live=2_000)
    for seed in range(10):
        assert len(sample_segments(table.read, 50, seeded(seed))) >= 50
    assert table.rows_read / 10 < 10 * 4 * 50


def test_only_those_that_suit_are_counted_and_held() -> None:
    table = SegmentedTable(5_000)
    found = sample_segments(table.read, 20, seeded(2), suits=lambda candidate: candidate.device.endswith("7"))
    assert len(found) >= 20
    assert all(candidate.device.endswith("7") for candidate in found)


def test_each_device_is_in_the_sample_about_as_often() -> None:
    table, times = SegmentedTable(200), 3000
    drawn = Counter(c.device for seed in range(times) for c in sample_segments(table.read, 20, seeded(seed)))
    mean = sum(drawn.values()) / 200
    assert len(drawn) == 200
    assert all(abs(count - mean) < 6 * mean**0.5 for count in drawn.values())


def test_the_first_segment_is_tiny_whatever_the_fleet() -> None:
    asked: list[int] = []

    def read(segment: int, segments: int) -> list[Candidate]:
        asked.append(segments)
        assert 0 <= segment < segments
        return []

    sample_segments(read, 1, seeded(0))
    assert asked == [FINEST, 4096, 256, 16, 1]
