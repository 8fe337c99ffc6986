"""The profile `lite`, row by row as measured on the real Nucleus Lite 2.6.0.

Rows about IPC are tested through AWS's own SDK.
"""

import asyncio
import dataclasses
import datetime as dt
import socket
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from awscrt.exceptions import AwsCrtError
from awsiot.eventstreamrpc import ConnectionClosedError, LifecycleHandler, StreamClosedError
from awsiot.greengrasscoreipc import model

from greengrass_emulator.core.json_limits import count_parts
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.deployment.deployment_records import Deployment
from greengrass_emulator.emulator_errors import CoreError
from greengrass_emulator.recipe.recipe_platform import select_manifest
from greengrass_emulator.recipe.recipe_reader import parse_recipe
from tests.emulator.core_device import Device, on_device
from tests.emulator.local_core import (
    COMPONENT,
    CoreInThread,
    core_in_thread,
    eventually,
    recipe,
    write_recipe,
)
from tests.emulator.sdk_client import connect

SECONDS = 20
SOON = dataclasses.replace(LITE, configuration_restart_seconds=0.2)
ANYTHING = {"operations": ["*"], "resources": ["*"]}
ACCESS_CONTROL = {
    "aws.greengrass.ipc.mqttproxy": {"mqttproxy:1": ANYTHING},
    "aws.greengrass.ipc.pubsub": {"pubsub:1": ANYTHING},
    "aws.greengrass.Cli": {"cli:1": ANYTHING},
}
NEEDED = "com.example.Needed"
TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name
STREAM_MANAGER = "aws.greengrass.StreamManager"


class Disconnected(LifecycleHandler):  # type: ignore[misc]
    """Records the end of a connection."""

    def __init__(self) -> None:
        self.seen = False

    def on_disconnect(self, reason: Exception | None) -> None:  # noqa: ARG002 - the SDK's signature
        self.seen = True


class Connected:
    """A core with one component that has all permissions, and the component's SDK clients."""

    def __init__(self, running: CoreInThread, folder: Path) -> None:
        self.running = running
        self.folder = folder
        self._clients: list[Any] = []
        content = recipe(
            "echo started; sleep 1000",
            configuration={
                "accessControl": ACCESS_CONTROL,
                "tasks": {"digits": {"rate": "0.1"}},
                "word": "old",
            },
        )
        running.run(running.core.deploy(write_recipe(folder, content), folder))
        running.run(running.core.wait_for(COMPONENT, "RUNNING", SECONDS))
        self.disconnected = Disconnected()
        self.client = self.open(self.disconnected)

    def open(self, handler: LifecycleHandler | None = None) -> Any:
        client = connect(self.running.core, handler=handler)
        self._clients.append(client)
        return client

    def say(self, topic: str, content: object) -> None:
        message = model.PublishMessage(json_message=model.JsonMessage(message=content))
        self.client.publish_to_topic_async(topic=topic, publish_message=message).result(SECONDS)

    def configuration(self) -> Any:
        return self.client.get_configuration_async().result(SECONDS).value

    def close(self) -> None:
        for client in self._clients:
            client.close().exception(SECONDS)


@pytest.fixture
def profile() -> Profile:
    return LITE


@pytest.fixture
def connected(tmp_path: Path, profile: Profile) -> Iterator[Connected]:
    with core_in_thread(tmp_path / "core", profile) as running:
        opened = Connected(running, tmp_path)
        yield opened
        opened.close()


async def outcome(device: Device, deployment: Deployment) -> str:
    return str((await device.core.deployments.wait_for(deployment.identifier, SECONDS)).status)


def needing(kind: str, *names: str) -> dict[str, object]:
    return {name: {"VersionRequirement": "^1.0.0", "DependencyType": kind} for name in names}


# Manifests


def test_attributes_that_lite_does_not_know_exclude_no_manifest() -> None:
    content = recipe("echo plain")
    plain = content["Manifests"][0]  # type: ignore[index]
    gpu = {"Platform": {**plain["Platform"], "gpu": "nvidia"}, "Lifecycle": {"run": "echo gpu"}}
    parsed = parse_recipe(str({**content, "Manifests": [gpu, plain]}).encode())

    assert select_manifest(parsed, LITE).lifecycle.run == "echo gpu"
    assert select_manifest(parsed, CLASSIC).lifecycle.run == "echo plain"


# Dependencies


@pytest.mark.parametrize("service", ["stream-manager-down", "token-exchange-down"])
@pytest.mark.parametrize("again", ["deployment", "start"])
def test_dependents_of_a_dead_service_are_stopped_until_a_deployment_or_a_new_start(
    tmp_path: Path, service: str, again: str
) -> None:
    name = {"stream-manager-down": STREAM_MANAGER, "token-exchange-down": TOKEN_EXCHANGE}[service]

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000", ComponentDependencies=needing("HARD", name)))
        soft = recipe("sleep 1000", name="com.example.Soft", ComponentDependencies=needing("SOFT", name))
        await device.deploy(soft)
        await device.reach("RUNNING")
        await device.reach("RUNNING", "com.example.Soft")

        await device.inject(service)
        await device.reach("FINISHED")
        await device.clear(service)
        await asyncio.sleep(1.5)  # a failed component would be back by now

        assert {one: state for one, (_, state) in device.core.component_states().items()} == {
            COMPONENT: "FINISHED",
            "com.example.Soft": "RUNNING",
        }
        if again == "deployment":
            await device.deploy(recipe("true", name="com.example.Other"))
        else:
            await device.core.stop()
            await device.core.start()
        await device.reach("RUNNING")

    on_device(tmp_path, scenario, profile=LITE)


def test_dependents_of_a_dead_component_are_stopped_and_their_dependents_too(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("echo $$ > pid; exec sleep 1000", name=NEEDED))
        await device.deploy(
            recipe("sleep 1000", name="com.example.Middle", ComponentDependencies=needing("HARD", NEEDED))
        )
        await device.deploy(recipe("sleep 1000", ComponentDependencies=needing("HARD", "com.example.Middle")))
        for one in (NEEDED, "com.example.Middle", COMPONENT):
            await device.reach("RUNNING", one)

        await device.kill(NEEDED)

        await device.reach("ERRORED", NEEDED)
        await device.reach("FINISHED", "com.example.Middle")
        await device.reach("FINISHED")
        await device.reach("RUNNING", NEEDED)  # it is restarted by itself, the others are not
        assert device.core.component_state("com.example.Middle") == "FINISHED"

    on_device(tmp_path, scenario, profile=LITE)


def test_on_classic_dependents_are_stopped_until_the_service_is_back(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(
            recipe("echo started; sleep 1000", ComponentDependencies=needing("HARD", STREAM_MANAGER))
        )
        await device.logged("started")
        await device.inject("stream-manager-down")
        await device.reach("INSTALLED")
        await device.clear("stream-manager-down")
        await device.logged("started\nstarted")

    on_device(tmp_path, scenario, profile=CLASSIC)


@pytest.mark.parametrize("profile", [LITE, CLASSIC], ids=["lite", "classic"])
@pytest.mark.parametrize("kind", ["HARD", "SOFT"])
def test_credentials_are_available_with_either_kind_of_dependency(
    tmp_path: Path, profile: Profile, kind: str
) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(
            recipe(
                "echo $AWS_CONTAINER_CREDENTIALS_FULL_URI",
                ComponentDependencies=needing(kind, TOKEN_EXCHANGE),
            )
        )
        await device.reach("FINISHED")

    assert on_device(tmp_path, scenario, profile=profile).log().startswith("http://127.0.0.1:")


# Configuration by deployments


@pytest.mark.parametrize("conflict", [{"tasks": {"digits": None}}, {"tasks": "none"}, {"word": {"a": 1}}])
def test_a_merge_of_a_value_over_a_map_or_a_map_over_a_value_fails_it_and_all_later_ones(
    tmp_path: Path, conflict: dict[str, Any]
) -> None:
    content = recipe("sleep 1000", configuration={"tasks": {"digits": {"rate": 1}}, "word": "old"})

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("RUNNING")
        before = device.process()
        for merge in (conflict, {}, {"other": 1}):
            with pytest.raises(CoreError, match="cannot become"):
                await device.core.update_configuration(COMPONENT, merge)
        with pytest.raises(CoreError, match="cannot become"):  # the group's deployment has all components
            await device.deploy(recipe("true", name="com.example.Other"))
        assert [str(one.status) for one in device.core.deployments.records][1:] == ["FAILED"] * 4
        assert device.tree()["tasks"] == {"digits": {"rate": 1}}
        assert device.process() is before
        assert device.core.component_state(COMPONENT) == "RUNNING"

        cured = {"tasks": {"digits": {"rate": 2}}, "word": "new"}
        assert await outcome(device, await device.core.update_configuration(COMPONENT, cured)) == "SUCCEEDED"

    on_device(tmp_path, scenario, profile=SOON)


@pytest.mark.parametrize("conflict", [{"tasks": {"digits": None}}, {"tasks": 1}, {"word": {"a": 1}}])
def test_the_same_merge_by_the_component_itself_is_a_service_error(
    connected: Connected, conflict: dict[str, Any]
) -> None:
    with pytest.raises(model.ServiceError):
        connected.client.update_configuration_async(
            timestamp=dt.datetime.now(dt.UTC), value_to_merge=conflict
        ).result(SECONDS)
    assert connected.configuration()["tasks"] == {"digits": {"rate": "0.1"}}


@pytest.mark.parametrize(("tasks", "fits"), [(12, True), (16, False)])
def test_a_job_document_of_more_than_255_parts_is_refused(tmp_path: Path, tasks: int, *, fits: bool) -> None:
    settings = dict.fromkeys(("rate", "epochs", "batch", "seed", "decay", "momentum"), 1)
    merge = {"tasks": {f"task-{number}": {"file": "/tasks/t.py", **settings} for number in range(tasks)}}
    assert count_parts(merge) == 2 + tasks * 16

    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000"))
        if fits:
            await device.core.update_configuration(COMPONENT, merge)
            assert len(device.tree()["tasks"]) == tasks  # type: ignore[arg-type]
        else:
            with pytest.raises(CoreError, match="keys and values, nucleus lite accepts 255"):
                await device.core.update_configuration(COMPONENT, merge)
            assert "tasks" not in device.tree()
            await device.core.update_configuration(COMPONENT, {"word": "new"})

    on_device(tmp_path, scenario, profile=SOON)


def test_a_deployment_that_changes_a_configuration_restarts_the_component_after_a_while(
    tmp_path: Path,
) -> None:
    run = "trap 'echo terminated; exit 0' TERM; echo started; while true; do sleep 0.05; done"
    assert LITE.configuration_restart_seconds == 10

    async def scenario(device: Device) -> None:
        device.core.deployments.settle_seconds = 0.1
        await device.deploy(recipe(run, configuration={"word": "old"}))
        await device.logged("started")
        await device.reach("RUNNING")
        changed = await device.core.update_configuration(COMPONENT, {"word": "new"})
        assert device.tree()["word"] == "new"  # the component can read it before it is terminated
        assert device.core.component_state(COMPONENT) == "RUNNING"
        assert await outcome(device, changed) == "SUCCEEDED"
        await device.logged("terminated\nstarted")

        same = await device.core.update_configuration(COMPONENT, {"word": "new"})
        assert await outcome(device, same) == "SUCCEEDED"

    assert on_device(tmp_path, scenario, profile=SOON).log().count("started") == 2


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    run = "trap '' TERM; echo started $$; while true; do sleep 0.05; done"

    async def scenario(device: Device) -> None:
        await device.deploy(recipe(run, configuration={"word": "old"}))
        await device.logged("started")
        await device.core.update_configuration(COMPONENT, {"word": "new"})
        await asyncio.to_thread(eventually, lambda: device.log().count("started") == 2, SECONDS)

    first, second = on_device(tmp_path, scenario, profile=SOON).log().splitlines()
    assert first != second


def test_a_failed_deployment_is_not_rolled_back(tmp_path: Path) -> None:
    run = "test {configuration:/word} = good && sleep 1000"

    async def scenario(device: Device) -> None:
        device.core.deployments.settle_seconds = 0.1
        await device.deploy(recipe(run, configuration={"word": "good"}))
        await device.reach("RUNNING")
        bad = await device.core.update_configuration(COMPONENT, {"word": "bad"})
        assert await outcome(device, bad) == "FAILED"
        assert device.tree()["word"] == "bad"
        assert device.core.component_state(COMPONENT) == "BROKEN"

    on_device(tmp_path, scenario, profile=SOON)


def test_values_of_a_failed_merge_stay_and_the_old_process_runs_on(tmp_path: Path) -> None:
    async def scenario(device: Device) -> None:
        await device.deploy(recipe("sleep 1000", configuration={"first": 1, "map": {"a": 1}, "last": 1}))
        await device.reach("RUNNING")
        before = device.process()
        with pytest.raises(CoreError):
            await device.core.update_configuration(COMPONENT, {"first": 2, "map": None, "last": 2})
        with pytest.raises(CoreError):
            await device.deploy(recipe("echo never"), {"first": 3})
        assert device.tree() == {"first": 3, "map": {"a": 1}, "last": 1}
        assert device.process() is before
        assert device.core.component_state(COMPONENT) == "RUNNING"

    assert on_device(tmp_path, scenario, profile=SOON).log() == ""


@pytest.mark.parametrize(("is_local", "kinds"), [(False, "3 true"), (True, '"3" "true"')])
def test_numbers_stay_numbers_in_a_cloud_deployment_and_are_strings_in_a_local_one(
    connected: Connected, tmp_path: Path, kinds: str, *, is_local: bool
) -> None:
    configuration = {"map": {"number": 3, "truth": True}}
    file = deploy_other(connected, tmp_path, recipe("sleep 1000", name=NEEDED, configuration=configuration))
    if not is_local:
        connected.running.run(connected.running.core.deploy(file, tmp_path))
    else:
        local_deployment(connected, file.parent)
    value = connected.client.get_configuration_async(component_name=NEEDED, key_path=["map"])
    number, truth = kinds.split()
    read = value.result(SECONDS).value
    assert [repr(read["number"]).replace("'", '"'), repr(read["truth"]).replace("'", '"').lower()] == [
        number,
        truth,
    ]


@pytest.mark.parametrize("is_local", [False, True])
def test_a_local_deployment_unpacks_no_archive(
    connected: Connected, tmp_path: Path, *, is_local: bool
) -> None:
    content = recipe("ls {artifacts:decompressedPath}; ls {artifacts:path}", name=NEEDED)
    content["Manifests"][0]["Artifacts"] = [  # type: ignore[index]
        {"URI": "s3://bucket/code.zip", "Unarchive": "ZIP"}
    ]
    file = deploy_other(connected, tmp_path, content)
    with zipfile.ZipFile(file.parent / "code.zip", "w") as archive:
        archive.writestr("main.py", "")
    if is_local:
        local_deployment(connected, file.parent)
    else:
        connected.running.run(connected.running.core.deploy(file, file.parent))
    connected.running.run(connected.running.core.wait_for(NEEDED, "FINISHED", SECONDS))
    log = (tmp_path / "core" / "logs" / f"{NEEDED}.log").read_text()
    assert log.split() == (["code.zip"] if is_local else ["code", "code.zip"])


def deploy_other(connected: Connected, folder: Path, content: Mapping[str, object]) -> Path:
    """Write the recipe of another component into a separate folder."""
    assert connected.running.core.component_state(COMPONENT) == "RUNNING"
    (folder / "other").mkdir()
    return write_recipe(folder / "other", content)


def local_deployment(connected: Connected, folder: Path) -> None:
    """Deploy a folder of recipes as `ggl-cli deploy` does."""
    connected.client.create_local_deployment_async(
        recipe_directory_path=str(folder),
        artifacts_directory_path=str(folder),
        root_component_versions_to_add={NEEDED: "1.0.0"},
    ).result(SECONDS)
    eventually(lambda: NEEDED in connected.running.core.component_states())


# Scripts


@pytest.mark.parametrize(("profile", "log"), [(CLASSIC, "two words\n"), (LITE, "")], ids=["classic", "lite"])
def test_a_setenv_value_with_a_space_breaks_the_script(tmp_path: Path, profile: Profile, log: str) -> None:
    content = recipe('echo "$TEXT"', lifecycle={"Setenv": {"TEXT": "two words", "OTHER": "a b-c"}})

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("FINISHED" if profile is CLASSIC else "BROKEN")

    said = on_device(tmp_path, scenario, profile=profile).log()
    assert [line for line in said.splitlines(keepends=True) if "export" not in line] == log.splitlines(
        keepends=True
    )


def test_a_setenv_value_of_one_word_reaches_the_script_and_what_it_starts(tmp_path: Path) -> None:
    content = recipe("sh -c 'echo $WHERE'", lifecycle={"Setenv": {"WHERE": "{iot:thingName}"}})

    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("FINISHED")

    assert on_device(tmp_path, scenario, profile=LITE).log() == "device-1\n"


# Between components


def test_a_local_message_of_more_than_some_50_parts_silently_ends_its_subscription(
    connected: Connected,
) -> None:
    heard: list[Any] = []
    closed: list[bool] = []

    def subscribe(client: Any, into: list[Any]) -> None:
        client.subscribe_to_topic(
            topic="local/+",
            on_stream_event=lambda event: into.append(event.json_message.message),
            on_stream_closed=lambda: closed.append(True),
        )

    subscribe(connected.client, heard)
    connected.say("local/x", {"inputs": list(range(40))})
    eventually(lambda: heard)

    connected.say("local/x", {"inputs": list(range(64))})
    connected.say("local/x", {"inputs": [1]})
    later: list[Any] = []
    subscribe(connected.open(), later)
    connected.say("local/x", {"inputs": [2]})

    eventually(lambda: later == [{"inputs": [2]}])
    assert heard == [{"inputs": list(range(40))}]
    assert not closed


@pytest.mark.parametrize("profile", [CLASSIC])
def test_on_classic_a_long_local_message_arrives(connected: Connected) -> None:
    heard: list[Any] = []
    connected.client.subscribe_to_topic(topic="local/x", on_stream_event=heard.append)
    connected.say("local/x", list(range(64)))
    eventually(lambda: heard)


# Packets


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (
            "publish_to_topic",
            {
                "topic": "local/x",
                "publish_message": model.PublishMessage(
                    binary_message=model.BinaryMessage(message=bytes(7_400))
                ),
            },
        ),
        (
            "update_configuration",
            {"timestamp": dt.datetime.now(dt.UTC), "value_to_merge": {"text": "x" * 20_000}},
        ),
        ("publish_to_iot_core", {"topic_name": "room/out", "qos": "1", "payload": bytes(7_340)}),
    ],
)
def test_any_packet_over_10_000_bytes_closes_the_connection(
    connected: Connected, operation: str, arguments: dict[str, Any]
) -> None:
    # The last one where the connection is closed while the SDK still writes to it.
    with pytest.raises((ConnectionClosedError, StreamClosedError, AwsCrtError)):
        getattr(connected.client, f"{operation}_async")(**arguments).result(SECONDS)
    eventually(lambda: connected.disconnected.seen)


# Configuration by IPC


def test_an_update_with_2_kilobytes_of_text_is_a_service_error(connected: Connected) -> None:
    def update(text: str) -> Any:
        return connected.client.update_configuration_async(
            timestamp=dt.datetime.now(dt.UTC), key_path=["word"], value_to_merge=text
        ).result(SECONDS)

    update("x" * 1_000)
    with pytest.raises(model.ServiceError):
        update("x" * 2_000)
    assert connected.configuration()["word"] == "x" * 1_000


def test_an_update_with_an_old_timestamp_is_accepted_and_ignored(connected: Connected) -> None:
    answer = connected.client.update_configuration_async(
        timestamp=dt.datetime(2020, 1, 1, tzinfo=dt.UTC), value_to_merge={"word": "ancient"}
    ).result(SECONDS)
    assert answer == model.UpdateConfigurationResponse()
    assert connected.configuration()["word"] == "old"


@pytest.mark.parametrize(("path", "is_there"), [(["absent"], False), (["tasks", "digits"], True)])
def test_a_subscription_to_a_missing_key_is_not_found(
    connected: Connected, path: list[str], *, is_there: bool
) -> None:
    def subscribe() -> None:
        connected.client.subscribe_to_configuration_update(key_path=path, on_stream_event=print)

    if is_there:
        subscribe()
    else:
        with pytest.raises(model.ResourceNotFoundError):
            subscribe()


@pytest.mark.parametrize("profile", [LITE, CLASSIC], ids=["lite", "classic"])
def test_the_nucleus_and_the_port_of_the_token_exchange_service_can_be_read(
    connected: Connected, profile: Profile
) -> None:
    def read(component: str, *path: str) -> Any:
        asked = connected.client.get_configuration_async(component_name=component, key_path=list(path))
        return asked.result(SECONDS).value

    nucleus, key = {
        LITE: ("aws.greengrass.NucleusLite", "port"),
        CLASSIC: ("aws.greengrass.Nucleus", "activePort"),
    }[profile]
    assert read(nucleus)["awsRegion"] == "eu-central-1"
    first = read(TOKEN_EXCHANGE, key)[key]
    connected.running.run(connected.running.core.interrupt_service(TOKEN_EXCHANGE))
    connected.running.run(connected.running.core.resume_service(TOKEN_EXCHANGE))
    second = read(TOKEN_EXCHANGE, key)[key]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(first)), SECONDS)
    socket.create_connection(("127.0.0.1", int(second)), SECONDS).close()


# State and errors


def test_reporting_errored_has_no_effect(connected: Connected) -> None:
    answer = connected.client.update_state_async(state="ERRORED").result(SECONDS)
    assert answer == model.UpdateStateResponse()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert connected.running.core.component_state(COMPONENT) == "RUNNING"
        time.sleep(0.05)


def test_errors_come_without_their_text(connected: Connected) -> None:
    with pytest.raises(model.ResourceNotFoundError) as caught:
        connected.client.get_configuration_async(key_path=["absent"]).result(SECONDS)
    assert not caught.value.message


# IoT Core


@pytest.mark.parametrize(
    ("topic", "qos"),
    [("room/x", "2"), ("room/+", "1"), ("x" * 300, "1"), ("/".join("abcdefghij"), "1")],
)
def test_iot_core_drops_the_connection_over_what_lite_does_not_check(
    connected: Connected, topic: str, qos: str
) -> None:
    lost: list[bool] = []
    as_it_is = connected.running.connection.cut

    async def cut() -> None:
        lost.append(True)
        await as_it_is()

    connected.running.connection.cut = cut  # type: ignore[method-assign]
    answer = connected.client.publish_to_iot_core_async(topic_name=topic, qos=qos, payload=b"x").result(
        SECONDS
    )
    assert answer == model.PublishToIoTCoreResponse()
    eventually(lambda: lost)
    eventually(lambda: connected.running.connection.connected)
    assert connected.running.broker.received == []
    connected.client.publish_to_iot_core_async(topic_name="room/x", qos="1", payload=b"y").result(SECONDS)


def test_a_subscription_with_quality_of_service_2_is_accepted_and_ends_the_connection(
    connected: Connected,
) -> None:
    connected.client.subscribe_to_iot_core(topic_name="room/x", qos="2", on_stream_event=print)
    eventually(lambda: not connected.running.connection.connected)
    eventually(lambda: connected.running.connection.connected)


def test_two_overlapping_filters_give_four_copies(connected: Connected) -> None:
    heard: list[bytes] = []
    for topic_filter in ("room/#", "room/x"):
        connected.client.subscribe_to_iot_core(
            topic_name=topic_filter,
            qos="1",
            on_stream_event=lambda event: heard.append(event.message.payload),
        )
    connected.running.from_cloud("room/x", b"once")
    connected.running.from_cloud("room/y", b"last")
    eventually(lambda: heard and heard[-1] == b"last")
    assert heard == [b"once"] * 4 + [b"last"]
