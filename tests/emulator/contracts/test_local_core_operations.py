# ruff: noqa: S105, S106 - invented secrets
"""IPC operations on secrets, other components and deployments, through AWS's own SDK."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awsiot.greengrasscoreipc as greengrass
import pytest
from awsiot.greengrasscoreipc import model

from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from tests.emulator.local_core import (
    COMPONENT,
    CoreInThread,
    core_in_thread,
    eventually,
    recipe,
    write_recipe,
)
from tests.emulator.sdk_client import connect

SECONDS = 10
OTHER = "com.example.Other"
NEEDED = "com.example.Needed"
SECRETS = {"arn:aws:secretsmanager:eu-central-1:1:secret:door": "open sesame", "binary": b"\x00\xff"}
ACCESS_CONTROL = {
    "aws.greengrass.Cli": {"cli:1": {"operations": ["*"], "resources": ["*"]}},
    "aws.greengrass.SecretManager": {
        "secrets:1": {"operations": ["*"], "resources": ["arn:aws:*:secret:door", "binary", "absent"]}
    },
}


@pytest.fixture
def profile() -> Profile:
    return CLASSIC


@pytest.fixture
def running(tmp_path: Path, profile: Profile) -> Iterator[CoreInThread]:
    with core_in_thread(tmp_path / "core", profile, secrets=SECRETS) as core:
        core.core.deployments.settle_seconds = 0.1
        yield core


def deploy(running: CoreInThread, folder: Path, name: str, configuration: dict[str, object]) -> None:
    content = recipe("sleep 1000", name=name, configuration=configuration)
    running.run(running.core.deploy(write_recipe(folder, content), folder))
    running.run(running.core.wait_for(name, "RUNNING", SECONDS))


@pytest.fixture
def client(running: CoreInThread, tmp_path: Path) -> Iterator[Any]:
    deploy(running, tmp_path, COMPONENT, {"accessControl": ACCESS_CONTROL, "room": "attic"})
    connected = connect(running.core, COMPONENT)
    yield connected
    connected.close().exception(SECONDS)


@pytest.fixture
def stranger(running: CoreInThread, tmp_path: Path) -> Iterator[Any]:
    """A component without any permission."""
    deploy(running, tmp_path, OTHER, {})
    connected = connect(running.core, OTHER)
    yield connected
    connected.close().exception(SECONDS)


def refused(error: type[Exception], call: Any, **arguments: Any) -> str:
    with pytest.raises(error) as caught:
        call(**arguments).result(SECONDS)
    return str(caught.value.message)  # type: ignore[attr-defined]


# Secrets


def test_a_secret_is_returned_as_text_or_as_bytes(client: Any) -> None:
    text = client.get_secret_value_async(secret_id=next(iter(SECRETS))).result(SECONDS)
    binary = client.get_secret_value_async(secret_id="binary", version_stage="AWSCURRENT").result(SECONDS)

    assert text.secret_value.secret_string == "open sesame"
    assert (text.secret_id, text.version_stage) == (next(iter(SECRETS)), ["AWSCURRENT"])
    assert binary.secret_value.secret_binary == b"\x00\xff"
    again = client.get_secret_value_async(secret_id="binary", version_id=binary.version_id).result(SECONDS)
    assert again.secret_value.secret_binary == b"\x00\xff"


def test_a_secret_that_is_absent_or_forbidden_or_named_twice_is_refused(client: Any, stranger: Any) -> None:
    ask = client.get_secret_value_async
    assert "AWSPREVIOUS" in refused(
        model.ResourceNotFoundError, ask, secret_id="binary", version_stage="AWSPREVIOUS"
    )
    refused(model.ResourceNotFoundError, ask, secret_id="absent")
    refused(model.UnauthorizedError, ask, secret_id="another")
    refused(model.UnauthorizedError, stranger.get_secret_value_async, secret_id="binary")
    refused(model.InvalidArgumentsError, ask, secret_id="binary", version_id="1", version_stage="AWSCURRENT")
    refused(model.InvalidArgumentsError, ask)


# Components


def test_components_are_listed_and_described(client: Any) -> None:
    (listed,) = client.list_components_async().result(SECONDS).components
    details = client.get_component_details_async(component_name=COMPONENT).result(SECONDS).component_details

    for one in (listed, details):
        assert (one.component_name, one.version, one.state) == (COMPONENT, "1.0.0", "RUNNING")
        assert one.configuration["room"] == "attic"


def test_a_component_can_stop_another_one(running: CoreInThread, client: Any, stranger: Any) -> None:
    assert stranger is not None
    answer = client.stop_component_async(component_name=OTHER).result(SECONDS)

    assert answer.stop_status == "SUCCEEDED"
    running.run(running.core.wait_for(OTHER, "FINISHED", SECONDS))


@pytest.mark.parametrize("operation", ["get_component_details", "stop_component", "restart_component"])
def test_requests_about_a_component_need_the_component_and_a_policy(
    client: Any, stranger: Any, operation: str
) -> None:
    refused(model.ResourceNotFoundError, getattr(client, f"{operation}_async"), component_name="absent")
    refused(model.UnauthorizedError, getattr(stranger, f"{operation}_async"), component_name=COMPONENT)
    refused(model.InvalidArgumentsError, getattr(client, f"{operation}_async"))


def test_a_list_of_components_needs_a_policy(stranger: Any) -> None:
    refused(model.UnauthorizedError, stranger.list_components_async)


# Deployments


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A folder with a component in two versions, the second broken, and one that the component needs."""
    folder = tmp_path / "recipes"
    needs = {NEEDED: {"VersionRequirement": "^1.0.0", "DependencyType": "HARD"}}
    for version, run in (("1.0.0", "sleep 1000"), ("2.0.0", "exit 1")):
        (folder / version).mkdir(parents=True)
        content = recipe(run, name=OTHER, ComponentVersion=version, ComponentDependencies=needs)
        write_recipe(folder / version, content).rename(folder / f"{OTHER}-{version}.yaml")
        (folder / version).rmdir()
    write_recipe(folder, recipe("sleep 1000", name=NEEDED))
    return folder


def ended(client: Any, identifier: str) -> Any:
    def asked() -> Any:
        status = client.get_local_deployment_status_async(deployment_id=identifier).result(SECONDS)
        return status.deployment if status.deployment.status != "IN_PROGRESS" else None

    return eventually(asked, 30)


def test_a_component_deploys_others_with_what_they_need(
    running: CoreInThread, client: Any, recipes: Path
) -> None:
    answer = client.create_local_deployment_async(
        recipe_directory_path=str(recipes),
        root_component_versions_to_add={OTHER: "1.0.0"},
        component_to_configuration={
            OTHER: {"MERGE": {"word": "x"}},
            COMPONENT: {"MERGE": {"room": "cellar"}},
        },
    ).result(SECONDS)

    deployment = ended(client, answer.deployment_id)
    assert (deployment.status, deployment.deployment_id) == ("SUCCEEDED", answer.deployment_id)
    assert deployment.deployment_status_details.detailed_deployment_status == "SUCCESSFUL"
    assert dict(running.core.component_states()) == dict.fromkeys(
        (COMPONENT, NEEDED, OTHER), ("1.0.0", "RUNNING")
    )
    assert client.get_configuration_async(key_path=["room"]).result(SECONDS).value == {"room": "cellar"}


def test_a_failed_deployment_has_a_reason_and_is_listed(
    running: CoreInThread, client: Any, recipes: Path
) -> None:
    identifiers = []
    for version in ("1.0.0", "2.0.0"):
        answer = client.create_local_deployment_async(
            recipe_directory_path=str(recipes), root_component_versions_to_add={OTHER: version}
        ).result(SECONDS)
        identifiers.append(answer.deployment_id)
        deployment = ended(client, answer.deployment_id)
    details = deployment.deployment_status_details
    assert (deployment.status, details.detailed_deployment_status) == ("FAILED", "FAILED_ROLLBACK_COMPLETE")
    assert "failed too often" in details.deployment_failure_cause
    assert running.core.component_states()[OTHER][0] == "1.0.0"
    listed = client.list_local_deployments_async().result(SECONDS).local_deployments
    assert [one.deployment_id for one in listed][-2:] == identifiers


def test_a_component_removes_another_one(running: CoreInThread, client: Any, stranger: Any) -> None:
    assert stranger is not None
    answer = client.create_local_deployment_async(root_components_to_remove=[OTHER]).result(SECONDS)
    assert ended(client, answer.deployment_id).status == "SUCCEEDED"
    assert set(running.core.component_states()) == {COMPONENT}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"root_component_versions_to_add": {OTHER: "1.0.0"}}, "needs recipeDirectoryPath"),
        (
            {"root_component_versions_to_add": {OTHER: "9.0.0"}, "recipe_directory_path": "RECIPES"},
            "no recipe of com.example.Other 9.0.0",
        ),
        (
            {"root_component_versions_to_add": {OTHER: "1.0.0"}, "recipe_directory_path": "/absent"},
            "recipe folder '/absent': No such file",
        ),
        (
            {"root_component_versions_to_add": {OTHER: "1.0.0"}, "recipe_directory_path": "a\0b"},
            "embedded null byte",
        ),
        ({"component_to_configuration": {"absent": {"MERGE": {}}}}, "absent, which is neither"),
        ({"component_to_configuration": {COMPONENT: {"RESET": [""]}}}, "the one key MERGE"),
    ],
)
def test_an_invalid_deployment_is_refused_at_once(
    client: Any, recipes: Path, arguments: dict[str, Any], complaint: str
) -> None:
    given = {key: str(recipes) if value == "RECIPES" else value for key, value in arguments.items()}
    assert complaint in refused(model.InvalidArgumentsError, client.create_local_deployment_async, **given)


def test_deployments_need_a_policy_and_an_identifier_that_exists(client: Any, stranger: Any) -> None:
    refused(model.UnauthorizedError, stranger.create_local_deployment_async)
    refused(model.UnauthorizedError, stranger.list_local_deployments_async)
    refused(model.UnauthorizedError, stranger.get_local_deployment_status_async, deployment_id="x")
    refused(model.ResourceNotFoundError, client.get_local_deployment_status_async, deployment_id="x")


# Differences between the two nuclei


@pytest.mark.parametrize("profile", [LITE])
def test_lite_has_deployments_and_restarts_but_none_of_the_rest(client: Any, recipes: Path) -> None:
    answer = client.create_local_deployment_async(
        recipe_directory_path=str(recipes), root_component_versions_to_add={OTHER: "1.0.0"}
    ).result(SECONDS)
    assert answer.deployment_id
    for operation, arguments in {
        "get_secret_value": {"secret_id": "binary"},
        "list_components": {},
        "get_component_details": {"component_name": COMPONENT},
        "stop_component": {"component_name": COMPONENT},
        "get_local_deployment_status": {"deployment_id": answer.deployment_id},
        "list_local_deployments": {},
    }.items():
        assert refused(model.ServiceError, getattr(client, f"{operation}_async"), **arguments) == "None"


@pytest.mark.parametrize("profile", [LITE])
@pytest.mark.usefixtures("client")
def test_lite_closes_the_connection_on_a_wrong_token_without_an_answer(running: CoreInThread) -> None:
    path = running.core.component_environment(COMPONENT)[
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
    ]
    with pytest.raises(Exception, match=r"AWS_ERROR|CLOSED|closed") as caught:
        greengrass.connect(ipc_socket=path, authtoken="wrong")
    assert type(caught.value).__name__ != "AccessDeniedError"


# Updates


def listen_for_updates(client: Any) -> list[Any]:
    heard: list[Any] = []
    future, _ = client.subscribe_to_component_updates_async(
        on_stream_event=heard.append, on_stream_error=lambda _: False
    )
    future.result(SECONDS)
    return heard


def test_a_deployment_waits_for_a_component_that_defers_it(
    running: CoreInThread, client: Any, recipes: Path
) -> None:
    heard = listen_for_updates(client)
    answer = client.create_local_deployment_async(
        recipe_directory_path=str(recipes), root_component_versions_to_add={OTHER: "1.0.0"}
    ).result(SECONDS)
    for number in (1, 2):
        eventually(lambda: len(heard) == number)  # noqa: B023 - called at once
        asked = heard[-1].pre_update_event
        assert (asked.deployment_id, asked.is_ggc_restarting) == (answer.deployment_id, False)
        assert OTHER not in running.core.component_states()
        client.defer_component_update_async(
            deployment_id=asked.deployment_id, recheck_after_ms=200, message="busy"
        ).result(SECONDS)
    eventually(lambda: len(heard) == 3)
    client.defer_component_update_async(deployment_id=answer.deployment_id, recheck_after_ms=0).result(
        SECONDS
    )
    assert ended(client, answer.deployment_id).status == "SUCCEEDED"
    eventually(lambda: heard[-1].post_update_event)
    assert heard[-1].post_update_event.deployment_id == answer.deployment_id


def test_a_component_that_does_not_answer_in_time_delays_no_deployment(
    running: CoreInThread, client: Any, recipes: Path
) -> None:
    running.core.updates.answer_seconds = 0.2
    heard = listen_for_updates(client)
    answer = client.create_local_deployment_async(
        recipe_directory_path=str(recipes), root_component_versions_to_add={OTHER: "1.0.0"}
    ).result(SECONDS)
    assert ended(client, answer.deployment_id).status == "SUCCEEDED"
    refused(
        model.ServiceError,
        client.defer_component_update_async,
        deployment_id=heard[0].pre_update_event.deployment_id,
        recheck_after_ms=1000,
    )


def test_a_component_that_ends_before_it_answers_delays_no_deployment(
    running: CoreInThread, client: Any, stranger: Any, recipes: Path
) -> None:
    heard = listen_for_updates(stranger)
    answer = client.create_local_deployment_async(
        recipe_directory_path=str(recipes), root_component_versions_to_add={NEEDED: "1.0.0"}
    ).result(SECONDS)
    eventually(lambda: heard)
    running.run(running.core.close_ipc_streams(OTHER))
    assert ended(client, answer.deployment_id).status == "SUCCEEDED"


def test_only_a_subscriber_that_names_the_deployment_may_defer_it(client: Any) -> None:
    refused(model.InvalidArgumentsError, client.defer_component_update_async, deployment_id="x")
    listen_for_updates(client)
    refused(model.InvalidArgumentsError, client.defer_component_update_async)
    refused(model.ServiceError, client.defer_component_update_async, deployment_id="x", recheck_after_ms=1)
