"""The slices of data: never more than there are examples."""

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets import FleetSpec, check_slices, draw_fleet
from fedgrass.simulation.fleets.data_slices import examples_of, number_of_slices
from fedgrass.simulation.fleets.device_conditions import DeviceConditions


def test_more_devices_than_examples_are_refused() -> None:
    devices = draw_fleet(FleetSpec(), 1438, 1)
    check_slices(devices[:1437], 1437, "digits")
    with pytest.raises(SettingsError, match=r"1,438 .*digits has 1,437 examples .*--devices 1437 or fewer"):
        check_slices(devices, 1437, "digits")


def test_slices_have_a_least_size() -> None:
    devices = draw_fleet(FleetSpec(), 100, 1)
    check_slices(devices, 1000, "digits", smallest=10)
    with pytest.raises(SettingsError, match=r"at least 10 examples.*`slices = 99`"):
        check_slices(devices, 999, "digits", smallest=10)


def test_devices_that_share_slices_need_fewer() -> None:
    devices = draw_fleet(FleetSpec(slices=20), 5000, 1)
    assert number_of_slices(devices) == 20
    check_slices(devices, 20, "digits")


def test_a_device_trains_on_at_most_its_examples() -> None:
    assert examples_of(DeviceConditions(name="a", share=0), 60) == 60
    assert examples_of(DeviceConditions(name="a", share=0, examples=40), 60) == 40
    assert examples_of(DeviceConditions(name="a", share=0, examples=80), 60) == 60
