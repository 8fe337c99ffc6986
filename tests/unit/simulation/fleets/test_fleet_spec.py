"""The fleet file: its keys, and one line on each mistake in it."""

from pathlib import Path

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.fleets import FleetSpec, draw_fleet, load_fleet
from fedgrass.simulation.fleets.fleet_spec import Availability, DeviceGroup


def written(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_differs_from_the_defaults(tmp_path: Path) -> None:
    text = """
        upload = "2 Mbit/s"
        starts_at = 8
        attributes = { region = "choice(70 %: eu, 30 %: us)", gpu = true }
        [availability]
        turns_on = "normal(22, 1)"
        stays_on = "8 h"
        [groups.fast]
        share = "80 %"
        [groups.slow]
        share = "20 %"
        slowdown = 5
    """
    assert load_fleet(written(tmp_path, text)) == FleetSpec(
        upload="2 Mbit/s",
        starts_at=8,
        attributes={"region": "choice(70 %: eu, 30 %: us)", "gpu": True},
        availability=Availability(turns_on="normal(22, 1)", stays_on="8 h"),
        groups={"fast": DeviceGroup(share="80 %"), "slow": DeviceGroup(share="20 %", slowdown=5)},
    )


def test_an_empty_file_is_the_default_fleet(tmp_path: Path) -> None:
    assert load_fleet(written(tmp_path, "")) == FleetSpec()


def test_a_trace_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "presses.csv").write_text("name\npress-1\n")
    spec = load_fleet(written(tmp_path, 'trace = "presses.csv"'))
    assert [device.name for device in draw_fleet(spec, 0, 1)] == ["press-1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("upload =", "is not valid TOML: Invalid value"),
        ("uplaod = 1", "'uplaod' is not one of the keys of a fleet file: did you mean 'upload'?"),
        ("upload = []", "upload is []: it takes a text, or a number"),
        ("upload = '8 Mb/s'", "upload is '8 Mb/s': 'Mb/s' is not a unit of it: did you mean 'M"),
        ("dropout = 2", "dropout is 2.0: 2 is out of range; it takes a probability from 0 to 1"),
        ("starts_at = 25", "starts_at is 25: it takes a number of at least 0 and below 24"),
        ("[groups.slow]\nslowdown = 5", "groups.slow.share is missing"),
        ("[groups.slow]\nshare = 1\nspeed = 5", "'speed' is not one of groups.slow"),
        ("[groups.slow]\nshare = 1\ndownload = -1", "groups.slow.download is -1"),
        ("[availability]\nturns_on = 3", "availability.stays_on is missing"),
        ("gaps = 'fill'", "gaps is 'fill': it takes one of: draw, refuse"),
        ("[attributes]\n'a b' = 1", "which a heartbeat cannot have"),
        ("trace = 'a.csv'\n[groups.a]\nshare = 1", "a fleet has a trace and groups"),
    ],
)
def test_a_mistake_is_one_line_with_the_file_the_key_and_the_value(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SettingsError) as refused:
        load_fleet(path)
    assert str(refused.value).startswith(str(path))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--fleet .*missing.toml cannot be read: No such file"):
        load_fleet(tmp_path / "missing.toml")
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_fleet(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(SettingsError, match=r"is not UTF-8 text: .* at byte 5"):
        load_fleet(tmp_path / "latin.toml")
