"""A run with a ServerApp refuses each setting that the ServerApp decides, and states where it is decided."""

from typing import Any

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings

# Which devices get messages, how long they have, and the overrides of the app's configuration.
APPLICABLE = {
    "training": {"lr": 0.01},
    "where": "examples > 3",
    "thing_group": "north",
    "minimum_examples": 3,
    "seen_within_seconds": 60,
    "accept_seconds": 30,
    "deadline_seconds": 3600,
    "trace": True,
}
REFUSED: dict[str, Any] = {
    "rounds": 3,
    "selection": "random",
    "fraction": 0.5,
    "count": 3,
    "selection_options": {"a": 1},
    "cool_down_rounds": 1,
    "over_selection": 1.5,
    "threshold": 0.5,
    "threshold_count": 2,
    "minimum_replies": 2,
    "allow_partial": True,
    "aggregation": "fedavgm",
    "aggregation_options": {"a": 1},
    "aggregation_seconds": 10.0,
    "clip_norm": 1.0,
    "largest_norm": 1.0,
    "examples_cap": 0.0,
    "upload_encoding": "float16",
    "upload_difference": True,
    "top_k_fraction": 0.1,
    "download_encoding": "float16",
    "on_abandoned": "fail",
    "attempts": 1,
    "training_by_round": {"2": {"epochs": 3}},
    "evaluate_every": 2,
    "evaluate_last": False,
    "evaluate_fraction": 0.5,
    "evaluate_count": 2,
    "held_out": ["thing-1"],
    "schedule": "by_hand",
    "every_minutes": 5.0,
    "target_metric": "accuracy",
    "target_value": 0.9,
    "lower_is_better": True,
    "target_by": "mean",
    "patience": 3,
    "smallest_improvement": 0.1,
    "shared": ["head.*"],
    "frozen_sha256": "a" * 64,
    "statistics": {},
}
BUFFERED: dict[str, Any] = {
    "buffer_size": 3,
    "in_flight": 3,
    "max_staleness": 3,
    "staleness": "constant",
    "staleness_exponent": 1.0,
    "staleness_slack": 1.0,
}


def parsed(**settings: object) -> RunSettings:
    return parse_settings({"task": "flower:quickstart", "mode": "server_app", **settings})


def test_what_bounds_the_devices_and_their_time_is_accepted() -> None:
    settings = parsed(**APPLICABLE)
    assert {name: getattr(settings, name) for name in APPLICABLE} == APPLICABLE


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_a_setting_that_the_server_app_decides_is_refused_with_where_it_is_decided(field: str) -> None:
    with pytest.raises(
        SettingsError, match=f"the run's {field} is .* in mode 'server_app': leave it out; .{{9}}"
    ):
        parsed(**{field: REFUSED[field]})


@pytest.mark.parametrize("field", sorted(BUFFERED))
def test_the_settings_of_buffered_runs_are_refused(field: str) -> None:
    with pytest.raises(SettingsError, match=f"the run's {field} is .* but its mode is 'server_app'"):
        parsed(**{field: BUFFERED[field]})


def test_every_setting_of_a_run_is_either_accepted_or_refused() -> None:
    known = {"task", "mode", *APPLICABLE, *REFUSED, *BUFFERED}
    assert known == set(RunSettings.__struct_fields__)


def test_other_runs_keep_these_settings() -> None:
    assert parse_settings({"task": "digits", "rounds": 3, "attempts": 1}).rounds == 3
