"""A light device: what a trainer publishes and uploads, without a process, a disk or PyTorch.

    announcement  accept; work for a while; upload the prepared update; complete
    completion    repeated with back-off until its verdict arrives or its deadline passes
    vanished      drop the connection silently, and with it the work and the memory of it
    connected     hello (the cloud repeats open announcements), then heartbeats

Compare components/trainer/session/device_session.py, whose decisions these are.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Literal, Protocol, TypeVar

from msgspec import UNSET

from components.runtime.retries import delays
from fedgrass.federation import object_keys
from fedgrass.federation.errors import MessageError
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    Heartbeat,
    Hello,
    Status,
    Verdict,
    decode_announce,
    encode,
    message_types,
    round_id,
)
from fedgrass.federation.topics import Kind, of_device
from fedgrass.federation.weights import sha256
from fedgrass.swarm.devices.prepared_updates import prepared_update
from fedgrass.swarm.swarm_errors import TransferError
from fedgrass.swarm.swarm_spec import TASK, Habits, Identity

Result = TypeVar("Result")
VERSION: Final = "swarm"
_FIRST_REPLY_DELAY: Final = 30.0  # seconds at most before a completion is repeated, as a trainer does
_LARGEST_REPLY_DELAY: Final = 480.0
_UPLOAD_TRIES: Final = 5
_UPLOAD_DELAY: Final = 2.0  # seconds at most before the second try
_LARGEST_UPLOAD_DELAY: Final = 15.0


class Store(Protocol):
    """S3, with the device's own credentials."""

    async def put(self, bucket: str, key: str, body: bytes) -> None:
        """Upload an object. Raises TransferError."""

    async def get(self, bucket: str, key: str) -> bytes:
        """Download an object. Raises TransferError."""


class Tally:
    """What the devices of a process have done; the fields of ``Sample`` have the same names."""

    def __init__(self) -> None:
        self.received = self.sent = self.uploads = self.upload_bytes = self.downloads = 0
        self.failed_transfers = self.lost = self.vanished = self.returned = self.repeated = 0
        self.error = ""
        self.replies: dict[str, ReplyTally] = {}

    def reply(self, name: str) -> "ReplyTally":
        """Return what is known of one attempt at a round."""
        return self.replies.setdefault(name, ReplyTally())


class ReplyTally:
    """The replies of a process's devices to one attempt at a round."""

    def __init__(self) -> None:
        self.devices: set[str] = set()  # that completed it
        self.sent = 0  # completions, with repeated ones
        self.counted: set[str] = set()
        self.refused: set[str] = set()


class LightDevice:
    """One device, which publishes by ``publish(topic, payload, qos)`` while it is connected.

    Args:
        identity: its thing.
        fleet: name of the fleet.
        swarm: name of the swarm, an attribute of its heartbeats.
        habits: how it behaves.
        publish: publishes a message; returns False without a connection.
        store: S3.
        vanish: drops the connection, and restores it later if the habits include it.
        tally: what is counted.
    """

    def __init__(  # noqa: PLR0913 - an identity, and the ports of a device
        self,
        identity: Identity,
        fleet: str,
        swarm: str,
        habits: Habits,
        *,
        publish: Callable[[str, bytes, int], bool],
        store: Store,
        vanish: Callable[[], None],
        tally: Tally,
    ) -> None:
        self.identity = identity
        self._swarm, self._habits = swarm, habits
        self._publish, self._store, self._vanish, self._tally = publish, store, vanish, tally
        self._topics = {kind: of_device(fleet, identity.thing, kind) for kind in Kind}
        self._started = time.monotonic()
        self._work: tuple[Announcement, asyncio.Task[None]] | None = None
        self._replies: dict[str, Completion] = {}  # of the run's last round
        self._settled: set[str] = set()
        self._repeating: dict[str, asyncio.TimerHandle] = {}
        self._doubles = False
        self._left = ""  # the attempt at a round in which it vanished: it does so once

    @property
    def filters(self) -> list[str]:
        """The topics that it subscribes to."""
        return [self._topics[Kind.ANNOUNCE], self._topics[Kind.HEARTBEAT]]

    def arrive(self) -> None:
        """Publish a hello and a heartbeat, after every connection."""
        self._send(Kind.HELLO, encode(Hello(component_version=VERSION)))
        self.beat()

    def beat(self) -> None:
        """Publish a heartbeat, with QoS 0."""
        heartbeat = Heartbeat(
            state="working" if self._work else "idle",
            tasks=TASK,
            examples=1,
            component_version=VERSION,
            uptime_seconds=round(time.monotonic() - self._started, 1),
            attributes={"swarm": self._swarm},
            speaks=message_types.spoken(),
            works=message_types.known_work(),
        )
        self._send(Kind.HEARTBEAT, encode(heartbeat), 0)

    def receive(self, topic: str, payload: bytes) -> None:
        """Act on a message of a subscription."""
        self._tally.received += 1
        if topic != self._topics[Kind.ANNOUNCE]:
            return  # the echo of a heartbeat
        try:
            message = decode_announce(payload)
        except MessageError as error:
            self._tally.error = f"{self.identity.thing}: {error}"
            return
        if isinstance(message, Verdict):
            self._on_verdict(message)
        elif isinstance(message, Announcement):
            self._on_announcement(message)

    def forget(self) -> None:
        """Drop the work in progress and all memory of replies, as a device that lost its disk."""
        for timer in self._repeating.values():
            timer.cancel()
        self._repeating.clear()
        self._replies.clear()
        if self._work:
            self._work[1].cancel()
            self._work = None

    def _on_verdict(self, verdict: Verdict) -> None:
        name = round_id(verdict.run, verdict.round, verdict.attempt)
        reply = self._tally.reply(name)
        (reply.counted if verdict.counted else reply.refused).add(self.identity.thing)
        self._settled.add(name)
        if timer := self._repeating.pop(name, None):
            timer.cancel()
        if self._work and round_id_of(self._work[0]) == name:
            self._work[1].cancel()
            self._work = None

    def _on_announcement(self, announcement: Announcement) -> None:
        name = round_id_of(announcement)
        if self._work and round_id_of(self._work[0]) == name:
            self._tally.repeated += 1
        elif completion := self._replies.get(name):
            self._tally.repeated += 1
            self._complete(name, completion)
        elif announcement.task != TASK or announcement.work not in {"train", "evaluate"}:
            self._status(announcement, "declined", f"a light device has the task {TASK} only")
        else:
            self.forget()
            self._work = (announcement, asyncio.ensure_future(self._carry_out(announcement, name)))

    async def _carry_out(self, announcement: Announcement, name: str) -> None:
        rng = random.Random(f"{self._habits.seed}/{self.identity.thing}/{name}")  # noqa: S311 - a simulation
        slow, vanishes, self._doubles = (
            rng.random() < share for share in (self._habits.slow, self._habits.vanish, self._habits.doubled)
        )
        seconds = self._habits.work_seconds * (self._habits.slow_factor if slow else 1.0)
        self._status(announcement, "accepted")
        if vanishes and name != self._left:
            self._left = name
            await asyncio.sleep(seconds * rng.random())
            self._work = None  # or it would cancel this task
            self._vanish()
            return
        try:
            download = await self._download(announcement)
            await asyncio.sleep(seconds)
            completion = await self._upload(announcement, name, seconds, download)
        except TransferError as error:
            self._tally.error = f"{self.identity.thing}: {error}"
            self._status(announcement, "failed", str(error)[:300])
            self._work = None
            return
        self._work = None
        self._replies = {name: completion}
        self._tally.reply(name).devices.add(self.identity.thing)
        self._begin(name, completion, announcement.deadline_seconds)

    async def _download(self, announcement: Announcement) -> float:
        """Download the model, if the habits include it; return the seconds."""
        if not self._habits.downloads:
            return 0.0
        started = time.monotonic()
        data = await self._retried(lambda: self._store.get(announcement.bucket, announcement.model_key))
        self._tally.downloads += 1
        if sha256(data) != announcement.model_sha256:
            message = f"{announcement.model_key} is not the model that was announced"
            raise TransferError(message)
        return time.monotonic() - started

    async def _upload(
        self, announcement: Announcement, name: str, seconds: float, download: float
    ) -> Completion:
        """Upload the update of a training, and return the completion."""
        habits, identity, started, data, checksum = (
            self._habits,
            self.identity,
            time.monotonic(),
            b"",
            "0" * 32,
        )
        if announcement.work == "train":
            data, checksum = prepared_update(habits.megabytes, habits.seed, announcement.round, identity.mark)
            key = object_keys.update(
                identity.thing, announcement.run, announcement.round, announcement.attempt
            )
            await self._retried(lambda: self._store.put(announcement.bucket, key, data))
            self._tally.uploads += 1
            self._tally.upload_bytes += len(data)
        return Completion(
            version=announcement.version,
            run=announcement.run,
            round=announcement.round,
            attempt=announcement.attempt,
            round_id=name,
            announced_at=announcement.announced_at,
            bytes=len(data),
            checksum=checksum,
            examples=1,
            download_seconds=download,
            train_seconds=seconds,
            upload_seconds=time.monotonic() - started,
            code=VERSION,
        )

    async def _retried(self, call: Callable[[], Awaitable[Result]]) -> Result:
        pauses = delays(_UPLOAD_DELAY, _LARGEST_UPLOAD_DELAY, random.Random())  # noqa: S311 - jitter
        for pause in itertools.islice(pauses, _UPLOAD_TRIES - 1):
            try:
                return await call()
            except TransferError as error:
                self._tally.failed_transfers += 1
                self._tally.error = f"{self.identity.thing}: {error}"
                await asyncio.sleep(pause)
        return await call()

    def _begin(self, name: str, completion: Completion, seconds: float) -> None:
        """Publish a completion, and again with back-off until its verdict arrives or ``seconds`` pass."""
        until = time.monotonic() + seconds
        pauses = delays(_FIRST_REPLY_DELAY, _LARGEST_REPLY_DELAY, random.Random())  # noqa: S311 - jitter
        self._repeat(name, completion, pauses, until)

    def _repeat(self, name: str, completion: Completion, pauses: Iterator[float], until: float) -> None:
        self._complete(name, completion)
        pause = next(pauses)
        if name not in self._settled and time.monotonic() + pause < until:
            loop = asyncio.get_running_loop()
            self._repeating[name] = loop.call_later(pause, self._repeat, name, completion, pauses, until)

    def _complete(self, name: str, completion: Completion) -> None:
        if self._send(Kind.COMPLETE, encode(completion)):
            self._tally.reply(name).sent += 2 if self._doubles else 1

    def _status(
        self,
        announcement: Announcement,
        state: Literal["accepted", "declined", "failed"],
        reason: str = "",
    ) -> None:
        name = round_id_of(announcement)
        message = Status(
            version=announcement.version,
            run=announcement.run,
            round=announcement.round,
            attempt=announcement.attempt,
            state=state,
            reason=reason,
            round_id=name if state in {"declined", "failed"} else UNSET,
        )
        self._send(Kind.STATUS, encode(message))

    def _send(self, kind: Kind, payload: bytes, qos: int = 1) -> bool:
        """Publish a message, twice if the device doubles what it sends."""
        for _ in range(2 if self._doubles else 1):
            if not self._publish(self._topics[kind], payload, qos):
                return False
            self._tally.sent += 1
        return True


def round_id_of(announcement: Announcement) -> str:
    """Return the id of the attempt at a round that an announcement is of."""
    return round_id(announcement.run, announcement.round, announcement.attempt)
