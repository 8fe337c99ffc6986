"""Fleets written to files: a trace gives the same devices again, a file of distributions a similar fleet."""

import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets import FleetSpec, draw_fleet, load_fleet
from fedgrass.simulation.fleets.fleet_file import fleet_toml, summarize, trace_csv, write_fleet
from fedgrass.simulation.fleets.fleet_spec import Availability, DeviceGroup, ObservedDevice

BY_TURNS = Availability(on="exponential(2 h)", off="exponential(30 min)")
BY_HOURS = Availability(turns_on="normal(22, 3)", stays_on="normal(6 h, 4 h)")
RATES = "choice(unlimited, 8 Mbit/s)"


@pytest.mark.parametrize(
    "spec",
    [
        FleetSpec(),
        FleetSpec(availability=BY_TURNS, examples="uniform(10, 60)", download=RATES),
        FleetSpec(availability=BY_HOURS, attributes={"region": "choice(eu, us)", "gpu": True, "gb": 2}),
        FleetSpec(groups={"off": DeviceGroup(share=1, availability=Availability(turns_on=1, stays_on=0))}),
    ],
)
def test_a_trace_gives_the_same_devices_again(tmp_path: Path, spec: FleetSpec) -> None:
    path = tmp_path / "fleet.csv"
    devices = draw_fleet(spec, 50, 7)
    path.write_text(trace_csv(devices))
    assert draw_fleet(FleetSpec(trace=str(path)), 0, 1) == devices


values = st.one_of(
    st.floats(0, 1e6, allow_nan=False),
    st.sampled_from(["lognormal(10, 0.5)", "choice(80 %: 1, 20 %: 5)"]),
)


@given(
    latency=values,
    groups=st.dictionaries(st.sampled_from(["a", "b b", "ü"]), values, max_size=2),
    turns=st.booleans(),
)
def test_a_fleet_file_gives_the_same_spec_again(
    latency: float | str, groups: dict[str, float | str], *, turns: bool
) -> None:
    import tempfile  # noqa: PLC0415 - hypothesis wants no function-scoped fixture

    spec = FleetSpec(
        latency=latency,
        availability=BY_TURNS if turns else None,
        attributes={"region": "choice(eu, 'us \"west\"')"},
        groups={
            name: DeviceGroup(share=1.0, fixed_seconds=value, availability=BY_HOURS)
            for name, value in groups.items()
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fleet.toml"
        path.write_text(fleet_toml(spec), encoding="utf-8")
        assert load_fleet(path) == spec


OBSERVED = FleetSpec(
    observed=tuple(
        ObservedDevice(
            name=f"press-{number}",
            seconds_per_example=0.01 * (1 + number % 10),
            upload=math.inf if number % 4 == 0 else 1e5 * number,
            examples=60,
            attributes={"region": "eu west" if number % 5 else "us", "gb": 2.0 + number % 3},
        )
        for number in range(100)
    ),
    source="learned from 500 device-rounds",
    resample=True,
)


def test_observed_devices_become_distributions_of_each_condition(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    write_fleet(OBSERVED, path, 1)
    assert path.read_text().startswith("# A fleet of fedgrass simulate: learned from 500 device-rounds\n")
    devices = draw_fleet(load_fleet(path), 2000, 1)
    speeds = [device.seconds_per_example for device in devices]
    assert statistics.mean(speeds) == pytest.approx(0.055, rel=0.05)
    assert 0.01 <= min(speeds) <= max(speeds) <= 0.1
    assert sum(math.isinf(device.upload) for device in devices) / 2000 == pytest.approx(0.25, abs=0.04)
    assert {device.examples for device in devices} == {60}
    assert sum(device.attributes["region"] == "us" for device in devices) / 2000 == pytest.approx(
        0.2, abs=0.04
    )


def test_observed_devices_are_written_device_by_device(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    write_fleet(OBSERVED, path, 1)
    again = draw_fleet(FleetSpec(trace=str(path)), 0, 9)
    assert again == draw_fleet(OBSERVED, 0, 1)


def test_a_fleet_of_distributions_stays_as_it_is() -> None:
    assert summarize(FleetSpec(latency=3)) == FleetSpec(latency=3)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"--fleet-out is .*fleet.json: it takes a name that ends with .toml"
    ):
        write_fleet(OBSERVED, tmp_path / "fleet.json", 1)
    with pytest.raises(SettingsError, match=r"missing/fleet.toml cannot be written: No such file"):
        write_fleet(OBSERVED, tmp_path / "missing" / "fleet.toml", 1)


def test_a_quote_in_an_attribute_cannot_break_out_of_its_text() -> None:
    hostile = ObservedDevice(name="a", attributes={"region": "eu', 1: us, 1: 'x\"\n[groups.b]"})
    text = fleet_toml(summarize(replace(OBSERVED, observed=(hostile,))))
    assert "\n[groups" not in text


def test_a_fleet_is_drawn_as_a_picture(tmp_path: Path) -> None:
    write_fleet(FleetSpec(), tmp_path / "fleet.png", 1, devices=20)
    assert (tmp_path / "fleet.png").read_bytes().startswith(b"\x89PNG")
