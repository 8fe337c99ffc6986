"""The slices of data: as many as there are devices, unless several have the same one."""

from pathlib import Path

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.clients import open_clients
from fedgrass.simulation.fleets import FleetSpec, draw_fleet
from fedgrass.simulation.fleets.data_slices import epochs_of, examples_of, number_of_slices, too_many_slices
from fedgrass.simulation.fleets.device_conditions import DeviceConditions
from fedgrass.simulation.simulation_spec import SimulationSpec


def test_each_device_has_a_slice_unless_the_fleet_has_fewer() -> None:
    assert number_of_slices(draw_fleet(FleetSpec(), 50, 1)) == 50
    assert number_of_slices(draw_fleet(FleetSpec(slices=20), 50, 1)) == 20
    assert number_of_slices(draw_fleet(FleetSpec(slices=20), 7, 1)) == 7


def test_an_error_on_the_shares_of_a_task_says_what_to_do() -> None:
    devices = draw_fleet(FleetSpec(), 200, 1)
    text = too_many_slices(devices, "task 'digits' has only 1438 images to split: at most 143 shares")
    assert text.startswith("200 virtual devices need 200 slices of data: task 'digits' has only 1438 images")
    assert "take fewer --devices" in text
    assert "`slices = N`" in text


def test_other_errors_of_a_task_stay_as_they_are() -> None:
    devices = draw_fleet(FleetSpec(), 200, 1)
    for other in (
        "the folder /data is missing",
        "task 'digits' has no option 'foo'; it takes: share, shares, split",
        "TypeError: __init__() got an unexpected keyword argument 'share'",
    ):
        assert too_many_slices(devices, other) == other
    assert too_many_slices(devices[:1], "share 5 of 3") == "share 5 of 3"


@pytest.mark.slow
def test_more_devices_than_data_are_refused_and_fit_with_slices(tmp_path: Path) -> None:
    devices = draw_fleet(FleetSpec(), 200, 1)
    with pytest.raises(SettingsError, match=r"^200 virtual devices need 200 slices.*at most 143 shares"):
        open_clients(SimulationSpec(devices=200), devices, 1, tmp_path)
    shared = draw_fleet(FleetSpec(slices=100), 200, 1)
    open_clients(SimulationSpec(devices=200), shared, 1, tmp_path).close()


def test_a_device_trains_on_at_most_its_examples() -> None:
    assert examples_of(DeviceConditions(name="a", share=0), 60) == 60
    assert examples_of(DeviceConditions(name="a", share=0, examples=40), 60) == 40
    assert examples_of(DeviceConditions(name="a", share=0, examples=80), 60) == 60


@pytest.mark.parametrize(("training", "epochs"), [({}, 1), ({"epochs": 5}, 5), ({"epochs": "x"}, 1)])
def test_epochs_are_those_of_the_settings(training: dict[str, object], epochs: float) -> None:
    assert epochs_of(training) == epochs
