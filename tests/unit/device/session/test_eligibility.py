"""When a device accepts work, and the reasons it gives when it declines."""

from datetime import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from components.runtime.component_errors import ConfigurationError
from components.trainer.session.eligibility import (
    Demand,
    HostMetrics,
    TrainWhen,
    objection,
    read_host_metrics,
)
from components.trainer.trainer_configuration import parse_configuration
from tests.fakes.memory_device import Device, announcement, configure

SMALL = Demand(disk=1000, memory=5000)
PLENTY = HostMetrics(time=time(12), load=0.1, free_disk=10**12, free_memory=10**11)
BATTERY: dict[str, object] = {"battery": 40.0, "mains": False}


def said(
    when: dict[str, Any], now: dict[str, Any] | None = None, power: dict[str, object] | None = None
) -> str:
    conditions = parse_configuration({"train_when": when}).train_when
    return objection(conditions, msgspec.structs.replace(PLENTY, **(now or {})), power or {}, SMALL)


@pytest.mark.parametrize(
    ("when", "now", "power", "reason"),
    [
        (
            {"hours": "22:00-06:00"},
            {"time": time(14, 30)},
            {},
            "it is 14:30 here, and train_when.hours is 22:00-06:00",
        ),
        ({"load": "0.5"}, {"load": 0.75}, {}, "the load is 0.75 per core, and train_when.load is 0.5"),
        ({"mains": "true"}, {}, BATTERY, "the device is not on mains power, and train_when.mains is true"),
        ({"battery": 50}, {}, BATTERY, "the battery is at 40 %, and train_when.battery is 50"),
        (
            {"free_disk_megabytes": "500"},
            {"free_disk": 10_000_000},
            {},
            "the disk has 10.0 MB free and 500.0 MB are needed (train_when.free_disk_megabytes)",
        ),
        ({}, {"free_disk": 900}, {}, "the disk has 0.0 MB free and 0.0 MB are needed (for the update)"),
        (
            {"free_memory_megabytes": 300},
            {"free_memory": 200_000_000},
            {},
            "the memory has 200.0 MB free, and train_when.free_memory_megabytes is 300",
        ),
    ],
)
def test_each_condition_that_does_not_hold_is_said_in_words(
    when: dict[str, Any], now: dict[str, Any], power: dict[str, object], reason: str
) -> None:
    assert said(when, now, power) == reason


def test_all_that_does_not_hold_is_said_at_once() -> None:
    assert said({"mains": True, "load": 0.01}, {}, BATTERY).count(";") == 1


@pytest.mark.parametrize(
    ("when", "power"),
    [
        ({"mains": True}, {}),  # without a battery, mains power is assumed
        ({"mains": True}, {"mains": True, "battery": 3.0}),
        ({"battery": 50}, {"mains": True, "battery": 3.0}),
        ({"battery": 50}, {}),
        ({"load": 0.1}, {}),
    ],
)
def test_what_holds_or_is_not_known_is_no_objection(when: dict[str, Any], power: dict[str, object]) -> None:
    unknown = {"load": None, "free_disk": None, "free_memory": None}
    assert said({**when, "free_disk_megabytes": 5, "free_memory_megabytes": 5}, unknown, power) == ""


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "21:59"]),
        ("08:00-12:00, 13:00-17:30", ["08:00", "13:00", "17:29"], ["12:00", "12:59", "17:30", "07:59"]),
        ("00:00-00:00", ["00:00", "12:00", "23:59"], []),
    ],
)
def test_hours_may_go_over_midnight_and_end_before_their_last_minute(
    hours: str, inside: list[str], outside: list[str]
) -> None:
    assert [clock for clock in inside if said({"hours": hours}, {"time": time.fromisoformat(clock)})] == []
    assert [
        clock for clock in outside if not said({"hours": hours}, {"time": time.fromisoformat(clock)})
    ] == []


@given(some.times(), some.times(), some.times())
def test_a_window_and_its_opposite_never_hold_together(first: time, last: time, now: time) -> None:
    if (first.hour, first.minute) == (last.hour, last.minute):
        return
    there = said({"hours": f"{first:%H:%M}-{last:%H:%M}"}, {"time": now})
    back = said({"hours": f"{last:%H:%M}-{first:%H:%M}"}, {"time": now})
    assert bool(there) != bool(back)


@pytest.mark.parametrize(
    ("when", "text"),
    [
        ({"hours": "10pm"}, "train_when.hours is '10pm': it takes a text such as '22:00-06:00'"),
        ({"hours": "24:00-06:00"}, "train_when.hours"),
        ({"load": "high"}, "train_when.load is 'high': it takes a number from 0 to 1,000"),
        ({"battery": 101}, "train_when.battery"),
        ({"disk": 5}, "'disk' is not one of"),
        ("at night", "'at night' cannot be the configuration's train_when: that is an object"),
    ],
)
def test_a_condition_that_cannot_be_used_is_named(when: object, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_configuration({"train_when": when})


def test_a_condition_that_is_null_is_none() -> None:
    assert parse_configuration({"train_when": {"hours": None}}).train_when == TrainWhen()


def test_a_device_declines_with_the_reason_and_takes_the_work_later(tmp_path: Path) -> None:
    device = Device(tmp_path, train_when={"hours": "22:00-06:00"})
    device.hears(announcement())
    assert device.states == ["declined"]
    assert device.statuses[0].reason == "it is 12:00 here, and train_when.hours is 22:00-06:00"
    assert device.bench.works == []
    device.host_metrics = HostMetrics(time=time(23))
    device.hears(announcement())
    assert device.states == ["declined", "accepted"]


def test_what_the_operator_says_of_the_power_counts(tmp_path: Path) -> None:
    device = Device(tmp_path, train_when={"mains": True}, attributes={"mains": True})
    device.measured = {"mains": False, "battery": 20.0}
    device.hears(announcement())
    assert device.states == ["accepted"]


def test_a_changed_condition_holds_for_the_next_work(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.session.configure(configure(train_when={"hours": "01:00-02:00"}))
    device.hears(announcement())
    assert device.states == ["declined"]


def test_work_that_does_not_fit_the_memory_is_declined_before_it_begins(tmp_path: Path) -> None:
    device = Device(tmp_path, memory_megabytes=400)
    device.hears(announcement(model_bytes=100_000_000))
    assert device.statuses[0].reason == (
        "the work needs at least 500.0 MB of memory, and memory_megabytes is 400"
    )
    device.hears(announcement(model_bytes=100_000_000, work="evaluate"))
    assert device.states == ["declined", "accepted"]


def test_the_surroundings_are_read_of_linux(tmp_path: Path) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    now = read_host_metrics(tmp_path / "not" / "yet" / "there", memory)
    assert now.free_memory == 2048 * 1024
    assert now.free_disk is not None
    assert now.free_disk > 0
    assert now.load is not None


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: much\n", "\u00fc"])
def test_memory_that_linux_does_not_tell_is_unknown(tmp_path: Path, text: str) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text(text)
    assert read_host_metrics(tmp_path, memory).free_memory is None
    assert read_host_metrics(tmp_path, tmp_path / "missing").free_memory is None
