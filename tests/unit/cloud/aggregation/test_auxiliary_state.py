"""Announcements name the auxiliary state that devices need with the model, and its checksum."""

from typing import Any

import numpy as np
import pytest

from cloud_functions.recovery import repair
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Announcement, CarriedFile
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, decode, read_layout, sha256
from fedgrass.federation.weights.array_roles import auxiliary_layout
from tests.fakes.small_average import file_of
from tests.fakes.small_fleet import RUN, SmallFleet, update_full_of


def a_fleet(**settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=2, **{"rounds": 3, "aggregation": "scaffold", **settings})
    fleet.start()
    return fleet


def train(fleet: SmallFleet, value: float = 1.0) -> None:
    """Make every device reply to the open training round."""
    opened = fleet.newest()
    file = fleet.bucket.objects[object_keys.model(RUN, 0)]
    carried = auxiliary_layout(read_layout(file, len(file)), ["control"]).arrays
    controls = {name: np.full(array.shape, value, np.float32) for name, array in carried.items()}
    for device in fleet.names:
        data = fleet.upload(device, opened, file_of(update_full_of(value), behind=controls))
        assert fleet.say(device, Kind.COMPLETE, fleet.completion(opened, data))


def evaluate(fleet: SmallFleet) -> None:
    opened = fleet.newest()
    for device in fleet.names:
        fleet.say(device, Kind.COMPLETE, fleet.completion(opened, b"", checksum=checksum(b"")))


def newest_announcement(fleet: SmallFleet) -> Announcement:
    return fleet.announced("thing-1")[-1]


def of_model(fleet: SmallFleet, number: int) -> dict[str, CarriedFile]:
    """Return what an announcement must state about the control of a model, computed from the object."""
    key = object_keys.state(RUN, number, "control")
    data = fleet.bucket.objects[key]
    return {"control": CarriedFile(key=key, sha256=sha256(data), bytes=len(data))}


def test_the_first_round_announces_that_the_control_is_zero() -> None:
    assert newest_announcement(a_fleet()).carried == {"control": None}


def test_each_later_round_announces_the_control_of_its_model() -> None:
    fleet = a_fleet()
    for number in (1, 2):
        train(fleet, float(number))
        assert newest_announcement(fleet).model_key == object_keys.model(RUN, number)
        assert newest_announcement(fleet).carried == of_model(fleet, number)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_an_encoded_download_has_its_control_too(kind: str) -> None:
    fleet = a_fleet(download_encoding=kind)
    train(fleet)
    assert newest_announcement(fleet).carried == of_model(fleet, 1)


def test_a_run_of_another_aggregation_announces_no_control() -> None:
    assert newest_announcement(a_fleet(aggregation="fedadam")).carried == {}


def test_an_evaluation_round_announces_no_control_and_keeps_it() -> None:
    fleet = a_fleet(evaluate_every=1)
    train(fleet)
    assert newest_announcement(fleet).work == "evaluate"
    assert newest_announcement(fleet).carried == {}
    evaluate(fleet)
    assert newest_announcement(fleet).work == "train"
    assert newest_announcement(fleet).carried == of_model(fleet, 1)


def test_another_attempt_announces_the_same_control() -> None:
    fleet = a_fleet()
    train(fleet)
    fleet.pass_time(601)
    fleet.ring()
    assert (fleet.newest().number, fleet.newest().attempt) == (2, 2)
    assert newest_announcement(fleet).carried == of_model(fleet, 1)


def test_the_downloaded_bytes_include_the_control() -> None:
    fleet = a_fleet()
    train(fleet)
    train(fleet)
    second = fleet.rounds.round(RUN, 2, 1)
    assert second is not None
    assert second.bytes_down == 2 * (second.base_bytes + of_model(fleet, 1)["control"].bytes)


@pytest.mark.parametrize("manifest", [True, False])
def test_a_run_whose_rows_were_lost_continues_with_its_control(*, manifest: bool) -> None:
    fleet = a_fleet(schedule="by_hand")
    train(fleet)
    if not manifest:
        del fleet.bucket.objects[object_keys.round_manifest(RUN, 1)]
    fleet.rounds.lose(runs=True, rounds=True, participants=True)
    repair.act(fleet.cloud, {"action": "repair", "run": RUN})
    fleet.act("resume")
    if fleet.newest().state is not State.OPEN:
        fleet.act("next")
    assert newest_announcement(fleet).round == 2
    assert newest_announcement(fleet).carried == of_model(fleet, 1)


def test_a_repair_without_the_control_reports_its_key() -> None:
    fleet = a_fleet(schedule="by_hand")
    train(fleet)
    del fleet.bucket.objects[object_keys.round_manifest(RUN, 1)]
    del fleet.bucket.objects[object_keys.state(RUN, 1, "control")]
    fleet.rounds.lose(runs=True, rounds=True, participants=True)
    with pytest.raises(SettingsError, match=r"models/run-1/1\.control\.safetensors is missing"):
        repair.act(fleet.cloud, {"action": "repair", "run": RUN})


def test_the_controls_of_all_rounds_add_up() -> None:
    fleet = a_fleet()
    for value in (1.0, 2.0, 4.0):
        train(fleet, value)
    assert fleet.run().state is RunState.SUCCEEDED
    control = decode(fleet.bucket.objects[object_keys.state(RUN, 3, "control")])
    assert all(np.all(array == 7.0) for array in control.values())
