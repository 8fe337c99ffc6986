"""When devices are on: by hours of the day, and by turns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets import FleetSpec, draw_fleet
from fedgrass.simulation.fleets.device_availability import DAY
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.fleets.fleet_spec import Availability

HOUR = 3_600_000


def fleet(availability: Availability, devices: int = 1, starts_at: float = 0) -> list[DeviceConditions]:
    return draw_fleet(FleetSpec(availability=availability, starts_at=starts_at), devices, 1)


def share_on(devices: list[DeviceConditions], at: int) -> float:
    return sum(device.is_on(at) for device in devices) / len(devices)


def test_hours_of_the_day_go_over_midnight() -> None:
    nightly = Availability(turns_on=22, stays_on="8 h")
    assert fleet(nightly)[0].on == ((0, 6 * HOUR), (22 * HOUR, DAY))
    assert fleet(nightly, starts_at=20)[0].on == ((2 * HOUR, 10 * HOUR),)


def test_the_hours_of_devices_spread() -> None:
    devices = fleet(Availability(turns_on="normal(22, 1)", stays_on="normal(8 h, 1 h)"), 2000)
    assert share_on(devices, 2 * HOUR) > 0.99
    assert share_on(devices, 22 * HOUR) == pytest.approx(0.5, abs=0.05)
    assert share_on(devices, 14 * HOUR) < 0.01


@pytest.mark.parametrize(("stays_on", "on"), [("24 h", True), ("30 h", True), (0, False)])
def test_a_device_may_be_always_on_or_never(stays_on: str | int, *, on: bool) -> None:
    device = fleet(Availability(turns_on=3, stays_on=stays_on))[0]
    assert [device.is_on(at) for at in (0, 3 * HOUR, 5 * DAY)] == [on] * 3
    assert device.next_change(7) is None
    assert (device.last_on(7) is not None) == on


def test_the_share_on_by_turns_is_the_same_at_any_time() -> None:
    devices = fleet(Availability(on="exponential(2 h)", off="exponential(30 min)"), 3000)
    for at in (0, 5 * HOUR, DAY - 1, 3 * DAY + HOUR):
        assert share_on(devices, at) == pytest.approx(0.8, abs=0.03)


@given(st.floats(1, 1e5), st.floats(1, 1e5), st.floats(1, 1e5))
def test_intervals_are_in_order_and_disjoint_and_within_the_period(
    on: float, off: float, after: float
) -> None:
    try:
        devices = fleet(
            Availability(on=f"exponential({on})", off=f"exponential({off})", repeats_after=after), 5
        )
    except SettingsError as error:
        assert "more than 1,000 turns" in str(error)  # noqa: PT017 - either is right
        return
    for device in devices:
        edges = [edge for interval in device.on for edge in interval]
        assert edges == sorted(set(edges))
        assert not edges or (edges[0] >= 0 and edges[-1] <= device.period)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Availability(), r"^availability has none of: turns_on and stays_on"),
        (Availability(on=1, off=1, turns_on=1, stays_on=1), r"^availability has both of"),
        (Availability(turns_on=1), r"^availability.stays_on is missing: availability.turns_on needs it"),
        (Availability(turns_on=25, stays_on=1), r"^availability.turns_on is 25.*an hour of the day"),
        (Availability(on=0.01, off=0.01), "more than 1,000 turns until they repeat"),
        (Availability(on=1, off=1, repeats_after=0), "repeats_after has draws below a millisecond"),
    ],
)
def test_times_that_cannot_be_used_are_refused(given: Availability, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        fleet(given)
