"""The rows of the turnarounds table, as the console reads them, and the part that makes a device slow."""

from typing import Any, cast

import pytest

from fedgrass.console.devices.device_history import WorkRecord, medians, recent_work, with_fleet
from fedgrass.console.devices.slow_parts import compare_speed
from fedgrass.console.stack import StackError
from tests.fakes.device_operator import NOW, Turnarounds, completion, decline, refusal


def read(*rows: dict[str, object], device: str = "slow", limit: int = 10) -> list[WorkRecord]:
    client = cast(Any, Turnarounds(*rows))
    return [with_fleet(client, "t", record) for record in recent_work(client, "t", device, limit)]


def a_round(number: int, slow: tuple[float, ...], examples: int = 40) -> list[dict[str, object]]:
    """Return the rows of a round of three usual devices and one that took ``slow``."""
    name, at = f"run-1/{number}/1", NOW + number
    usual = [completion(name, f"thing-{other}", at) for other in range(3)]
    return [*usual, completion(name, "slow", at, slow, examples=examples)]


def test_the_latest_rounds_come_first_and_others_devices_are_not_among_them() -> None:
    rows = [row for number in range(1, 6) for row in a_round(number, (1, 1, 2, 1))]
    assert [record.round for record in read(*rows, limit=3)] == [5, 4, 3]


def test_a_completion_has_its_parts_and_what_remains() -> None:
    (record,) = read(completion("run-1/7/2", "slow", seconds=(0.25, 0.5, 3, 1)))
    assert (record.run, record.round, record.attempt, record.outcome) == ("run-1", 7, 2, "completed")
    assert record.times is not None
    assert (record.times.turnaround_seconds, record.times.train_seconds) == (5.75, 3)
    assert record.times.other_seconds == 1
    assert record.times.examples == 40


def test_a_decline_and_a_failure_have_their_reason_and_no_times() -> None:
    rows = [decline("run-1/1/1", "slow", NOW), decline("run-1/2/1", "slow", NOW + 1, "failed", "disk full")]
    failed, declined = read(*rows)
    assert (failed.outcome, failed.reason, failed.times) == ("failed", "disk full", None)
    assert (declined.outcome, declined.reason) == ("declined", "battery")


@pytest.mark.parametrize("value", ["much", True, None, -5])
def test_a_number_that_a_device_made_up_counts_as_zero(value: object) -> None:
    (record,) = read(completion("run-1/1/1", "slow", train_seconds=value))
    assert record.times is not None
    assert record.times.train_seconds == 0


def test_a_row_whose_id_is_of_no_round_is_left_out() -> None:
    assert read(completion("elsewhere", "slow"), completion("run-1/x/1", "slow")) == []


def test_the_medians_of_a_round_are_those_of_all_its_completions() -> None:
    rows = [completion("run-1/1/1", f"thing-{number}", seconds=(1, 1, number, 1)) for number in range(5)]
    (record,) = read(*rows, decline("run-1/1/1", "thing-9"), device="thing-4")
    assert record.fleet is not None
    assert (record.fleet.train_seconds, record.fleet_devices) == (2, 5)
    assert medians([]) is None


def test_a_table_without_the_index_is_named_with_the_way_out() -> None:
    client = Turnarounds()
    client.refused = refusal("ValidationException")
    with pytest.raises(StackError, match="has no index by-device to read: update the stack by `fed"):
        recent_work(cast(Any, client), "t", "slow", 10)


@pytest.mark.parametrize(
    ("seconds", "part", "device", "fleet"),
    [
        ((9, 1, 2, 1), "download", 9, 1),
        ((1, 9, 2, 1), "evaluate", 9, 1),
        ((1, 1, 12, 1), "train", 12, 2),
        ((1, 1, 3, 20), "upload", 20, 1),
    ],
)
def test_the_part_that_makes_a_device_slow_is_named(
    seconds: tuple[float, ...], part: str, device: float, fleet: float
) -> None:
    speed = compare_speed(read(*(row for number in (1, 2, 3) for row in a_round(number, seconds))))
    assert speed is not None
    assert (speed.slow, speed.slowest_part, speed.rounds) == (True, part, 3)
    assert f"most of it in {part} ({device:.1f} s instead of {fleet:.1f} s)" in speed.finding


def test_waiting_is_named_as_what_remains() -> None:
    rows = [*a_round(1, (1, 1, 2, 1))[:3], completion("run-1/1/1", "slow", NOW + 1, turnaround_ms=60_000)]
    speed = compare_speed(read(*rows))
    assert speed is not None
    assert speed.slowest_part == "other"
    assert "neither working nor transferring" in speed.finding


def test_a_device_that_trains_on_more_examples_is_told_so() -> None:
    speed = compare_speed(read(*a_round(1, (1, 1, 12, 1), examples=400)))
    assert speed is not None
    assert speed.finding.endswith("it trains on 10.0 times as many examples")


def test_a_device_that_is_as_fast_as_others_has_no_slow_part() -> None:
    speed = compare_speed(read(*a_round(1, (1.1, 1, 2.2, 1))))
    assert speed is not None
    assert (speed.slow, speed.slowest_part) == (False, "")
    assert speed.finding.startswith("as fast as others: its turnaround is 6.3 s, the fleet's median 6.0 s")


def test_a_fraction_of_a_second_is_not_slow_however_many_times_it_is() -> None:
    name = "run-1/1/1"
    rows = [
        completion(name, device, NOW, (0, 0, 0, 0), turnaround_ms=ms)
        for device, ms in (("a", 100), ("b", 100), ("slow", 900))
    ]
    speed = compare_speed(read(*rows))
    assert speed is not None
    assert (speed.ratio, speed.slow) == (9.0, False)


def test_a_device_alone_in_its_rounds_is_not_compared() -> None:
    assert compare_speed(read(completion("run-1/1/1", "slow"))) is None
    assert compare_speed(read(decline("run-1/1/1", "slow"))) is None
