"""The core's two servers and their other clients continue, whatever a client sends."""

import errno
import gc
import json
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_manager import StreamManagerClient

from greengrass_emulator.ipc.event_stream import Frame, HeaderValue, encode
from tests.emulator.local_core import COMPONENT, core_in_thread, recipe, write_recipe
from tests.emulator.stream_manager_server import stream_manager

SECONDS = 10
VICTIM = "com.example.Victim"
OPERATIONS = [
    "PublishToIoTCore", "SubscribeToIoTCore", "PublishToTopic", "SubscribeToTopic", "GetConfiguration",
    "UpdateConfiguration", "SubscribeToConfigurationUpdate", "UpdateState", "ValidateAuthorizationToken",
    "RestartComponent", "StopComponent", "ListComponents", "GetComponentDetails", "GetSecretValue",
    "CreateLocalDeployment", "GetLocalDeploymentStatus", "ListLocalDeployments", "Unheard",
]  # fmt: skip
FIELDS = [
    "topicName", "qos", "payload", "topic", "publishMessage", "jsonMessage", "binaryMessage", "message",
    "componentName", "keyPath", "timestamp", "valueToMerge", "state", "token", "secretId", "versionId",
    "rootComponentVersionsToAdd", "rootComponentsToRemove", "componentToConfiguration", "deploymentId",
    "recipeDirectoryPath", "MERGE", "x",
]  # fmt: skip
SERVICES = ["mqttproxy", "pubsub"]
EVERYTHING = {
    **{
        f"aws.greengrass.ipc.{one}": {f"{one}:1": {"operations": ["*"], "resources": ["*"]}}
        for one in SERVICES
    },
    "aws.greengrass.Cli": {"cli:1": {"operations": ["*"], "resources": ["x", "*"]}},
    "aws.greengrass.SecretManager": {"secrets:1": {"operations": ["*"], "resources": ["*"]}},
}

texts = st.text(max_size=20) | st.sampled_from(
    ["a/b", "+", "#", "a/#", "0", "1", "eA==", COMPONENT, "RUNNING"]
)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | texts
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=4)
    ),
    max_leaves=12,
)
messages = st.fixed_dictionaries({"message": st.just("eA==") | trees})
# Half of them are valid: input that is always invalid would never pass the first check.
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "topicName": st.sampled_from(["a/b"] * 4 + ["a/+", "#", "a/#/b", ""]),
    "topic": st.sampled_from(["a/b"] * 3 + ["a/+", "#"]),
    "qos": st.sampled_from(["0", "1"]),
    "payload": st.sampled_from(["eA==", "", "eA==", "x"]),
    "publishMessage": st.fixed_dictionaries(
        {}, optional={"jsonMessage": messages, "binaryMessage": messages}
    ),
    "componentName": st.sampled_from(["x", COMPONENT]),
    "keyPath": st.lists(st.sampled_from(["x", "y", "accessControl"]), max_size=3),
    "timestamp": st.floats(0, 1e12, allow_nan=False),
    "valueToMerge": trees,
    "state": st.just("RUNNING"),
    "token": texts,
    "secretId": st.just("x"),
    "versionId": texts,
    "deploymentId": texts,
    "rootComponentVersionsToAdd": st.dictionaries(texts, texts, max_size=2),
    "rootComponentsToRemove": st.lists(st.just("x"), max_size=2),
    "componentToConfiguration": st.fixed_dictionaries(
        {}, optional={COMPONENT: st.fixed_dictionaries({"MERGE": trees})}
    ),
    "recipeDirectoryPath": st.sampled_from(["/absent", "/", "\0"]),
}
bodies = (
    st.fixed_dictionaries({}, optional={name: one | one | one | trees for name, one in LIKELY.items()})
    | st.fixed_dictionaries(LIKELY)
    | trees
).map(lambda body: json.dumps(body).encode())


@st.composite
def requests(draw: st.DrawFn) -> list[bytes]:
    """Return frames of one connection, most of them well-formed and in order."""
    frames = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        headers: dict[str, HeaderValue] = {
            ":message-type": 0,
            ":message-flags": 0,
            ":stream-id": number,
            "operation": f"aws.greengrass#{draw(st.sampled_from(OPERATIONS))}",
        }
        body = draw(bodies | bodies | bodies | st.binary(max_size=60))
        match draw(st.integers(0, 25)):
            case 0:
                headers[":stream-id"] = draw(st.integers(-1, number))
            case 1:
                headers[":message-type"] = draw(st.integers(-1, 9))
            case 2 | 3:
                headers |= {":stream-id": draw(st.integers(1, number)), ":message-flags": 2}
            case 4:
                del headers[draw(st.sampled_from(sorted(headers)))]
        frames.append(encode(Frame(headers, body)))
    return frames


class Heard(logging.Handler):
    """Records the errors that a server logs: it may refuse anything, but not fail."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def told(self) -> list[str]:
        """Return what was logged since the last call."""
        errors, self.errors = self.errors, []
        return errors

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.errors.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@pytest.fixture(scope="module")
def heard() -> Iterator[Heard]:
    gc.collect()  # garbage of other tests logs its errors now, not during these tests
    handler = Heard()
    loggers = [logging.getLogger("greengrass_emulator"), logging.getLogger("asyncio")]
    for one in loggers:
        one.addHandler(handler)
    yield handler
    for one in loggers:
        one.removeHandler(handler)


def talk(connection: socket.socket, pieces: list[bytes]) -> None:
    """Send everything and read all responses; the server may disconnect at any time."""
    connection.settimeout(SECONDS)
    with connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                continue
        except OSError as error:
            if error.errno not in {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}:
                raise


@pytest.fixture(scope="module")
def attack_ipc(
    tmp_path_factory: pytest.TempPathFactory, heard: Heard
) -> Iterator[Callable[[list[bytes]], None]]:
    """Sends pieces to a core's IPC as a component with all permissions; another one must still be served."""
    folder = tmp_path_factory.mktemp("core")
    with core_in_thread(folder, secrets={"x": "y"}) as running:
        for name, control in ((COMPONENT, EVERYTHING), (VICTIM, {})):
            content = recipe("sleep 1000", name=name, configuration={"accessControl": control, "x": 1})
            running.run(running.core.deploy(write_recipe(folder, content), folder))
        socket_name = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
        path = running.core.component_environment(VICTIM)[socket_name]

        def connect(component: str) -> tuple[socket.socket, bytes]:
            link = socket.socket(socket.AF_UNIX)
            link.settimeout(SECONDS)
            link.connect(path)
            token = running.core.component_environment(component)["SVCUID"]
            hello: dict[str, HeaderValue] = {
                ":message-type": 4,
                ":message-flags": 0,
                ":stream-id": 0,
                ":version": "0.1.0",
            }
            return link, encode(Frame(hello, json.dumps({"authToken": token}).encode()))

        victim, hello = connect(VICTIM)
        victim.sendall(hello)
        pings = iter(range(1, 1 << 30))

        def attack(pieces: list[bytes]) -> None:
            link, greeting = connect(COMPONENT)
            talk(link, [greeting, *pieces])
            ping = f"still there {next(pings)}?".encode()
            victim.sendall(encode(Frame({":message-type": 2, ":message-flags": 0, ":stream-id": 0}, ping)))
            answer = b""
            while ping not in answer:
                received = victim.recv(65_536)
                assert received, "the victim was disconnected"
                answer += received
            assert heard.told() == []

        yield attack
        victim.close()


@settings(max_examples=150)
@given(pieces=requests())
def test_no_request_makes_the_nucleus_stumble(
    attack_ipc: Callable[[list[bytes]], None], pieces: list[bytes]
) -> None:
    attack_ipc(pieces)


@settings(max_examples=60)
@given(
    pieces=st.lists(st.binary(max_size=80) | requests().map(b"".join), max_size=4), cut=st.integers(0, 900)
)
def test_no_bytes_make_the_nucleus_stumble(
    attack_ipc: Callable[[list[bytes]], None], pieces: list[bytes], cut: int
) -> None:
    attack_ipc([b"".join(pieces)[:cut]])


# Stream Manager

DEFINITION_FIELDS = [
    "name", "maxSize", "streamSegmentSize", "timeToLiveMillis", "strategyOnFull", "persistence",
    "flushOnWrite", "exportDefinition", "s3TaskExecutor", "identifier", "statusConfig", "statusStreamName",
    "desiredStartSequenceNumber", "minMessageCount", "maxMessageCount", "readTimeoutMillis",
]  # fmt: skip
small = (
    st.integers(-2, 3)
    | st.integers(-(2**63), 2**64)
    | texts
    | st.binary(max_size=20)
    | st.none()
    | st.booleans()
)
values = st.recursive(
    small,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(DEFINITION_FIELDS), inner, max_size=6)
    ),
    max_leaves=10,
)
definitions = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "..", "x y"]),
        "strategyOnFull": st.integers(0, 1),
        "maxSize": st.sampled_from([1024, 5000, 5000, 1 << 20]),
        "streamSegmentSize": st.sampled_from([1024, 1024, 5000]),
    },
    optional={
        "persistence": st.integers(0, 1),
        "flushOnWrite": st.booleans(),
        "exportDefinition": st.sampled_from([{"s3TaskExecutor": [{"identifier": "s3"}]}] * 3) | values,
    },
)
names = st.sampled_from(["a", "b", ".."])
options = st.fixed_dictionaries(
    {},
    optional={
        "desiredStartSequenceNumber": st.integers(0, 3),
        "minMessageCount": st.integers(1, 3),
        "maxMessageCount": st.integers(1, 9),
        "readTimeoutMillis": st.integers(0, 5),
    },
)
LIKELY_FIELDS = {
    "name": names,
    "streamName": names,
    "payload": st.binary(min_size=1, max_size=2000),
    "definition": definitions,
    "readMessagesOptions": options,
}
fields = st.fixed_dictionaries(
    {"requestId": st.sampled_from(["1"] * 15 + ["", "!"])},
    optional={name: one | one | one | values for name, one in LIKELY_FIELDS.items()},
) | st.fixed_dictionaries({"requestId": st.just("1"), **LIKELY_FIELDS})


def frame(operation: int, content: Any) -> bytes:
    payload = cbor2.dumps(content)
    return struct.pack(">ib", len(payload) + 1, operation) + payload


operations = st.sampled_from([2, 3, 4, 5, 11, 13, 15] * 4 + [*range(19), -1, 127])
# A frame without a request id ends its connection: only a few, or no connection lasts.
stream_requests = st.builds(frame, operations, st.one_of([fields] * 12 + [values]))


@pytest.fixture(scope="module")
def attack_streams(
    tmp_path_factory: pytest.TempPathFactory, heard: Heard
) -> Iterator[Callable[[list[bytes]], None]]:
    """Sends pieces to a Stream Manager; another client must still be served."""

    class NoS3:
        def upload_fileobj(self, *_: object, **__: object) -> None:
            raise FileNotFoundError

        def close(self) -> None:
            """Do nothing: no connection is open."""

    with stream_manager(tmp_path_factory.mktemp("streams"), NoS3) as port:
        victim = StreamManagerClient(port=port, request_timeout=SECONDS)

        def attack(pieces: list[bytes]) -> None:
            link = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
            talk(link, [b"\x01" + frame(1, {"requestId": "1", "protocolVersion": "1.1.0"}), *pieces])
            assert victim.list_streams() is not None
            assert heard.told() == []

        yield attack
        victim.close()


@settings(max_examples=200)
@given(pieces=st.lists(stream_requests, max_size=12))
def test_no_request_makes_stream_manager_stumble(
    attack_streams: Callable[[list[bytes]], None], pieces: list[bytes]
) -> None:
    attack_streams(pieces)


@settings(max_examples=60)
@given(pieces=st.lists(st.binary(max_size=60) | stream_requests, max_size=4), cut=st.integers(0, 300))
def test_no_bytes_make_stream_manager_stumble(
    attack_streams: Callable[[list[bytes]], None], pieces: list[bytes], cut: int
) -> None:
    attack_streams([b"".join(pieces)[:cut]])
