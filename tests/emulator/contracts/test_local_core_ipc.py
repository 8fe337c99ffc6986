"""The core's IPC through AWS's own SDK: the responses of all operations, and hostile clients."""

import datetime as dt
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awsiot.greengrasscoreipc as greengrass
import pytest
from awsiot.eventstreamrpc import (
    AccessDeniedError,
    ConnectionClosedError,
    LifecycleHandler,
    StreamClosedError,
)
from awsiot.greengrasscoreipc import model

from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.ipc.event_stream import Frame, HeaderValue, encode
from tests.emulator.local_core import (
    COMPONENT,
    REFUSED_FILTER,
    CoreInThread,
    core_in_thread,
    eventually,
    recipe,
    write_recipe,
)
from tests.emulator.sdk_client import connect

SECONDS = 10
OTHER = "com.example.Other"
STREAM_MANAGER = "aws.greengrass.StreamManager"


def access_control(owner: str) -> dict[str, object]:
    def policy(*resources: str) -> dict[str, object]:
        return {"operations": ["*"], "resources": list(resources)}

    return {
        "aws.greengrass.ipc.mqttproxy": {f"{owner}:mqttproxy:1": policy("allowed/#", "refused/*")},
        "aws.greengrass.ipc.pubsub": {f"{owner}:pubsub:1": policy("local/*")},
        "aws.greengrass.Cli": {f"{owner}:cli:1": policy(COMPONENT, "com.example.Absent")},
    }


def log_of(running: CoreInThread) -> str:
    """Return the core's log, the only place where nucleus lite has the reason of an error."""
    return (running.core.root / "logs" / "greengrass.log").read_text()


class Recorder(LifecycleHandler):  # type: ignore[misc]
    """Records the end of a connection."""

    def __init__(self) -> None:
        self.disconnected = False

    def on_disconnect(self, reason: Exception | None) -> None:  # noqa: ARG002 - the SDK's signature
        self.disconnected = True


class Clients:
    """SDK clients of one core's components, closed with it."""

    def __init__(self, running: CoreInThread) -> None:
        self._running = running
        self._opened: list[Any] = []

    def deploy(self, name: str, configuration: dict[str, object], folder: Path) -> None:
        content = recipe("echo started; sleep 1000", name=name, configuration=configuration)
        self._running.run(self._running.core.deploy(write_recipe(folder, content), folder))
        self._running.run(self._running.core.wait_for(name, "RUNNING", SECONDS))

    def open(self, component: str = COMPONENT, handler: LifecycleHandler | None = None) -> Any:
        client = connect(self._running.core, component, handler)
        self._opened.append(client)
        return client

    def close(self) -> None:
        for client in self._opened:
            client.close().exception(SECONDS)  # raises again if the test has lost the connection


@pytest.fixture(params=[CLASSIC, LITE], ids=lambda profile: str(profile.name))
def profile(request: pytest.FixtureRequest) -> Profile:
    """Both nuclei, unless a test overrides it."""
    chosen: Profile = request.param
    return chosen


@pytest.fixture
def running(tmp_path: Path, profile: Profile) -> Iterator[CoreInThread]:
    with core_in_thread(tmp_path, profile) as core:
        yield core


@pytest.fixture
def clients(running: CoreInThread, tmp_path: Path) -> Iterator[Clients]:
    opened = Clients(running)
    opened.deploy(
        COMPONENT,
        {
            "accessControl": access_control(COMPONENT),
            "training": {"epochs": "3", "rate": "0.1"},  # nucleus lite turns them into strings anyway
            "tags": ["a", "b"],
        },
        tmp_path,
    )
    yield opened
    opened.close()


@pytest.fixture
def client(clients: Clients) -> Any:
    return clients.open()


def refused(error: type[Exception], call: Any, **arguments: Any) -> str | None:
    """Return the message with which a call was refused."""
    with pytest.raises(error) as caught:
        call(**arguments).result(SECONDS)
    message: str | None = caught.value.message  # type: ignore[attr-defined]
    return message


def is_named(profile: Profile, text: str, message: str | None) -> bool:
    """Return whether an error has `text` in its message, if the nucleus sends one."""
    return message is None if profile is LITE else text in (message or "")


# Messages to and from IoT Core


def test_a_published_message_reaches_iot_core(running: CoreInThread, client: Any) -> None:
    client.publish_to_iot_core_async(topic_name="allowed/x", qos="1", payload=b"\x00weights\xff").result(
        SECONDS
    )

    (message,) = eventually(lambda: running.broker.received)
    assert (message.topic, message.payload, message.qos) == ("allowed/x", b"\x00weights\xff", 1)


def test_a_subscription_gets_the_messages_of_its_filter_in_order(running: CoreInThread, client: Any) -> None:
    events: list[Any] = []
    client.subscribe_to_iot_core_async(topic_name="allowed/+", qos="1", on_stream_event=events.append)[
        0
    ].result(SECONDS)

    for number in range(50):
        running.from_cloud(f"allowed/{number % 3}", str(number).encode())
    running.from_cloud("allowed/deeper/topic", b"not for this filter")
    running.from_cloud("allowed/last", b"last")

    eventually(lambda: events and events[-1].message.payload == b"last")
    assert [int(event.message.payload) for event in events[:-1]] == list(range(50))
    assert events[3].message.topic_name == "allowed/0"


@pytest.mark.parametrize("profile", [CLASSIC])
def test_overlapping_filters_give_a_message_twice(running: CoreInThread, client: Any) -> None:
    events: list[Any] = []
    for topic_filter in ("allowed/#", "allowed/x"):
        client.subscribe_to_iot_core(topic_name=topic_filter, qos="1", on_stream_event=events.append)

    running.from_cloud("allowed/x", b"once")
    running.from_cloud("allowed/y", b"last")

    eventually(lambda: events and events[-1].message.payload == b"last")
    assert [event.message.payload for event in events] == [b"once", b"once", b"last"]


def test_after_closing_a_stream_no_message_arrives_and_iot_core_is_unsubscribed(
    running: CoreInThread, client: Any
) -> None:
    events: list[Any] = []
    first, operation = client.subscribe_to_iot_core(
        topic_name="allowed/x", qos="1", on_stream_event=events.append
    )
    assert isinstance(first, model.SubscribeToIoTCoreResponse)

    operation.close().result(SECONDS)

    eventually(lambda: running.connection.filters == {})
    running.from_cloud("allowed/x", b"late")
    client.get_configuration(key_path=["tags"])  # one round trip: an event would have arrived earlier
    assert events == []


def test_two_subscriptions_of_one_filter_are_one_for_iot_core(running: CoreInThread, client: Any) -> None:
    events: list[Any] = []
    operations = [
        client.subscribe_to_iot_core(topic_name="allowed/x", qos="1", on_stream_event=events.append)[1]
        for _ in range(2)
    ]
    operations[0].close().result(SECONDS)

    running.from_cloud("allowed/x", b"still")

    eventually(lambda: len(events) == 1)


def test_a_subscription_that_iot_core_refuses_is_a_service_error(client: Any, profile: Profile) -> None:
    message = refused(
        model.ServiceError,
        lambda **arguments: client.subscribe_to_iot_core_async(**arguments)[0],
        topic_name=REFUSED_FILTER,
        qos="1",
        on_stream_event=print,
    )
    assert is_named(profile, "Not authorized", message)


def test_a_topic_outside_the_policy_is_unauthorized(
    running: CoreInThread, client: Any, profile: Profile
) -> None:
    message = refused(
        model.UnauthorizedError, client.publish_to_iot_core_async, topic_name="other/x", qos="1", payload=b""
    )
    assert is_named(profile, "aws.greengrass#PublishToIoTCore on other/x", message)
    with pytest.raises(model.UnauthorizedError):
        client.subscribe_to_iot_core(topic_name="#", qos="1", on_stream_event=print)
    assert running.broker.received == []


@pytest.mark.parametrize("profile", [CLASSIC])
@pytest.mark.parametrize(
    "topic", ["allowed/+", "allowed/#", "allowed/1/2/3/4/5/6/7/8", "allowed/" + "x" * 250]
)
def test_a_topic_that_iot_core_does_not_accept_is_invalid(client: Any, topic: str) -> None:
    refused(
        model.InvalidArgumentsError, client.publish_to_iot_core_async, topic_name=topic, qos="1", payload=b""
    )


def test_a_request_without_its_topic_is_invalid(client: Any, profile: Profile) -> None:
    message = refused(model.InvalidArgumentsError, client.publish_to_iot_core_async, qos="1", payload=b"")
    assert is_named(profile, "topicName", message)


# Configuration


def test_configuration_is_read_as_a_tree_a_branch_and_a_leaf_wrapped_in_its_name(client: Any) -> None:
    whole = client.get_configuration()

    assert whole.component_name == COMPONENT
    assert whole.value["training"] == {"epochs": "3", "rate": "0.1"}
    assert client.get_configuration(key_path=["training"]).value == {"epochs": "3", "rate": "0.1"}
    assert client.get_configuration(key_path=["training", "epochs"]).value == {"epochs": "3"}
    assert client.get_configuration(component_name=COMPONENT, key_path=["tags"]).value == {"tags": ["a", "b"]}


@pytest.mark.parametrize(
    "arguments",
    [{"key_path": ["absent"]}, {"key_path": ["tags", "0"]}, {"component_name": "com.example.Absent"}],
)
def test_configuration_that_does_not_exist_is_not_found(client: Any, arguments: dict[str, Any]) -> None:
    refused(model.ResourceNotFoundError, client.get_configuration_async, **arguments)


def test_an_update_is_merged_and_notified_once_per_changed_node(clients: Clients, client: Any) -> None:
    events: list[Any] = []
    clients.open().subscribe_to_configuration_update(key_path=["training"], on_stream_event=events.append)

    client.update_configuration(
        timestamp=dt.datetime.now(dt.UTC),
        value_to_merge={"training": {"epochs": 4, "rate": "0.1", "seed": 7}, "elsewhere": 1},
    )

    eventually(lambda: len(events) == 2)
    changed = [event.configuration_update_event for event in events]
    assert {tuple(event.key_path) for event in changed} == {("training", "epochs"), ("training", "seed")}
    assert changed[0].component_name == COMPONENT
    assert client.get_configuration(key_path=["training"]).value == {"epochs": 4, "rate": "0.1", "seed": 7}


@pytest.mark.parametrize("profile", [CLASSIC])
def test_an_update_older_than_the_value_is_refused_and_changes_nothing(client: Any) -> None:
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

    message = refused(
        model.FailedUpdateConditionCheckError,
        client.update_configuration_async,
        key_path=["training"],
        timestamp=long_ago,
        value_to_merge={"epochs": 9},
    )

    assert "training/epochs was changed later" in (message or "")
    assert client.get_configuration(key_path=["training", "epochs"]).value == {"epochs": "3"}


@pytest.mark.parametrize(
    "arguments",
    [{"value_to_merge": {"accessControl": {}}}, {"key_path": ["accessControl"], "value_to_merge": {"x": 1}}],
)
def test_a_component_may_not_change_its_own_access_control(
    client: Any, arguments: dict[str, Any], profile: Profile
) -> None:
    now = dt.datetime.now(dt.UTC)
    message = refused(
        model.InvalidArgumentsError, client.update_configuration_async, timestamp=now, **arguments
    )
    assert is_named(profile, "[accessControl]", message)


def test_a_subscription_to_an_absent_component_s_configuration_is_not_found(client: Any) -> None:
    with pytest.raises(model.ResourceNotFoundError):
        client.subscribe_to_configuration_update(component_name="com.example.Absent", on_stream_event=print)


# Between components


def test_json_and_binary_messages_pass_between_components(
    clients: Clients, client: Any, tmp_path: Path
) -> None:
    clients.deploy(OTHER, {"accessControl": access_control(OTHER)}, tmp_path)
    events: list[Any] = []
    response, _ = clients.open(OTHER).subscribe_to_topic(topic="local/+", on_stream_event=events.append)

    client.publish_to_topic(
        topic="local/a",
        publish_message=model.PublishMessage(json_message=model.JsonMessage(message={"n": [1, 2]})),
    )
    client.publish_to_topic(
        topic="local/b",
        publish_message=model.PublishMessage(binary_message=model.BinaryMessage(message=b"\x00\xff")),
    )

    eventually(lambda: len(events) == 2)
    assert response.topic_name == "local/+"
    assert (events[0].json_message.message, events[0].json_message.context.topic) == (
        {"n": [1, 2]},
        "local/a",
    )
    assert (events[1].binary_message.message, events[1].binary_message.context.topic) == (
        b"\x00\xff",
        "local/b",
    )


def test_a_component_receives_its_own_messages_unless_it_excludes_them(client: Any) -> None:
    own: list[Any] = []
    others: list[Any] = []
    client.subscribe_to_topic(
        topic="local/a", receive_mode="RECEIVE_MESSAGES_FROM_OTHERS", on_stream_event=others.append
    )
    client.subscribe_to_topic(topic="local/a", on_stream_event=own.append)

    client.publish_to_topic(
        topic="local/a",
        publish_message=model.PublishMessage(json_message=model.JsonMessage(message={"n": 1})),
    )

    eventually(lambda: own)
    assert others == []


def test_a_local_subscription_outside_the_policy_or_to_no_topic_filter_is_refused(client: Any) -> None:
    with pytest.raises(model.UnauthorizedError):
        client.subscribe_to_topic(topic="elsewhere", on_stream_event=print)
    with pytest.raises(model.InvalidArgumentsError):
        client.subscribe_to_topic(topic="local/#/x", on_stream_event=print)


def test_a_local_topic_outside_the_policy_is_unauthorized(client: Any) -> None:
    message = model.PublishMessage(json_message=model.JsonMessage(message={}))
    refused(
        model.UnauthorizedError, client.publish_to_topic_async, topic="elsewhere", publish_message=message
    )


@pytest.mark.parametrize(
    "message",
    [
        model.PublishMessage(),
        model.PublishMessage(
            json_message=model.JsonMessage(message={}), binary_message=model.BinaryMessage(message=b"")
        ),
    ],
)
def test_a_local_message_has_exactly_one_kind(client: Any, message: Any) -> None:
    refused(
        model.InvalidArgumentsError, client.publish_to_topic_async, topic="local/a", publish_message=message
    )


# State, tokens, restart and others


def test_update_state_is_answered_and_a_wrong_state_is_invalid(client: Any) -> None:
    assert client.update_state(state="RUNNING") == model.UpdateStateResponse()
    refused(model.InvalidArgumentsError, client.update_state_async, state="HAPPY")


@pytest.mark.parametrize("profile", [CLASSIC])
def test_a_component_that_reports_errored_is_restarted(running: CoreInThread, client: Any) -> None:
    client.update_state_async(state="ERRORED").result(SECONDS)

    running.run(running.core.wait_for(COMPONENT, "ERRORED", SECONDS))
    running.run(running.core.wait_for(COMPONENT, "RUNNING", SECONDS))


def test_only_stream_manager_may_validate_a_token(
    running: CoreInThread, clients: Clients, client: Any, tmp_path: Path
) -> None:
    clients.deploy(STREAM_MANAGER, {}, tmp_path)
    token = running.core.component_environment(COMPONENT)["SVCUID"]
    manager = clients.open(STREAM_MANAGER)

    assert manager.validate_authorization_token(token=token).is_valid is True
    refused(model.InvalidTokenError, manager.validate_authorization_token_async, token="wrong")  # noqa: S106 - invented
    refused(model.UnauthorizedError, client.validate_authorization_token_async, token=token)


def test_a_component_can_restart_one_that_its_policy_names(client: Any, tmp_path: Path) -> None:
    log = tmp_path / "logs" / f"{COMPONENT}.log"
    # A component is RUNNING once its shell is started; the shell may execute its first line later.
    eventually(lambda: log.read_text() == "started\n")

    answer = client.restart_component_async(component_name=COMPONENT).result(SECONDS)

    assert answer.restart_status == "SUCCEEDED"
    eventually(lambda: log.read_text() == "started\nstarted\n")
    refused(model.ResourceNotFoundError, client.restart_component_async, component_name="com.example.Absent")
    refused(model.UnauthorizedError, client.restart_component_async, component_name=OTHER)


def test_an_operation_that_is_not_served_is_a_service_error(client: Any, profile: Profile) -> None:
    message = refused(model.ServiceError, client.list_named_shadows_for_thing_async, thing_name="device-1")
    assert is_named(profile, "'ListNamedShadowsForThing' is not supported", message)


# Hostile clients


@pytest.mark.parametrize("profile", [CLASSIC])
@pytest.mark.usefixtures("clients")
def test_a_wrong_token_is_denied(running: CoreInThread) -> None:
    path = running.core.component_environment(COMPONENT)[
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
    ]

    with pytest.raises(AccessDeniedError):
        greengrass.connect(ipc_socket=path, authtoken="wrong")


def test_closing_a_component_s_streams_ends_its_connection_and_its_token(
    running: CoreInThread, clients: Clients
) -> None:
    closed: list[bool] = []
    recorder = Recorder()
    client = clients.open(handler=recorder)
    client.subscribe_to_iot_core(
        topic_name="allowed/x", qos="1", on_stream_event=print, on_stream_closed=lambda: closed.append(True)
    )
    old = running.core.component_environment(COMPONENT)["SVCUID"]

    running.run(running.core.close_ipc_streams(COMPONENT))

    eventually(lambda: recorder.disconnected and closed)
    assert not running.core.is_component_token(old)
    eventually(lambda: running.connection.filters == {})


CONNECT = Frame(
    {":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}, b'{"authToken": "TOKEN"}'
)
HUGE = struct.pack(">II", 0x7FFFFFFF, 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(12),
        HUGE + struct.pack(">I", zlib.crc32(HUGE)),
        encode(Frame({":message-type": 0, ":message-flags": 0, ":stream-id": 1}, b"{}")),
        encode(Frame({**CONNECT.headers, ":version": "9"}, CONNECT.payload)),
        encode(Frame(CONNECT.headers, b"[" * 5_000)),
        encode(Frame(CONNECT.headers, b'{"authToken": 7}')),
        encode(Frame({**CONNECT.headers, ":stream-id": "zero"})),
    ],
)
def test_garbage_instead_of_a_handshake_ends_only_its_own_connection(
    running: CoreInThread, client: Any, garbage: bytes
) -> None:
    assert_hangs_up(running, garbage)

    assert client.get_configuration(key_path=["tags"]).value == {"tags": ["a", "b"]}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 64,
        encode(Frame({":message-type": 4, ":message-flags": 0, ":stream-id": 0})),
        encode(Frame({":message-type": 2, ":message-flags": 0, ":stream-id": 1})),
        encode(Frame({":message-type": 1, ":message-flags": 0, ":stream-id": 1})),
        encode(Frame({":message-flags": 0, ":stream-id": 1})),
        encode(Frame({":message-type": 0, ":message-flags": 0, ":stream-id": -1, "operation": 5})),
    ],
)
def test_garbage_after_the_handshake_ends_only_its_own_connection(
    running: CoreInThread, client: Any, garbage: bytes
) -> None:
    token = running.core.component_environment(COMPONENT)["SVCUID"]

    assert_hangs_up(
        running, encode(Frame(CONNECT.headers, b'{"authToken": "%s"}' % token.encode())) + garbage
    )

    assert client.get_configuration(key_path=["tags"]).value == {"tags": ["a", "b"]}


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"[" * 9_000, b'{"topicName": 1}'])
def test_an_invalid_body_gets_an_error_and_the_connection_stays_open(
    running: CoreInThread, body: bytes
) -> None:
    token = running.core.component_environment(COMPONENT)["SVCUID"]
    headers: dict[str, HeaderValue] = {
        ":message-type": 0,
        ":message-flags": 0,
        "operation": "aws.greengrass#PublishToIoTCore",
    }
    ping = encode(Frame({":message-type": 2, ":message-flags": 0, ":stream-id": 0}, b"still there?"))

    with raw_connection(running) as link:
        link.sendall(encode(Frame(CONNECT.headers, b'{"authToken": "%s"}' % token.encode())))
        link.sendall(encode(Frame({**headers, ":stream-id": 1}, body)) + ping)
        answer = b""
        while b"still there?" not in answer or b"InvalidArgumentsError" not in answer:
            received = link.recv(65_536)
            assert received, f"the connection ended after {answer!r}"
            answer += received


def test_a_client_that_stops_in_the_middle_of_a_frame_blocks_no_other(
    running: CoreInThread, client: Any
) -> None:
    with raw_connection(running) as link:
        link.sendall(encode(CONNECT)[:20])

        assert client.get_configuration(key_path=["tags"]).value == {"tags": ["a", "b"]}


def raw_connection(running: CoreInThread) -> socket.socket:
    environment = running.core.component_environment(COMPONENT)
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(SECONDS)
    link.connect(environment["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"])
    return link


def assert_hangs_up(running: CoreInThread, garbage: bytes) -> None:
    with raw_connection(running) as link:
        link.sendall(garbage)
        end = time.monotonic() + SECONDS
        while link.recv(65_536):
            assert time.monotonic() < end, "the server went on talking to a client that breaks the protocol"


# Differences between the two nuclei


@pytest.mark.parametrize("profile", [LITE])
def test_lite_closes_the_connection_over_a_large_message_and_drops_an_incoming_one(
    running: CoreInThread, clients: Clients
) -> None:
    recorder = Recorder()
    client = clients.open(handler=recorder)
    events: list[Any] = []
    client.subscribe_to_iot_core(topic_name="allowed/+", qos="1", on_stream_event=events.append)

    running.from_cloud("allowed/large", bytes(4_981))
    running.from_cloud("allowed/small", bytes(4_980))
    eventually(lambda: events)
    assert [event.message.topic_name for event in events] == ["allowed/small"]

    client.publish_to_iot_core_async(topic_name="allowed/out", qos="1", payload=bytes(7_300)).result(SECONDS)
    with pytest.raises((ConnectionClosedError, StreamClosedError)):
        client.publish_to_iot_core_async(topic_name="allowed/out", qos="1", payload=bytes(7_320)).result(
            SECONDS
        )
    eventually(lambda: recorder.disconnected)


@pytest.mark.parametrize("profile", [CLASSIC])
def test_classic_answers_a_large_message_with_a_service_error(client: Any) -> None:
    limit = 128 * 1024
    message = refused(
        model.ServiceError,
        client.publish_to_iot_core_async,
        topic_name="allowed/x",
        qos="1",
        payload=bytes(limit + 1),
    )
    assert "131073 bytes" in (message or "")
    client.publish_to_iot_core_async(topic_name="allowed/x", qos="1", payload=bytes(limit)).result(SECONDS)


@pytest.mark.parametrize("profile", [LITE])
@pytest.mark.parametrize(("size", "fit"), [(10, 10), (4_000, 3)])
def test_lite_refuses_the_next_publish_while_too_much_is_unacknowledged(
    running: CoreInThread, client: Any, size: int, fit: int
) -> None:
    running.broker.acknowledging = False
    for _ in range(fit):
        client.publish_to_iot_core_async(topic_name="allowed/x", qos="1", payload=bytes(size)).result(SECONDS)

    refused(
        model.ServiceError,
        client.publish_to_iot_core_async,
        topic_name="allowed/x",
        qos="1",
        payload=bytes(size),
    )

    assert f"{fit} messages of {fit * size} bytes" in log_of(running)
    client.publish_to_iot_core_async(topic_name="allowed/x", qos="0", payload=bytes(size)).result(SECONDS)


@pytest.mark.parametrize("profile", [LITE])
def test_lite_refuses_everything_while_it_is_offline(running: CoreInThread, client: Any) -> None:
    running.run(running.core.cut_mqtt())

    for qos in ("0", "1"):
        refused(
            model.ServiceError, client.publish_to_iot_core_async, topic_name="allowed/x", qos=qos, payload=b""
        )
    with pytest.raises(model.ServiceError):
        client.subscribe_to_iot_core(topic_name="allowed/x", qos="1", on_stream_event=print)
    running.run(running.core.restore_mqtt())
    client.publish_to_iot_core_async(topic_name="allowed/x", qos="1", payload=b"").result(SECONDS)


@pytest.mark.parametrize("profile", [CLASSIC])
def test_classic_spools_qos_1_while_it_is_offline_until_the_spool_is_full(
    running: CoreInThread, client: Any
) -> None:
    running.run(running.core.cut_mqtt())
    size = 100 * 1024
    for _ in range(25):
        client.publish_to_iot_core_async(topic_name="allowed/x", qos="1", payload=bytes(size)).result(SECONDS)

    refused(
        model.ServiceError, client.publish_to_iot_core_async, topic_name="allowed/x", qos="1", payload=b"x"
    )
    refused(
        model.ServiceError, client.publish_to_iot_core_async, topic_name="allowed/x", qos="0", payload=b"x"
    )
    assert running.broker.received == []

    running.run(running.core.restore_mqtt())
    eventually(lambda: len(running.broker.received) == 25)


@pytest.mark.parametrize(("profile", "retain"), [(LITE, False), (CLASSIC, True)])
def test_only_classic_passes_the_retain_flag_on(running: CoreInThread, client: Any, *, retain: bool) -> None:
    client.publish_to_iot_core_async(topic_name="allowed/x", qos="1", payload=b"", retain=True).result(
        SECONDS
    )

    (message,) = eventually(lambda: running.broker.received)
    assert message.retain is retain


@pytest.mark.parametrize("profile", [CLASSIC])
def test_classic_loses_a_retained_message_that_precedes_its_response(
    running: CoreInThread, client: Any
) -> None:
    running.from_cloud("allowed/x", b"kept", retain=True)
    events: list[Any] = []

    client.subscribe_to_iot_core(topic_name="allowed/x", qos="1", on_stream_event=events.append)
    running.from_cloud("allowed/x", b"new")

    eventually(lambda: events)
    assert [event.message.payload for event in events] == [b"new"]
