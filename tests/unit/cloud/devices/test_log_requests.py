"""The action ``logs``: a request for the log lines of one device, checked, published, and limited."""

import pytest

from cloud_functions.devices import log_requests
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import LARGEST_MESSAGE, LogRequest, encode
from fedgrass.federation.rounds import Work
from tests.fakes.small_fleet import SmallFleet

EVENT = {"action": "logs", "device": "thing-1", "id": "an id"}


@pytest.fixture
def fleet() -> SmallFleet:
    fleet = SmallFleet()
    fleet.devices.works = frozenset(Work) | {"logs"}
    fleet.heartbeats()
    return fleet


def requests(fleet: SmallFleet, device: str = "thing-1") -> list[LogRequest]:
    return [message for message in fleet.heard(device) if isinstance(message, LogRequest)]


def test_a_request_is_published_to_the_device_alone(fleet: SmallFleet) -> None:
    found = log_requests.request_logs(fleet.cloud, EVENT)
    (request,) = requests(fleet)
    assert found == {
        "device": "thing-1",
        "id": request.id,
        "key": f"logs/thing-1/{request.id}.txt",
        "requested_at": fleet.now,
        "expires_at": fleet.now + 900_000,
        "last_seen": fleet.now,
    }
    assert (request.bucket, request.expires_at) == (fleet.bucket.name, fleet.now + 900_000)
    assert requests(fleet, "thing-0") == []
    assert len(encode(request)) < LARGEST_MESSAGE / 10


def test_a_copy_of_the_event_names_the_same_request_and_another_event_another(fleet: SmallFleet) -> None:
    for event in (EVENT, EVENT, {**EVENT, "id": "another"}):
        log_requests.request_logs(fleet.cloud, event)
    first, copy, other = requests(fleet)
    assert first == copy
    assert first.id != other.id
    assert log_requests.request_logs(fleet.cloud, {**EVENT, "device": "thing-2"})["id"] != first.id


@pytest.mark.parametrize("device", ["thing-9", "thing"])
def test_a_device_that_does_not_exist_is_refused_by_name(fleet: SmallFleet, device: str) -> None:
    with pytest.raises(SettingsError, match=f"there is no device '{device}'.*fedgrass devices list"):
        log_requests.request_logs(fleet.cloud, {**EVENT, "device": device})


@pytest.mark.parametrize("device", [None, 3, "", "a/b", "../models", "x" * 129])
def test_what_cannot_name_a_device_is_refused(fleet: SmallFleet, device: object) -> None:
    with pytest.raises(SettingsError, match="takes"):
        log_requests.request_logs(fleet.cloud, {**EVENT, "device": device})
    assert fleet.publisher.on("fedgrass/plant/clients/thing-1/announce") == []


def test_a_device_of_an_older_version_is_refused_with_the_version_that_it_needs(fleet: SmallFleet) -> None:
    fleet.devices.works = frozenset(Work)
    fleet.devices.heartbeat("thing-1", fleet.now, component_version="0.4.0", version="0.4.0")
    with pytest.raises(
        SettingsError, match=r"thing-1 cannot .* version '0\.4\.0', and a later one than 0\.4\.0"
    ):
        log_requests.request_logs(fleet.cloud, EVENT)
    assert requests(fleet) == []


def test_one_device_is_not_asked_too_often_and_others_still_are(fleet: SmallFleet) -> None:
    for number in range(6):
        log_requests.request_logs(fleet.cloud, {**EVENT, "id": str(number)})
    with pytest.raises(SettingsError, match="thing-1 was asked for its log lines 6 times within a minute"):
        log_requests.request_logs(fleet.cloud, {**EVENT, "id": "7"})
    assert len(requests(fleet)) == 6
    log_requests.request_logs(fleet.cloud, {**EVENT, "device": "thing-2"})
    fleet.now += 61_000
    log_requests.request_logs(fleet.cloud, EVENT)
    assert len(requests(fleet)) == 7
