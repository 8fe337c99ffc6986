"""A run that asks only the members of a thing group."""

from typing import Any

import pytest

from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import RunState
from fedgrass.federation.settings_parser import parse_settings
from tests.fakes.small_fleet import RUN, SmallFleet
from tests.guards.cloud_files import template


def plant(*members: str, **settings: Any) -> SmallFleet:
    fleet = SmallFleet(devices=6, thing_group="plant", **settings)
    fleet.thing_groups.groups["plant"] = set(members)
    return fleet


@pytest.mark.parametrize("settings", [{}, {"selection": "random", "count": 2}])
def test_members_alone_are_asked(settings: dict[str, Any]) -> None:
    fleet = plant("thing-1", "thing-4", "not-seen", **settings)
    fleet.start()
    assert set(fleet.parts()) == {"thing-1", "thing-4"}


def test_a_device_that_declines_is_replaced_by_a_member() -> None:
    fleet = plant("thing-1", "thing-4", selection="random", count=1)
    fleet.start()
    (first,) = fleet.parts()
    fleet.status(first, "declined", reason="busy")
    assert set(fleet.parts()) == {"thing-1", "thing-4"}


def test_a_thing_that_joins_the_group_is_asked_from_the_next_round_on() -> None:
    fleet = plant("thing-1")
    fleet.start()
    fleet.thing_groups.groups["plant"].add("thing-2")
    fleet.reply("thing-1")
    assert set(fleet.parts()) == {"thing-1", "thing-2"}


def test_a_group_is_read_once_per_round_and_not_once_per_device() -> None:
    fleet = plant("thing-1", "thing-2")
    fleet.start()
    before = fleet.counter.calls.count("members")
    fleet.reply("thing-1")
    fleet.reply("thing-2")
    assert fleet.newest().number == 2
    assert fleet.counter.calls.count("members") == before + 1


def test_a_run_without_a_group_reads_none() -> None:
    fleet = SmallFleet()
    fleet.start()
    assert "members" not in fleet.counter.calls


def test_a_group_that_does_not_exist_is_refused_at_the_start_by_its_name() -> None:
    fleet = SmallFleet(thing_group="plnat")
    with pytest.raises(SettingsError, match=r"thing_group is 'plnat', but AWS IoT has no thing group"):
        fleet.start()
    assert fleet.rounds.run(RUN) is None


def test_a_group_without_a_device_that_could_be_asked_is_refused_with_what_is_left() -> None:
    fleet = plant("lathe")
    with pytest.raises(SettingsError, match=r"6 of them have the task .*; 0 of them are in the thing group"):
        fleet.start()


def test_a_group_that_is_deleted_ends_the_run_with_the_reason() -> None:
    fleet = plant("thing-1", on_abandoned="fail")
    fleet.start()
    del fleet.thing_groups.groups["plant"]
    fleet.reply("thing-1")
    fleet.look(600)
    assert fleet.run().state is RunState.FAILED
    assert "no thing group of that name" in fleet.run().reason


@pytest.mark.parametrize("name", ["two words", "a/b", "x" * 129, 5])
def test_what_cannot_name_a_group_is_refused(name: object) -> None:
    with pytest.raises(SettingsError, match="thing_group"):
        parse_settings({"task": "digits", "thing_group": name})


def test_the_functions_may_read_groups_and_change_none() -> None:
    statements = template()["Resources"]["RoundPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    (allowed,) = [statement for statement in statements if "ThingGroup" in str(statement["Action"])]
    assert allowed["Action"] == "iot:ListThingsInThingGroup"
    assert str(allowed["Resource"]).count(":thinggroup/*") == 1
