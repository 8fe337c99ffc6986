"""Virtual devices that answer a ServerApp's messages, before the cloud functions over ports in memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import xxhash

from cloud_functions.initiator import _perform
from fedgrass.federation import object_keys
from fedgrass.federation.messages import MessageHeader
from fedgrass.federation.rounds import Round
from fedgrass.federation.runs import Run
from fedgrass.federation.statistics.statistics_answer import to_text
from fedgrass.federation.task_messages.round_messages import MessageGroup, RoundMessages, encode_messages
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import sha256
from tests.fakes.small_fleet import RUN, SmallFleet


class MessageFleet(SmallFleet):
    """A fleet with a run whose rounds a ServerApp opens, which is the test."""

    def __init__(self, devices: int = 3, **settings: Any) -> None:
        super().__init__(devices=devices, rounds=5, evaluate_last=True, mode="server_app", **settings)
        self.tasks = self.settings.task
        self.heartbeats()

    def request(self, action: str, **event: object) -> dict[str, Any]:
        """Invoke the initiator; return its response, which has ``refused`` if the action was refused."""
        return _perform(self.cloud, {"action": action, "run": RUN, **event})

    def outdate(self, device: str) -> None:
        """Make the trainer component of a device one that does not know messages."""
        self.devices.heartbeat(device, self.now, self.tasks, version="0.3.0")
        found = self.devices.seen[device]
        self.devices.seen[device] = msgspec.structs.replace(found, works=frozenset())

    def put(self, number: int, groups: Sequence[MessageGroup]) -> str:
        """Put the list of a round's messages into the bucket; return its SHA-256."""
        data = encode_messages(RoundMessages(groups=tuple(groups)))
        self.bucket.write_once(object_keys.messages(RUN, number), data)
        return sha256(data)

    def push(self, devices: Sequence[str] | None = None, *, number: int = 0, **fields: Any) -> dict[str, Any]:
        """Send one message to devices, as a Grid does; return the initiator's response."""
        number = number or self.run().round + 1
        listed = self.put(number, [message_to(devices or self.names, **fields)])
        return self.request("send", number=number, sha256=listed)

    def sent(self, number: int) -> Round:
        found = self.rounds.round(RUN, number, 1)
        assert found is not None
        return found

    def answers(self, device: str, number: int = 0, data: bytes = b"reply", **changes: object) -> bool:
        """Send a device's reply to a round, inline in its completion."""
        return self.say(device, Kind.COMPLETE, self.answer_of(device, number, data, **changes))

    def answer_of(self, device: str, number: int = 0, data: bytes = b"reply", **changes: object) -> bytes:
        """Return the completion with a device's reply to a round, by default the newest."""
        of = self.sent(number or self.run().round)
        fields: Mapping[str, Any] = {
            "bytes": 0,
            "checksum": xxhash.xxh3_128_hexdigest(data),
            "answer": to_text(data),
            "metrics": {},
            "train_metrics": {"train_loss": 0.5},
            **changes,
        }
        return self.completion(of, data, device, **fields)

    def all_answer(self, number: int = 0) -> None:
        for device in self.names:
            self.answers(device, number)


def message_to(
    devices: Sequence[str], *, kind: str = "train", group: str = "", ttl: float = 3600.0, content: str = "a"
) -> MessageGroup:
    """Return a message to some devices; ``content`` is the hexadecimal digit that fills its SHA-256."""
    return MessageGroup(
        header=MessageHeader(type=kind, group=group, ttl=ttl, created_at=1_700_000_000.0),
        sha256=content * 64,
        bytes=2_000,
        holds=50_000,
        devices=tuple(devices),
    )


def started(devices: int = 3, **settings: Any) -> MessageFleet:
    """Return a fleet whose run waits for its ServerApp."""
    fleet = MessageFleet(devices=devices, **settings)
    run: Run = fleet.start()
    assert run.round == 0
    return fleet
