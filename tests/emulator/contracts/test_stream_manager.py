"""Every operation of Stream Manager through the unmodified SDK."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cbor2
import pytest
from stream_manager import (
    ConnectFailedException,
    ExportDefinition,
    InvalidRequestException,
    KinesisConfig,
    MessageStreamDefinition,
    NotEnoughMessagesException,
    Persistence,
    ReadMessagesOptions,
    RequestPayloadTooLargeException,
    ResourceNotFoundException,
    S3ExportTaskExecutorConfig,
    StatusConfig,
    StrategyOnFull,
    StreamManagerClient,
    UnknownFailureException,
    UpdateNotAllowedException,
)
from stream_manager.data import ListStreamsRequest, Operation, ResponseStatusCode

from greengrass_emulator.stream_manager.stream_server import StreamManager
from tests.emulator.stream_manager_server import no_s3, stream_manager

_SECONDS = 10


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with stream_manager(tmp_path / "streams") as port:
        yield port


@pytest.fixture
def connect(port: int) -> Iterator[Callable[[], Any]]:
    clients: list[Any] = []

    def connect() -> Any:
        clients.append(StreamManagerClient(port=port, request_timeout=_SECONDS))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[[], Any]) -> Any:
    return connect()


def definition(name: str = "updates", **fields: Any) -> Any:
    fields.setdefault("strategy_on_full", StrategyOnFull.RejectNewData)
    return MessageStreamDefinition(name=name, **fields)


def s3_export(identifier: str = "s3", status_stream: str | None = None) -> Any:
    status = StatusConfig(status_stream_name=status_stream) if status_stream else None
    return S3ExportTaskExecutorConfig(identifier=identifier, status_config=status)


def read(client: Any, start: int = 0, **options: Any) -> list[bytes]:
    chosen = ReadMessagesOptions(desired_start_sequence_number=start, **options)
    return [message.payload for message in client.read_messages("updates", chosen)]


def test_streams_are_created_listed_and_deleted(client: Any) -> None:
    assert client.list_streams() == []
    client.create_message_stream(definition("b"))
    client.create_message_stream(definition("a"))
    assert client.list_streams() == ["a", "b"]
    client.delete_message_stream("b")
    assert client.list_streams() == ["a"]


def test_appended_messages_are_numbered_from_0_and_read_back(client: Any) -> None:
    client.create_message_stream(definition())
    assert [client.append_message("updates", payload) for payload in (b"a", b"b", b"c")] == [0, 1, 2]
    (first,) = client.read_messages("updates")
    assert (first.stream_name, first.sequence_number, first.payload) == ("updates", 0, b"a")
    assert first.ingest_time > 1_700_000_000_000
    assert read(client, 1, min_message_count=1, max_message_count=100) == [b"b", b"c"]
    assert read(client, 0, min_message_count=2) == [b"a", b"b"]


def test_a_flushed_append_is_numbered_too(client: Any) -> None:
    client.create_message_stream(definition(flush_on_write=True))
    assert [client.append_message("updates", b"x") for _ in range(3)] == [0, 1, 2]


def test_a_message_of_many_megabytes_is_written_and_read(client: Any) -> None:
    client.create_message_stream(definition())
    payload = bytes(range(256)) * (20 << 12)
    client.append_message("updates", payload)
    assert read(client) == [payload]


def test_a_description_tells_definition_storage_and_exports(client: Any) -> None:
    client.create_message_stream(definition("status", persistence=Persistence.Memory))
    exports = ExportDefinition(s3_task_executor=[s3_export(status_stream="status")])
    client.create_message_stream(definition(max_size=1 << 25, export_definition=exports))
    info = client.describe_message_stream("updates")
    assert info.definition.as_dict() == definition(max_size=1 << 25, export_definition=exports).as_dict()
    assert (info.storage_status.newest_sequence_number, info.storage_status.total_bytes) == (-1, 0)
    (status,) = info.export_statuses
    assert (status.export_config_identifier, status.last_exported_sequence_number) == ("s3", -1)
    client.append_message("status", b"abc")
    storage = client.describe_message_stream("status").storage_status
    assert (storage.oldest_sequence_number, storage.newest_sequence_number) == (0, 0)
    assert storage.total_bytes >= 3


def test_an_update_changes_what_may_change(client: Any) -> None:
    client.create_message_stream(definition())
    client.append_message("updates", b"kept")
    client.update_message_stream(
        definition(max_size=1 << 26, strategy_on_full=StrategyOnFull.OverwriteOldestData)
    )
    updated = client.describe_message_stream("updates").definition
    assert (updated.max_size, updated.strategy_on_full) == (1 << 26, StrategyOnFull.OverwriteOldestData)
    assert read(client) == [b"kept"]


def test_the_persistence_may_not_change(client: Any) -> None:
    client.create_message_stream(definition())
    with pytest.raises(UpdateNotAllowedException, match="persistence"):
        client.update_message_stream(definition(persistence=Persistence.Memory))
    client.update_message_stream(definition(persistence=Persistence.File))


def test_a_stream_may_not_shrink_below_what_it_holds(client: Any) -> None:
    client.create_message_stream(definition())
    client.append_message("updates", bytes(3000))
    with pytest.raises(InvalidRequestException, match="maxSize"):
        client.update_message_stream(definition(max_size=2048, stream_segment_size=1024))


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.append_message("none", b"x"),
        lambda client: client.read_messages("none"),
        lambda client: client.describe_message_stream("none"),
        lambda client: client.delete_message_stream("none"),
        lambda client: client.update_message_stream(definition("none")),
    ],
    ids=["append", "read", "describe", "delete", "update"],
)
def test_a_stream_that_does_not_exist_is_named(client: Any, ask: Callable[[Any], object]) -> None:
    with pytest.raises(ResourceNotFoundException, match="no stream 'none'"):
        ask(client)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (definition("taken"), "already exists"),
        (definition(max_size=1024), "streamSegmentSize 16777216 is above maxSize 1024"),
        (
            definition(
                export_definition=ExportDefinition(
                    kinesis=[KinesisConfig(identifier="k", kinesis_stream_name="k")]
                )
            ),
            "exports to S3 only, not to kinesis",
        ),
        (
            definition(export_definition=ExportDefinition(s3_task_executor=[s3_export(), s3_export()])),
            "same identifier",
        ),
        (
            definition(
                export_definition=ExportDefinition(s3_task_executor=[s3_export(status_stream="none")])
            ),
            "status stream 'none'",
        ),
    ],
    ids=["taken", "segment", "kinesis", "identifier", "status stream"],
)
def test_a_definition_that_cannot_be_is_refused_with_the_reason(client: Any, wrong: Any, reason: str) -> None:
    client.create_message_stream(definition("taken"))
    with pytest.raises(InvalidRequestException, match=reason):
        client.create_message_stream(wrong)
    assert client.list_streams() == ["taken"]


def test_a_full_stream_refuses_and_the_client_continues(client: Any) -> None:
    client.create_message_stream(definition(max_size=1024, stream_segment_size=1024))
    with pytest.raises(RequestPayloadTooLargeException, match="maxSize"):
        client.append_message("updates", bytes(1024))
    client.append_message("updates", bytes(900))
    with pytest.raises(UnknownFailureException, match="full"):
        client.append_message("updates", bytes(200))
    assert client.append_message("updates", b"small") == 1


def test_a_read_without_time_out_fails_at_once_with_too_few_messages(client: Any) -> None:
    client.create_message_stream(definition())
    client.append_message("updates", b"a")
    with pytest.raises(NotEnoughMessagesException, match="fewer than 2"):
        read(client, 0, min_message_count=2)


def test_a_read_gives_up_after_its_time_out(client: Any) -> None:
    client.create_message_stream(definition())
    with pytest.raises(NotEnoughMessagesException):
        read(client, 0, read_timeout_millis=50)


def test_a_waiting_read_blocks_no_client_and_gets_its_messages_when_they_arrive(client: Any) -> None:
    client.create_message_stream(definition())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, client, 0, min_message_count=2, read_timeout_millis=9_000)
        client.append_message("updates", b"a")
        assert client.list_streams() == ["updates"]
        assert not waiting.done()
        client.append_message("updates", b"b")
        assert waiting.result(_SECONDS) == [b"a", b"b"]


def test_reads_of_many_clients_wait_for_the_same_message(connect: Callable[[], Any]) -> None:
    clients = [connect() for _ in range(5)]
    clients[0].create_message_stream(definition())
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(read, client, 0, read_timeout_millis=9_000) for client in clients]
        clients[0].append_message("updates", b"for all")
        assert [one.result(_SECONDS) for one in waiting] == [[b"for all"]] * 5


def test_a_read_of_a_stream_that_is_deleted_meanwhile_ends(connect: Callable[[], Any]) -> None:
    reader, deleter = connect(), connect()
    reader.create_message_stream(definition())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, reader, 0, read_timeout_millis=9_000)
        reader.list_streams()  # the read was sent before this and has reached the server
        deleter.delete_message_stream("updates")
        with pytest.raises(ResourceNotFoundException):
            waiting.result(_SECONDS)


def test_an_operation_that_the_server_does_not_know_is_answered(client: Any) -> None:
    ask = client._StreamManagerClient__send_and_receive(Operation.ConnectResponse, ListStreamsRequest())
    loop = client._StreamManagerClient__loop
    answer = asyncio.run_coroutine_threadsafe(ask, loop).result(_SECONDS)
    assert answer.status is ResponseStatusCode.UnknownOperation
    assert client.list_streams() == []


@pytest.mark.parametrize("token", [None, "of nobody"])
def test_a_client_without_a_components_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.delenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", token)
    with stream_manager(tmp_path, is_component_token={"of the trainer"}.__contains__) as port:
        with pytest.raises(ConnectFailedException):
            StreamManagerClient(port=port)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of the trainer")
        with StreamManagerClient(port=port) as client:
            assert client.list_streams() == []


def test_a_client_reconnects_to_a_restarted_server_and_finds_its_messages(tmp_path: Path) -> None:
    with stream_manager(tmp_path) as port, StreamManagerClient(port=port) as client:
        client.create_message_stream(definition())
        client.append_message("updates", b"kept")
    with stream_manager(tmp_path) as port, StreamManagerClient(port=port) as client:
        assert read(client) == [b"kept"]


def test_a_server_stops_while_reads_wait(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool, stream_manager(tmp_path) as port:
        client = StreamManagerClient(port=port, request_timeout=1)
        client.create_message_stream(definition())
        waiting = pool.submit(read, client, 0, read_timeout_millis=1_000)
        client.list_streams()
    assert waiting.exception(_SECONDS) is not None
    client.close()


def test_many_servers_share_one_event_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        managers = [StreamManager(tmp_path / str(number), no_s3) for number in range(24)]
        ports = [await manager.start() for manager in managers]

        def use(number: int) -> list[str]:
            with StreamManagerClient(port=ports[number], request_timeout=_SECONDS) as client:
                client.create_message_stream(definition(f"of {number}"))
                streams: list[str] = client.list_streams()
                return streams

        try:
            assert len(set(ports)) == 24
            listed = await asyncio.gather(*(asyncio.to_thread(use, number) for number in range(24)))
            assert listed == [[f"of {number}"] for number in range(24)]
        finally:
            for manager in managers:
                await manager.stop()
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)

    asyncio.run(scenario())


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes and return everything that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(65536):
            answer += received
        return answer


def frame(operation: int, fields: Any) -> bytes:
    payload = cbor2.dumps(fields)
    return struct.pack(">ib", len(payload) + 1, operation) + payload


_CONNECT = frame(1, {"requestId": "1", "protocolVersion": "1.1.0"})


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x02", 8),
        (b"\x01" + frame(11, {"requestId": "1"}), 9),
        (b"\x01" + frame(1, {"requestId": "1", "protocolVersion": "9.0.0"}), 10),
        (b"\x01" + _CONNECT, 0),
        (
            b"\x01"
            + frame(
                1, {"requestId": "1", "protocolVersion": "9", "otherSupportedProtocolVersions": ["1.0.0"]}
            ),
            0,
        ),
    ],
    ids=["connect version", "first operation", "protocol version", "accepted", "older version"],
)
def test_a_handshake_is_answered_with_its_status(port: int, sent: bytes, status: int) -> None:
    answer = exchange(port, sent)
    assert answer[:1] == b"\x01"
    assert answer[5] == 6
    assert cbor2.loads(answer[6:])["status"] == status


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x01",
        b"\x01\x00\x00",
        b"\x01" + struct.pack(">i", -5),
        b"\x01" + struct.pack(">i", 1 << 30) + b"\x01",
        b"\x01" + _CONNECT + struct.pack(">ib", 3, 4) + b"\xff\xff",
        b"\x01" + _CONNECT + frame(4, {"name": "updates"}),
        b"\x01" + _CONNECT + frame(5, ["no", "map"]),
    ],
)
def test_garbage_ends_its_own_connection_only(port: int, client: Any, garbage: bytes) -> None:
    client.create_message_stream(definition())
    exchange(port, garbage)
    assert client.list_streams() == ["updates"]


def test_a_request_with_invalid_fields_is_answered_and_the_connection_stays_open(port: int) -> None:
    wrong = frame(4, {"requestId": "2", "name": "updates", "payload": 7})
    answer = exchange(port, b"\x01" + _CONNECT + wrong + frame(11, {"requestId": "3"}))
    rest = answer[5 + int.from_bytes(answer[1:5]) :]
    length = int.from_bytes(rest[:4])
    refusal = cbor2.loads(rest[5 : 4 + length])
    assert (refusal["requestId"], refusal["status"]) == ("2", 3)
    assert "payload" in refusal["errorMessage"]
    assert cbor2.loads(rest[4 + length + 5 :]) == {"requestId": "3", "status": 0, "streams": []}
