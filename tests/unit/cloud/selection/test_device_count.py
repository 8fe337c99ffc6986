"""The device count: how many devices could be asked, also if rounds read only a sample."""

import json
from typing import Any

from cloud_functions.monitoring import Metric
from cloud_functions.rounds.start import start_run
from fedgrass.federation import object_keys
from fedgrass.federation.settings_parser import parse_settings
from fedgrass.federation.weights import encode
from tests.fakes.small_fleet import INITIAL, SmallFleet
from tests.guards.cloud_files import template

SAMPLED: dict[str, Any] = {"count": 2, "selection": "random", "rounds": 3}


def seen(fleet: SmallFleet) -> list[float]:
    """Run the device count; return its metric."""
    before = len(fleet.journal.values(Metric.DEVICES_SEEN))
    assert fleet.deliver({"census": True})
    return fleet.journal.values(Metric.DEVICES_SEEN)[before:]


def test_devices_that_are_gone_are_missing_in_the_census_though_rounds_find_what_they_ask() -> None:
    fleet = SmallFleet(10, **SAMPLED)
    fleet.start()
    assert fleet.journal.values(Metric.DEVICES_SEEN) == [], "a sample says nothing of the fleet"
    assert seen(fleet) == [10]
    fleet.names = fleet.names[:4]
    fleet.pass_time(301)
    assert seen(fleet) == [4]


def test_a_census_that_comes_twice_or_late_counts_what_is_there_then() -> None:
    fleet = SmallFleet(3, **SAMPLED)
    fleet.start()
    assert [seen(fleet), seen(fleet)] == [[3], [3]]
    fleet.now += 7200_000
    assert seen(fleet) == [0]


def test_while_no_run_is_running_no_device_is_missed_or_read() -> None:
    fleet = SmallFleet(3, **SAMPLED)
    fleet.counter.calls.clear()
    assert seen(fleet) == []
    assert fleet.counter.calls == ["living"]
    fleet.start()
    fleet.act("pause")
    assert seen(fleet) == []
    fleet.act("resume")
    assert seen(fleet) == [3]
    fleet.act("cancel")
    assert seen(fleet) == []


def test_of_several_runs_the_most_patient_one_defines_recent() -> None:
    fleet = SmallFleet(3, **SAMPLED)
    fleet.start()
    fleet.now += 600_000
    assert seen(fleet) == [0]
    fleet.bucket.write(object_keys.model("patient", 0), encode(INITIAL))
    settings = parse_settings({"task": "digits", **SAMPLED, "seen_within_seconds": 3600})
    start_run(fleet.cloud, "patient", settings)
    assert seen(fleet) == [3]


def test_the_census_comes_by_the_template_wherever_the_alarm_is() -> None:
    resources = template()["Resources"]
    census, sweep = resources["Census"], resources["Sweep"]
    assert census["Condition"] == resources["DevicesMissing"]["Condition"]
    assert json.loads(census["Properties"]["Target"].pop("Input")) == {"census": True}
    sweep["Properties"]["Target"].pop("Input")
    assert census["Properties"]["Target"] == sweep["Properties"]["Target"]
    # Each period of the alarm has a value.
    assert census["Properties"]["ScheduleExpression"] == "rate(1 hour)"
    assert resources["DevicesMissing"]["Properties"]["Period"] == 3600
