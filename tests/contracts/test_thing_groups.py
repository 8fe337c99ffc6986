"""The contract of ``ThingGroups``, over every implementation."""

import itertools
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from cloud_functions.aws.device_directory import IotThingGroups
from fedgrass.federation.ports import ThingGroups
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.memory_cloud import MemoryThingGroups

_numbers = itertools.count(1)

Group = Callable[..., str]


@pytest.fixture
def groups(where: str, request: pytest.FixtureRequest) -> tuple[ThingGroups, Group]:
    """The port, and a function that creates a thing group and returns its name."""
    if where == "memory":
        memory = MemoryThingGroups()

        def keep(*things: str) -> str:
            name = f"group-{next(_numbers)}"
            memory.groups[name] = set(things)
            return name

        return memory, keep
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    iot = cloud.client("iot")

    def make(*things: str) -> str:
        name = f"group-{next(_numbers)}"
        iot.create_thing_group(thingGroupName=name)
        for thing in things:
            iot.create_thing(thingName=thing)
            iot.add_thing_to_thing_group(thingGroupName=name, thingName=thing)
        return name

    return IotThingGroups(lambda: iot), make


def test_the_members_of_a_group_are_its_things_and_no_others(groups: tuple[ThingGroups, Group]) -> None:
    port, make = groups
    presses = make("press-1", "press-2")
    make("lathe-1")
    assert port.members(presses) == {"press-1", "press-2"}


def test_a_group_without_things_has_no_members(groups: tuple[ThingGroups, Group]) -> None:
    port, make = groups
    assert port.members(make()) == frozenset()


def test_a_group_that_does_not_exist_is_a_key_error_with_its_name(groups: tuple[ThingGroups, Group]) -> None:
    port, _make = groups
    with pytest.raises(KeyError, match="nowhere"):
        port.members("nowhere")


@pytest.fixture
def iot() -> Any:
    nobody: dict[str, Any] = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
    return boto3.client("iot", region_name="eu-north-1", **nobody)


def test_every_page_of_a_large_group_is_read_with_the_groups_in_it(iot: Any) -> None:
    """MiniStack always returns a single page."""
    asked = {"thingGroupName": "plant", "recursive": True, "maxResults": 250}
    with Stubber(iot) as stubber:
        stubber.add_response("list_things_in_thing_group", {"things": ["a", "b"], "nextToken": "2"}, asked)
        stubber.add_response("list_things_in_thing_group", {"things": ["c"]}, {**asked, "nextToken": "2"})
        assert IotThingGroups(lambda: iot).members("plant") == {"a", "b", "c"}
        stubber.assert_no_pending_responses()


def test_an_error_of_aws_is_not_taken_for_a_missing_group(iot: Any) -> None:
    with Stubber(iot) as stubber:
        stubber.add_client_error("list_things_in_thing_group", "ThrottlingException")
        with pytest.raises(ClientError, match="Throttling"):
            IotThingGroups(lambda: iot).members("plant")
