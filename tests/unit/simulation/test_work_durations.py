"""How long the work of a virtual device takes, and what chance decides of it."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.messages import Announcement, CarriedFile
from fedgrass.simulation import work_durations
from fedgrass.simulation.fleets.device_conditions import DeviceConditions

HOUR = 3_600_000


def announcement(number: int = 1, **changes: object) -> Announcement:
    found = {
        "run": "run-1",
        "round": number,
        "attempt": 1,
        "work": "train",
        "task": "digits",
        "announced_at": 5,
        "deadline_seconds": 60.0,
        "bucket": "bucket",
        "model_key": "models/run-1/0.safetensors",
        "model_sha256": "0" * 64,
        "model_bytes": 1000,
    }
    return Announcement(**{**found, **changes})  # type: ignore[arg-type]


def device(**changes: object) -> DeviceConditions:
    return DeviceConditions(**{"name": "device-00001", "share": 0, **changes})  # type: ignore[arg-type]


def test_the_same_assignment_is_drawn_the_same_and_others_are_not() -> None:
    jittery = device(jitter=0.5, dropout=0.5)
    drawn = [work_durations.draw(1, jittery, announcement(number)) for number in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert work_durations.draw(2, jittery, announcement()) != drawn[0]
    assert work_durations.draw(1, device(name="device-00002", jitter=0.5), announcement()) != drawn[0]


def test_jitter_is_log_normal_and_dropout_has_its_probability() -> None:
    jittery = device(jitter=0.3, dropout=0.2)
    drawn = [work_durations.draw(0, jittery, announcement(number)) for number in range(1, 2001)]
    logs = [math.log(each.jitter) for each in drawn]
    assert statistics.mean(logs) == pytest.approx(0, abs=0.03)
    assert statistics.stdev(logs) == pytest.approx(0.3, abs=0.03)
    assert statistics.mean(each.drops_out for each in drawn) == pytest.approx(0.2, abs=0.03)
    assert all(0 <= each.seed < 2**32 for each in drawn)


def test_a_device_without_jitter_takes_exactly_as_long_as_it_says() -> None:
    assert work_durations.draw(0, device(), announcement()).jitter == 1


def test_a_training_takes_its_examples_in_each_epoch_and_an_evaluation_once() -> None:
    slow = device(fixed_seconds=2.0, seconds_per_example=0.5)
    training = announcement(settings={"epochs": 3})
    assert work_durations.training_seconds(slow, training, 10, 2.0) == (2 + 0.5 * 10 * 3) * 2
    evaluation = announcement(settings={"epochs": 3}, work="evaluate")
    assert work_durations.training_seconds(slow, evaluation, 10, 1.0) == 7
    assert work_durations.training_seconds(slow, announcement(settings={"epochs": "x"}), 10, 1.0) == 7


def test_a_device_downloads_the_auxiliary_state_too() -> None:
    state = CarriedFile(key="models/run-1/0.control.safetensors", sha256="0" * 64, bytes=500)
    found = announcement(carried={"control": state, "momentum": None})
    assert work_durations.download_seconds(device(download=100.0), found) == 15


def test_work_passes_only_while_the_device_is_on() -> None:
    by_day = device(on=((8 * HOUR, 18 * HOUR),), period=24 * HOUR)
    assert work_durations.finish(by_day, 9 * HOUR, 3600) == 10 * HOUR
    assert work_durations.finish(by_day, 17 * HOUR, 2 * 3600) == (24 + 9) * HOUR
    assert work_durations.finish(by_day, 20 * HOUR, 3600) == (24 + 9) * HOUR
    assert work_durations.finish(by_day, 9 * HOUR, 30 * 3600) == (3 * 24 + 9) * HOUR
    once = device(on=((0, HOUR),))
    assert work_durations.finish(once, 0, 1800) == HOUR / 2
    assert work_durations.finish(once, 0, 3601) is None
    assert work_durations.finish(once, 2 * HOUR, 1) is None


def test_a_device_is_turned_on_next_when_it_was_off_before() -> None:
    by_day = device(on=((8 * HOUR, 18 * HOUR),), period=24 * HOUR)
    assert work_durations.next_turned_on(by_day, 0) == 8 * HOUR
    assert work_durations.next_turned_on(by_day, 8 * HOUR) == 32 * HOUR
    assert work_durations.next_turned_on(device(on=((0, HOUR),)), 0) is None
    assert work_durations.next_turned_on(device(), 0) is None
    assert work_durations.next_turned_on(device(on=((0, HOUR),), period=HOUR), 0) is None


@st.composite
def conditions(draw: st.DrawFn) -> DeviceConditions:
    edges = sorted(draw(st.sets(st.integers(0, 100), min_size=2, max_size=8)))
    on = tuple(zip(edges[::2], edges[1::2], strict=False))
    period = draw(st.sampled_from([0, 101, 150]))
    return device(on=on, period=period)


@given(conditions(), st.integers(0, 400), st.integers(0, 200))
def test_work_is_done_after_as_many_milliseconds_in_which_the_device_was_on(
    found: DeviceConditions, start: int, milliseconds: int
) -> None:
    done = work_durations.finish(found, start, milliseconds / 1000)
    if done is None:
        assert not found.period
        assert sum(found.is_on(at) for at in range(start, 501)) <= milliseconds
    else:
        assert found.is_on(done)
        assert sum(found.is_on(at) for at in range(start, done)) == milliseconds


@given(conditions(), st.integers(0, 400))
def test_the_next_time_of_turning_on_is_the_first_one(found: DeviceConditions, after: int) -> None:
    expected = [at for at in range(after + 1, 1000) if found.is_on(at) and not found.is_on(at - 1)]
    at = work_durations.next_turned_on(found, after)
    assert at == (expected[0] if expected else None)
