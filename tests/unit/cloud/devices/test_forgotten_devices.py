"""The action ``forget`` removes a device that takes part in nothing, and only the row that was seen."""

import msgspec
import pytest

from cloud_functions import initiator, wiring
from cloud_functions.devices import forget_device
from fedgrass.federation.errors import SettingsError
from tests.fakes.small_fleet import RUN, SmallFleet
from tests.unit.cloud.rounds.test_actions_done_once import Context


def forget(fleet: SmallFleet, device: object = "thing-1", **event: object) -> object:
    return forget_device.forget(fleet.cloud, {"action": "forget", "device": device, **event})


def test_a_forgotten_device_is_no_candidate_and_the_log_says_for_whom() -> None:
    fleet = SmallFleet(devices=3)
    assert forget(fleet, by="arn:aws:iam::1:user/ben") == {"device": "thing-1", "forgotten": True}
    fleet.start()
    assert set(fleet.parts()) == {"thing-0", "thing-2"}
    assert any("forgot device thing-1" in line and "user/ben" in line for line in fleet.log)


def test_a_device_that_is_alive_comes_back_with_its_next_heartbeat() -> None:
    fleet = SmallFleet(devices=2)
    forget(fleet)
    assert fleet.devices.find("thing-1") is None
    fleet.heartbeats()
    assert fleet.devices.find("thing-1") is not None


def test_a_copy_of_the_action_finds_nothing_and_is_no_error() -> None:
    fleet = SmallFleet(devices=2)
    seen = fleet.now
    forget(fleet, last_seen=seen)
    assert forget(fleet, last_seen=seen) == {"device": "thing-1", "forgotten": False}


def test_a_late_copy_does_not_remove_a_device_that_has_come_back() -> None:
    fleet = SmallFleet(devices=2)
    seen = fleet.now
    forget(fleet, last_seen=seen)
    fleet.pass_time(60)
    fleet.heartbeats()
    with pytest.raises(SettingsError, match="thing-1 has sent a heartbeat since you looked: it is alive"):
        forget(fleet, last_seen=seen)
    assert fleet.devices.find("thing-1") is not None


def test_a_heartbeat_between_the_reading_and_the_removal_is_not_lost() -> None:
    fleet = SmallFleet(devices=2)
    seen = fleet.now
    fleet.counter.plan(lambda: fleet.devices.heartbeat("thing-1", seen + 5, "digits"), name="forget")
    with pytest.raises(SettingsError, match="heartbeat since"):
        forget(fleet, last_seen=seen)
    assert fleet.devices.find("thing-1") is not None


def test_a_device_that_takes_part_in_an_open_round_is_not_forgotten() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    with pytest.raises(SettingsError, match=r"takes part in the open round run-1/1/1 \(ASKED\): wait"):
        forget(fleet)
    fleet.status("thing-1", "accepted")
    with pytest.raises(SettingsError, match=r"\(ACCEPTED\).*fedgrass run cancel run-1"):
        forget(fleet)
    fleet.reply("thing-1", fleet.newest())
    assert forget(fleet) == {"device": "thing-1", "forgotten": True}


@pytest.mark.parametrize("device", [None, 7, "", "a b", "x" * 129, "#/+"])
def test_what_names_no_device_is_refused(device: object) -> None:
    with pytest.raises(SettingsError, match=r"device|cannot name a thing"):
        forget(SmallFleet(devices=1), device)


@pytest.mark.parametrize("seen", ["1", 1.5, True])
def test_a_time_that_is_no_number_is_refused(seen: object) -> None:
    with pytest.raises(SettingsError, match=r"last_seen is .*; it takes milliseconds"):
        forget(SmallFleet(devices=2), last_seen=seen)


def test_the_initiator_performs_it_and_returns_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SmallFleet(devices=2)
    monkeypatch.setattr(wiring, "services", lambda *_args, **_options: fleet.cloud)
    event = {"action": "forget", "device": "thing-1", "id": "1"}
    assert initiator.handler(event, Context()) == {"device": "thing-1", "forgotten": True}
    fleet.start()
    refused = initiator.handler({**event, "device": "thing-0"}, Context())["refused"]
    assert f"open round {RUN}/1/1" in refused
    assert msgspec.json.encode(refused)
