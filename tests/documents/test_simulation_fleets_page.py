"""The examples and the tables of docs/simulation_fleets.md are what the code takes."""

import re
from pathlib import Path

import pytest

from fedgrass.simulation.fleets import FleetSpec, draw_fleet, load_fleet
from fedgrass.simulation.fleets.condition_units import CONDITIONS
from fedgrass.simulation.fleets.distribution_grammar import FORMS
from fedgrass.simulation.fleets.fleet_trace import COLUMNS, read_trace

TEXT = (Path(__file__).parents[2] / "docs" / "simulation_fleets.md").read_text()
TOML = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
CSV = re.findall(r"```csv\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("example", TOML)
def test_each_fleet_file_can_be_drawn(tmp_path: Path, example: str) -> None:
    (tmp_path / "presses.csv").write_text(CSV[0])
    (tmp_path / "fleet.toml").write_text(example)
    assert len(draw_fleet(load_fleet(tmp_path / "fleet.toml"), 50, 1)) == 50


@pytest.mark.parametrize("example", CSV)
def test_each_trace_can_be_read(tmp_path: Path, example: str) -> None:
    (tmp_path / "presses.csv").write_text(example)
    assert (
        len(read_trace(tmp_path / "presses.csv"))
        == len({line.split(",")[0] for line in example.splitlines()}) - 1
    )


def test_the_trace_with_times_means_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "presses.csv").write_text(CSV[1])
    shifts, always, once = read_trace(tmp_path / "presses.csv")
    hour = 3_600_000
    assert shifts.on == ((6 * hour, 14 * hour), (22 * hour, 24 * hour))
    assert (always.on, once.on, once.period) == ((), ((0, hour),), 0)


def test_the_table_of_conditions_has_each_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", TEXT, re.MULTILINE))
    assert list(rows) == [*CONDITIONS, "slowdown"]
    for name, shown in rows.items():
        default = getattr(FleetSpec(), name)
        text = f'"{default}"' if isinstance(default, str) else f"{default:g}" if default is not None else ""
        assert shown == (f"`{text}`" if text else "all")


def test_the_table_of_distributions_has_each_with_its_parameters() -> None:
    found = re.findall(r"^\| `(\w+)(\(.*?\))` \|", TEXT, re.MULTILINE)
    assert dict(found) == FORMS


def test_the_table_of_columns_has_each() -> None:
    table = TEXT.partition("| column | what it is |")[2].partition("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines() if "|" in line]
    names = [name for cell in first for name in re.findall(r"`([\w.]+)`", cell)]
    assert [name for name in names if name != "attribute.NAME"] == list(COLUMNS)


def test_every_key_of_the_fleet_file_is_on_the_page() -> None:
    keys = [name for name in FleetSpec.__struct_fields__ if name not in {"observed", "source"}]
    assert [name for name in keys if f"`{name}`" not in TEXT and f"\n{name} = " not in TEXT] == []
