"""Fleets: drawn from a spec, the same for the same seed, device by device."""

import statistics
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets import FleetSpec, draw_fleet
from fedgrass.simulation.fleets.fleet_spec import Availability, DeviceGroup, ObservedDevice

STRAGGLERS = FleetSpec(
    seconds_per_example=0.01,
    fixed_seconds=2,
    groups={
        "fast": DeviceGroup(share="70 %"),
        "slow": DeviceGroup(share="20 %", slowdown=5, attributes={"board": "old"}),
        "dead": DeviceGroup(share="10 %", dropout=1),
    },
    attributes={"board": "new", "region": "choice(eu, us)"},
)


def test_without_a_fleet_file_devices_differ_and_are_always_on() -> None:
    devices = draw_fleet(FleetSpec(), 200, 1)
    assert [device.name for device in devices[:2]] == ["device-00001", "device-00002"]
    assert [device.share for device in devices] == list(range(200))
    assert statistics.median(device.seconds_per_example for device in devices) == pytest.approx(
        0.005, rel=0.2
    )
    assert len({device.upload for device in devices}) == 200
    assert not any(device.on or device.dropout or device.examples for device in devices)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
def test_a_device_is_the_same_in_a_fleet_of_any_size(seed: int, few: int, more: int) -> None:
    spec = msgspec.structs.replace(STRAGGLERS, availability=Availability(on="exponential(1 h)", off="2 h"))
    assert draw_fleet(spec, few, seed) == draw_fleet(spec, few + more, seed)[:few]


def test_another_seed_gives_another_fleet() -> None:
    assert draw_fleet(FleetSpec(), 5, 1) != draw_fleet(FleetSpec(), 5, 2)


def test_one_condition_does_not_change_the_draws_of_the_others() -> None:
    before = draw_fleet(FleetSpec(), 50, 3)
    after = draw_fleet(FleetSpec(dropout=0.5, availability=Availability(on=1000, off=1000)), 50, 3)
    assert [device.upload for device in before] == [device.upload for device in after]


def test_groups_have_their_shares_and_what_they_do_not_set_is_the_fleets() -> None:
    devices = draw_fleet(STRAGGLERS, 10_000, 1)
    slow = [device for device in devices if device.attributes["board"] == "old"]
    dead = [device for device in devices if device.dropout == 1]
    assert len(slow) / len(devices) == pytest.approx(0.2, abs=0.015)
    assert len(dead) / len(devices) == pytest.approx(0.1, abs=0.015)
    assert {(device.seconds_per_example, device.fixed_seconds) for device in slow} == {(0.05, 10.0)}
    assert {device.attributes["region"] for device in slow} == {"eu", "us"}
    assert not set(map(id, slow)) & set(map(id, dead))


def test_a_fleet_survives_the_json_of_a_simulation() -> None:
    decoded = msgspec.json.decode(msgspec.json.encode(STRAGGLERS), type=FleetSpec)
    assert draw_fleet(decoded, 20, 1) == draw_fleet(STRAGGLERS, 20, 1)


def test_slices_are_shared_if_the_fleet_says_so() -> None:
    assert [device.share for device in draw_fleet(FleetSpec(slices=3), 7, 1)] == [0, 1, 2, 0, 1, 2, 0]


OBSERVED = FleetSpec(
    observed=(
        ObservedDevice(name="press-1", seconds_per_example=0.1, upload=1000.0, on=((0, 5),), period=9),
        ObservedDevice(name="press-2", seconds_per_example=0.2, examples=7, attributes={"region": "eu"}),
        ObservedDevice(name="press-3"),
    ),
    latency=0.25,
)


def test_observed_devices_keep_what_is_known_and_draw_the_rest_from_the_others() -> None:
    one, two, three = draw_fleet(OBSERVED, 0, 1)
    assert [one.name, two.name, three.name] == ["press-1", "press-2", "press-3"]
    assert (one.seconds_per_example, two.seconds_per_example) == (0.1, 0.2)
    assert three.seconds_per_example in {0.1, 0.2}
    assert {one.upload, two.upload, three.upload} == {1000.0}
    assert {one.examples, two.examples, three.examples} == {7}
    assert {one.latency, two.latency, three.latency} == {0.25}
    assert (one.on, two.on, two.attributes) == (((0, 5),), (), {"region": "eu"})


def test_a_larger_fleet_than_the_trace_is_refused_or_repeats_devices() -> None:
    with pytest.raises(SettingsError, match=r"--devices is 4 and the trace has 3 devices: .*resample = true"):
        draw_fleet(OBSERVED, 4, 1)
    devices = draw_fleet(msgspec.structs.replace(OBSERVED, resample=True), 40, 1)
    assert len({device.name for device in devices}) == 40
    assert devices[39].name == "device-00040"
    assert {device.period for device in devices[3:]} == {0, 9}


def test_further_devices_get_names_that_the_trace_does_not_have() -> None:
    spec = FleetSpec(observed=(ObservedDevice(name="device-00002"),), resample=True)
    assert [device.name for device in draw_fleet(spec, 2, 1)] == ["device-00002", "further-device-00002"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upload": "8 Mbit"}, r"^upload is '8 Mbit'"),
        ({"groups": {"a": DeviceGroup(share="x %")}}, r"^groups.a.share is 'x %': it takes a percentage"),
        (
            {"groups": {"a": DeviceGroup(share="90 %")}},
            "shares of the groups are a 90 %: .* 90 instead of 100",
        ),
        ({"groups": {"a": DeviceGroup(share=1, latency=-1)}}, r"^groups.a.latency is -1"),
        ({"attributes": {"a b": 1}}, "^attributes are .* which a heartbeat cannot have"),
        ({"availability": Availability(on=1)}, "^availability.off is missing: availability.on needs it"),
        ({"groups": {"a": DeviceGroup(share=1)}, "trace": "a.csv"}, "^a fleet has a trace and groups"),
    ],
)
def test_what_cannot_be_used_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        draw_fleet(FleetSpec(**changes), 3, 1)


def test_no_devices_and_no_trace_is_refused() -> None:
    with pytest.raises(SettingsError, match="--devices is 0"):
        draw_fleet(FleetSpec(), 0, 1)
