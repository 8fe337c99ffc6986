"""The patches of MiniStack in the embedded cloud."""

import asyncio
import json
import socket
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.local.aws.ministack_patches import copied_json, group_of, once_reading


@pytest.mark.parametrize(
    ("body", "query", "group"),
    [
        (b'{"GroupName": "deadlines"}', {}, "deadlines"),
        (b"", {"groupName": ["deadlines"]}, "deadlines"),
        (b"", {"groupName": "deadlines"}, "deadlines"),
        # The body takes precedence over the query: otherwise one group would be checked and another created.
        (b'{"GroupName": "theirs"}', {"groupName": ["mine"]}, "theirs"),
        (b"{}", {}, "default"),
        (b"", {"groupName": []}, "default"),
        (b"[]", {}, "default"),
        (b'{"GroupName": 7}', {}, "default"),
        (b"\xff", {}, "default"),
    ],
)
def test_the_group_of_a_schedule_is_what_the_service_takes_it_from(
    body: bytes, query: dict[str, object], group: str
) -> None:
    assert group_of(body, query) == group


@given(
    st.binary(max_size=40)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_any_body_has_a_group(body: bytes) -> None:
    assert group_of(body, {})


class _Acceptor(asyncio.Protocol):
    """Pauses a new connection immediately, like MiniStack before it starts TLS."""

    def __init__(self) -> None:
        self.received = b""
        self.readable = asyncio.Event()
        self.transport: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def accept(self, transport: asyncio.Transport) -> None:
        transport.pause_reading()
        self.transport.set_result(transport)

    connection_made = once_reading(accept)  # type: ignore[assignment]  # any protocol's

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.readable.set()


def test_a_paused_connection_reads_nothing_on_a_python_that_arms_its_reader_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def arm(transport: Any, descriptor: int, read: Any) -> None:  # as CPython before 3.11.5
        transport._loop._add_reader(descriptor, read)

    monkeypatch.setattr("asyncio.selector_events._SelectorTransport._add_reader", arm)

    async def scenario() -> None:
        accepted: asyncio.Queue[_Acceptor] = asyncio.Queue()

        def accept() -> _Acceptor:
            acceptor = _Acceptor()
            accepted.put_nowait(acceptor)
            return acceptor

        server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
        # The data arrive before the server accepts the connection, because the loop has not run since.
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.sendall(b"ClientHello")
            acceptor = await accepted.get()
            transport = await acceptor.transport
            for _ in range(20):
                await asyncio.sleep(0)
            assert acceptor.received == b""
            transport.resume_reading()
            await acceptor.readable.wait()
            assert acceptor.received == b"ClientHello"
            transport.abort()
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=2) | st.decimals(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_a_copied_row_is_equal_and_shares_no_container(value: Any) -> None:
    copied = copied_json(value)
    assert repr(copied) == repr(value)  # nan differs from itself
    assert not _containers(copied) & _containers(value)


def test_other_values_are_copied_as_before() -> None:
    rows = defaultdict(dict, {"a": {"b": [1]}})
    copied = copied_json(rows)
    copied["a"]["b"].append(2)
    assert rows == {"a": {"b": [1]}}
    assert copied["new"] == {}


def _containers(value: Any) -> set[int]:
    if not isinstance(value, list | dict):
        return set()
    parts = value if isinstance(value, list) else value.values()
    return {id(value)}.union(*map(_containers, parts))
