"""The settings of buffered runs: what contradicts them is refused by name, with the way out."""

from typing import Any

import pytest

from fedgrass.federation.aggregation.buffered_settings import fleet_contradiction
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings_parser import parse_settings

BUFFERED = {"task": "digits", "mode": "buffered", "buffer_size": 3}


def test_a_buffered_run_needs_only_the_size_of_its_buffer() -> None:
    settings = parse_settings(BUFFERED)
    assert (settings.buffer, settings.most_in_flight, settings.max_staleness) == (3, 6, 10)
    assert parse_settings({**BUFFERED, "in_flight": 5}).most_in_flight == 5
    assert not parse_settings({"task": "digits"}).is_buffered


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"buffer_size": None}, "set buffer_size to the number of replies"),
        ({"in_flight": 2}, "buffer_size is 3, above its in_flight of 2: .* raise in_flight or lower"),
        ({"minimum_replies": 4}, "minimum_replies is 4, above its buffer_size of 3"),
        ({"in_flight": 90}, "about 29 models old, above its max_staleness of 10.*raise buffer_size"),
        ({"evaluate_every": 2}, "evaluate_every is 2, but its mode is 'buffered': .*evaluate_last"),
        ({"over_selection": 1.3}, "over_selection is 1.3, .*set in_flight"),
        ({"threshold": 0.5}, "threshold is 0.5, .*buffer_size"),
        ({"threshold_count": 2}, "threshold_count is 2, .*buffer_size"),
        ({"selection": "random", "count": 4}, "count is 4, .*in_flight"),
        ({"selection": "random", "fraction": 0.4}, "fraction is 0.4, .*in_flight"),
        (
            {"aggregation": "scaffold"},
            "aggregation 'scaffold', which needs .*choose another aggregation, or the mode",
        ),
        ({"in_flight": 0}, "in_flight"),
        ({"max_staleness": -1}, "max_staleness"),
        ({"mode": "async"}, "mode"),
        ({"staleness": "linear"}, "staleness"),
    ],
)
def test_what_contradicts_a_buffered_run_is_refused_with_the_way_out(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        parse_settings({**BUFFERED, **changes})


@pytest.mark.parametrize(
    "setting",
    [
        {"buffer_size": 3},
        {"in_flight": 3},
        {"max_staleness": 3},
        {"staleness": "hinge"},
        {"staleness_exponent": 1.0},
        {"staleness_slack": 1.0},
    ],
)
def test_settings_of_buffered_runs_are_refused_in_others(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(SettingsError, match=f"{name} is .*set mode to 'buffered', or leave {name} out"):
        parse_settings({"task": "digits", **setting})


def test_a_buffer_that_the_fleet_cannot_fill_is_refused() -> None:
    settings = parse_settings(BUFFERED)
    assert fleet_contradiction(settings, 3) == ""
    assert "buffer_size is 3, but only 2 devices can do 'digits'" in fleet_contradiction(settings, 2)
    assert fleet_contradiction(parse_settings({"task": "digits"}), 0) == ""
