"""A fleet in memory whose devices answer a ServerApp's messages, before the real cloud functions."""

import base64
import io
import threading
from collections.abc import Callable, Sequence
from typing import Any

import xxhash

from fedgrass.console.task_messages.exchange_ports import Observer
from fedgrass.console.task_messages.message_exchange import MessageExchange
from fedgrass.federation import object_keys
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages import Announcement, MessageHeader
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import Participant, Participation, Round
from fedgrass.federation.runs import Run
from fedgrass.federation.task_messages.content_reader import read_content, read_data
from fedgrass.federation.task_messages.message_content import Record, carried, content_arrays
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import checksum, write
from tests.fakes.memory_cloud import Crash
from tests.fakes.message_fleet import MessageFleet
from tests.fakes.small_fleet import RUN, message_of

Content = tuple[Sequence[Record], Sequence[bytes]]
Work = Callable[[str, MessageHeader, Content], Content | str | None]
INLINE = 2048


class StreamedMemory:
    """The ``StreamedObjects`` over a bucket in memory; ``use`` is called before and after each write."""

    def __init__(self, bucket: Any, use: Callable[[str], None]) -> None:
        self._bucket = bucket
        self._use = use
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def write_pieces(self, key: str, pieces: Sequence[memoryview]) -> None:
        self._use("write")
        self.written.append(key)
        self._bucket.write(key, b"".join(pieces))
        self._use("written")

    def write_once(self, key: str, data: bytes) -> bytes:
        self._use("write list")
        found: bytes = self._bucket.write_once(key, data)
        self._use("written list")
        return found

    def write_pieces_over(self, key: str, pieces: Sequence[memoryview], version: str | None) -> str | None:
        self._use("write state")
        self.written.append(key)
        data = b"".join(pieces)
        done = self._bucket.write_over(key, data, version)
        self._use("written state")
        return checksum(data) if done else None

    def stream(self, key: str) -> tuple[int, Callable[[int], bytes], str]:
        self._use("read")
        data = self._bucket.read(key, 2**62)
        file = io.BytesIO(data)

        def read(count: int) -> bytes:
            found = file.read(count)
            if len(found) < count:
                message = f"object {key} ends {count - len(found):,} bytes too early"
                raise UpdateRefused(message)
            return found

        return len(data), read, checksum(data)


class FlowerFleet:
    """The operator's access to a fleet in memory, with a run ``RUN`` that waits for its ServerApp.

    Args:
        devices: number of devices.
        work: is called with thing name, header and content; returns the reply, the reason of a failure, or
            None if the device does not answer.
        settings: of the run.
    """

    def __init__(self, devices: int = 3, work: Work | None = None, **settings: Any) -> None:
        self.fleet = MessageFleet(devices=devices, **settings)
        self.fleet.start()
        self.work = work
        self.bucket = StreamedMemory(self.fleet.bucket, self.use)
        self.answered: list[tuple[str, int, str]] = []  # device, round, type
        self.asleep: set[str] = set()  # devices that do not work
        self.calls: list[str] = []
        self._crash_at = 0
        self._lock = threading.RLock()  # an app of Flower's former API has a thread per device
        self._reminders: list[tuple[float, Reminder]] = []  # with the time at which they are due
        self._seen: dict[str, int] = {}

    def exchange(self, observer: Observer | None = None) -> MessageExchange:  # also for ``drive``
        """Return an exchange in whose pauses the devices work."""
        return MessageExchange(self, RUN, observer, clock=self.clock, pause=self.pause)

    def clock(self) -> float:
        return self.fleet.now / 1000

    def pause(self, seconds: float) -> bool:
        """Let the devices work, and time pass."""
        with self._lock:
            self.devices_work()
            self.fleet.pass_time(max(seconds, 0.001))
            self.fleet.ring()
            self._remind()
        return False

    def _remind(self) -> None:
        """Deliver the reminders that are due by now."""
        new, self.fleet.alarms.reminders = self.fleet.alarms.reminders, []
        self._reminders += [(self.fleet.now + seconds * 1000, reminder) for reminder, seconds in new]
        due = [reminder for at, reminder in self._reminders if at <= self.fleet.now]
        self._reminders = [(at, reminder) for at, reminder in self._reminders if at > self.fleet.now]
        for reminder in due:
            self.fleet.deliver(message_of(reminder))

    def devices_work(self) -> None:
        """Let every device that is awake answer its new announcements."""
        for device in self.fleet.names:
            new = self.fleet.announced(device)[self._seen.get(device, 0) :]
            if device in self.asleep:
                continue
            self._seen[device] = self._seen.get(device, 0) + len(new)
            for announcement in new:
                self._answer(device, announcement)

    def _answer(self, device: str, announcement: Announcement) -> None:
        of = self.fleet.sent(announcement.round)
        self.fleet.status(device, "accepted", of)
        assert isinstance(announcement.message, MessageHeader)
        assert self.work is not None
        done = self.work(device, announcement.message, self.content(announcement))
        if done is None:
            return
        self.answered.append((device, announcement.round, announcement.message.type))
        if isinstance(done, str):
            self.fleet.status(device, "declined" if done.startswith("busy") else "failed", of, done)
        else:
            self.reply_with(device, of, file_of(*done))

    def content(self, announcement: Announcement) -> Content:
        """Read the content of a message as a device does."""
        data = self.fleet.bucket.objects[announcement.model_key]
        records, small = read_content(io.BytesIO(data).read, len(data))
        source, found = iter(small), list[bytes]()
        for record in records:
            if record.file:
                file = self.fleet.bucket.objects[object_keys.content(RUN, record.file.sha256)]
                found += read_data(io.BytesIO(file).read, len(file))
            else:
                found += [next(source) for _ in carried([record])]
        return records, found

    def reply_with(self, device: str, of: Round, file: bytes, **changes: object) -> bool:
        """Send a reply, inline if it is small."""
        fields: dict[str, object] = {"metrics": {}, "train_metrics": {"train_loss": 0.5}}
        if len(file) <= INLINE:
            digest, text = xxhash.xxh3_128_hexdigest(file), base64.b64encode(file).decode()
            fields |= {"bytes": 0, "checksum": digest, "answer": text}
        else:
            self.fleet.upload(device, of, file)
        return self.fleet.say(
            device, Kind.COMPLETE, self.fleet.completion(of, file, device, **{**fields, **changes})
        )

    def crash_at(self, call: int) -> None:
        """Let the ServerApp's process die at its ``call``-th use of the fleet, before or after it."""
        self._crash_at = len(self.calls) + call

    def use(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) == self._crash_at:
            raise Crash

    # The operator's access

    def run(self, name: str) -> Run:
        assert name == RUN
        return self.fleet.run()

    def message_devices(self, name: str) -> list[str]:  # noqa: ARG002 - there is one run
        self.use("devices")
        return list(self._ask("devices")["devices"])

    def send_messages(self, name: str, number: int, list_sha256: str) -> None:  # noqa: ARG002 - as above
        self.use("send")
        self._ask("send", number=number, sha256=list_sha256)
        self.use("sent")

    def finish(self, name: str, failed: str = "") -> None:  # noqa: ARG002 - as above
        self._ask("finish", **({"failed": failed} if failed else {}))

    def _ask(self, action: str, **event: object) -> dict[str, Any]:
        with self._lock:
            result = self.fleet.request(action, **event)
        if "refused" in result:
            raise SettingsError(result["refused"])
        return result

    def round(self, name: str, number: int, attempt: int = 1) -> Round | None:
        self.use("round")
        return self.fleet.rounds.round(name, number, attempt)

    def participants(self, round_: Round) -> Sequence[Participant]:
        self.use("participants")
        return list(self.fleet.rounds.participants(round_))

    def states(self, number: int) -> dict[str, Participation]:
        return self.fleet.parts(self.fleet.sent(number))


def file_of(records: Sequence[Record], data: Sequence[bytes]) -> bytes:
    """Return the file of a reply."""
    target = io.BytesIO()
    write(content_arrays(records, data), target)
    return target.getvalue()
