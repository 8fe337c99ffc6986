"""The predictor's recipe and page match its code."""

import re
from typing import Any

import msgspec
import pytest

from components.predictor.local_requests import topic_of
from components.predictor.predictor_configuration import FOR_OTHERS, Configuration, parse_configuration
from components.runtime.component_errors import ConfigurationError
from fedgrass.federation.topics import Kind, of_alias, of_device, of_models
from greengrass_emulator.recipe.access_control import covers
from tests.guards.recipes import PROJECT, braces_outside_variables, default_configuration, read_recipe

SERVICES = {"IoTCore": "aws.greengrass.ipc.mqttproxy", "Topic": "aws.greengrass.ipc.pubsub"}


@pytest.fixture
def recipe() -> dict[str, Any]:
    return read_recipe("Predictor")


@pytest.fixture
def defaults(recipe: dict[str, Any]) -> dict[str, Any]:
    return default_configuration(recipe)


def allowed(defaults: dict[str, Any], operation: str) -> list[str]:
    service = next(service for ending, service in SERVICES.items() if operation.endswith(ending))
    return [
        resource
        for policy in defaults["accessControl"][service].values()
        if policy["operations"] == [f"aws.greengrass#{operation}"]
        for resource in policy["resources"]
    ]


TOPICS = {
    "PublishToIoTCore": of_device("plant", "press-1", Kind.PREDICTOR),
    "SubscribeToIoTCore": of_models("plant", "digits"),
    "SubscribeToTopic": topic_of("digits"),
    "PublishToTopic": topic_of("digits") + "/replies/me",
}


@pytest.mark.parametrize("operation", TOPICS)
def test_access_control_allows_what_the_predictor_uses_and_nothing_else(
    defaults: dict[str, Any], operation: str
) -> None:
    resource, *further = allowed(defaults, operation)
    assert covers(resource, TOPICS[operation])
    if operation == "SubscribeToIoTCore":  # also to the aliases of models
        (aliases,) = further
        assert covers(aliases, of_alias("plant", "digits", "production"))
        assert not covers(aliases, of_models("plant", "digits"))
    else:
        assert not further
    others = (
        {of_device("plant", "press-1", kind) for kind in Kind} | {*TOPICS.values()} | {"fedgrass/predict"}
    )
    others -= {TOPICS[operation], TOPICS["PublishToTopic"]}
    if operation == "PublishToTopic":
        assert covers(resource, topic_of("digits"))  # it probes there whether requests arrive
        others.discard(topic_of("digits"))
    assert not [other for other in others if covers(resource, other)]
    policies = [policy for service in defaults["accessControl"].values() for policy in service.values()]
    assert len(policies) == len(TOPICS)


def test_policies_have_unique_names_on_the_device(defaults: dict[str, Any]) -> None:
    names = [name for service in defaults["accessControl"].values() for name in service]
    assert all(re.fullmatch(r"com\.fedgrass\.Predictor:\w+:\d", name) for name in names)
    assert len(set(names)) == len(names)


def test_the_defaults_of_the_recipe_are_those_of_the_code(defaults: dict[str, Any]) -> None:
    spelled = {key: value for key, value in defaults.items() if key not in FOR_OTHERS | {"tasks"}}
    own = msgspec.structs.asdict(Configuration())
    assert spelled == {key: value for key, value in own.items() if key != "tasks"}


def test_the_default_configuration_can_be_used(
    defaults: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert parse_configuration(defaults).tasks == {"digits": {"share": 0, "shares": 1}}
    assert caplog.records == []


def test_numbers_may_be_spelled_as_texts_and_a_task_be_taken_away_by_null() -> None:
    found = parse_configuration({"worse_by": "0.5", "http_port": "0", "tasks": {"digits": None, "noise": {}}})
    assert (found.worse_by, found.http_port, list(found.tasks)) == (0.5, 0, ["noise"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"http_port": 70000}, "http_port is 70000: it takes a whole number from 0 to 65,535"),
        ({"fleet": "A b"}, "fleet is 'A b'"),
        ({"alias": "A b"}, "alias is 'A b': it takes empty, or 1 to 32 lower-case letters"),
        ({"alias": "latest", "tasks": {"noise": {}}}, "'latest' always names the newest model"),
        ({"tasks": 3}, "tasks is 3"),
        ({"tasks": {"digits": 3}}, "tasks.digits is 3"),
        ({"tasks": {f"t{number}": {"module": "a:B"} for number in range(17)}}, "has 17 tasks"),
        ({}, "has 0 tasks; a predictor serves 1 to 16"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_configuration(values)
    assert words in str(refused.value)


def test_braces_stand_only_around_recipe_variables(recipe: dict[str, Any]) -> None:
    assert recipe["Manifests"]
    assert braces_outside_variables(recipe) == []


def test_the_page_of_the_predictor_explains_each_key() -> None:
    page = (PROJECT / "docs" / "predictor.md").read_text()
    assert [name for name in Configuration.__struct_fields__ if f"| `{name}` |" not in page] == []
