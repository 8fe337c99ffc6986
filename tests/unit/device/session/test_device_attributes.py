"""Attributes and metrics in a device's heartbeats."""

from pathlib import Path

import msgspec
import pytest

from components.trainer.session.eligibility import read_power
from fedgrass.federation.messages import Heartbeat
from tests.fakes.memory_device import Device, announcement, configure, result


def newest(device: Device) -> Heartbeat:
    device.passes(70)
    heartbeat = device.said("heartbeat")[-1]
    assert isinstance(heartbeat, Heartbeat)
    return heartbeat


def train(device: Device, number: int, task: str = "digits") -> None:
    device.hears(announcement(number, run=f"run-{task}", task=task))
    device.finishes()


def test_a_heartbeat_has_the_attributes_of_the_configuration(tmp_path: Path) -> None:
    device = Device(tmp_path, attributes={"network": "wifi", "racks": 2})
    assert newest(device).attributes == {"network": "wifi", "racks": 2.0}
    device.session.configure(configure(attributes={"network": "ethernet"}))
    assert newest(device).attributes == {"network": "ethernet"}


def test_what_a_device_finds_out_is_said_anew_in_each_heartbeat(tmp_path: Path) -> None:
    device = Device(tmp_path, attributes={"site": "berlin"})
    device.measured = {"battery": 80.0, "mains": True}
    assert newest(device).attributes == {"battery": 80.0, "mains": True, "site": "berlin"}
    device.measured = {"battery": 79.0, "mains": False}
    assert newest(device).attributes == {"battery": 79.0, "mains": False, "site": "berlin"}


def test_what_the_operator_says_counts_more_than_what_the_device_finds_out(tmp_path: Path) -> None:
    device = Device(tmp_path, attributes={"mains": True})
    device.measured = {"mains": False}
    assert newest(device).attributes == {"mains": True}


def test_metrics_are_known_once_a_task_was_trained_and_after_a_restart(tmp_path: Path) -> None:
    device = Device(tmp_path, tasks={"digits": {}})
    assert newest(device).metrics == ""
    train(device, 1)
    assert newest(device).metrics == "loss"
    assert newest(Device(tmp_path, tasks={"digits": {}})).metrics == "loss"


def test_metrics_are_unknown_until_every_task_was_trained(tmp_path: Path) -> None:
    device = Device(tmp_path, tasks={"digits": {}, "noise": {}})
    train(device, 1)
    assert newest(device).metrics == ""
    train(device, 1, "noise")
    assert newest(device).metrics == "loss"


def test_metrics_of_an_evaluation_alone_are_not_taken_for_all(tmp_path: Path) -> None:
    device = Device(tmp_path, tasks={"digits": {}})
    device.hears(announcement(work="evaluate"))
    device.finishes()
    assert newest(device).metrics == ""


def test_metrics_that_fit_no_heartbeat_are_not_said_in_part(tmp_path: Path) -> None:
    device = Device(tmp_path, tasks={"digits": {}})
    measured = dict.fromkeys((f"{number:064}" for number in range(9)), 0.5)
    device.context.journal.record_result(announcement(), msgspec.structs.replace(result(), metrics=measured))
    assert newest(device).metrics == ""


Supplies = dict[str, dict[str, str]]


@pytest.mark.parametrize(
    ("supplies", "known"),
    [
        ({}, {}),
        (
            {"BAT0": {"type": "Battery", "capacity": "57", "status": "Discharging"}},
            {"battery": 57, "mains": False},
        ),
        ({"BAT0": {"type": "Battery", "capacity": "57", "status": "Full"}}, {"battery": 57, "mains": True}),
        ({"BAT0": {"type": "Battery", "capacity": "57", "status": "Unknown"}}, {"battery": 57}),
        (
            {
                "BAT0": {"type": "Battery", "capacity": "50", "status": "Unknown"},
                "BAT1": {"type": "Battery", "capacity": "101", "status": "Charging"},
                "AC": {"type": "Mains", "online": "1"},
            },
            {"battery": 75, "mains": True},
        ),
        (
            {"AC": {"type": "Mains", "online": "0"}, "ucsi": {"type": "USB_PD", "online": "2"}},
            {"mains": True},
        ),
        ({"AC": {"type": "Mains", "online": "0"}}, {"mains": False}),
        ({"hidpp": {"type": "Battery", "scope": "Device", "capacity": "9", "status": "Discharging"}}, {}),
        ({"BAT0": {"type": "Battery", "capacity": "n/a"}, "odd": {}}, {}),
    ],
)
def test_battery_and_mains_are_read_from_linux(
    tmp_path: Path, supplies: Supplies, known: dict[str, float | bool]
) -> None:
    for name, files in supplies.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text + "\n")
    assert read_power(tmp_path) == known


def test_a_system_that_tells_nothing_of_power_is_no_error(tmp_path: Path) -> None:
    assert read_power(tmp_path / "missing") == {}
