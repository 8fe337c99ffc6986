"""The devices of one process: they connect in a ramp, keep beating, vanish and come back."""

import asyncio
import ssl
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Final

from fedgrass.swarm.devices.light_device import LightDevice, Tally
from fedgrass.swarm.devices.mqtt_link import MqttLink
from fedgrass.swarm.devices.signed_transfers import DeviceCredentials, Transfers
from fedgrass.swarm.swarm_errors import LinkError, SwarmOptionError, TransferError
from fedgrass.swarm.swarm_spec import CrowdSpec, Identity, RoundReplies, Sample

_RECONNECT_SECONDS: Final = 5.0  # after a connection that the broker or the network ended
_TICK: Final = 0.25  # of the check of the event loop
_CONNECT_TRIES: Final = 3
_CLOSED_AT_ONCE: Final = 50


class Member:
    """A light device with its connection and its credentials."""

    def __init__(self, identity: Identity, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._link: MqttLink | None = None
        self._credentials: DeviceCredentials | None = None
        self._tls = tls_context(identity, crowd.spec.address.root_ca)
        self._heartbeat: asyncio.TimerHandle | None = None
        self.ready = False
        self.device = LightDevice(
            identity,
            crowd.spec.address.fleet,
            crowd.spec.swarm,
            crowd.spec.habits,
            publish=self._publish,
            store=self,
            vanish=self._vanish,
            tally=crowd.tally,
        )

    @property
    def connected(self) -> bool:
        """Whether it has a session."""
        return self._link is not None

    async def connect(self) -> None:
        """Open a session, get credentials, and greet the cloud. Raises LinkError or TransferError."""
        address, thing = self._crowd.spec.address, self.device.identity.thing
        link = MqttLink(thing, self.device.receive, self._on_lost)
        await link.open(
            address.endpoint, address.port, self._tls, self.device.filters, self._crowd.spec.connect_seconds
        )
        self._link = link
        await self._keys()
        self.device.arrive()
        self._beat_later()
        self.ready = True

    async def put(self, bucket: str, key: str, body: bytes) -> None:
        """Upload an object. Raises TransferError."""
        await self._crowd.transfers.put(bucket, key, body, (await self._keys()).keys)

    async def get(self, bucket: str, key: str) -> bytes:
        """Download an object. Raises TransferError."""
        return await self._crowd.transfers.get(bucket, key, (await self._keys()).keys)

    async def close(self) -> None:
        """End the session in an orderly manner."""
        self._leave()
        link, self._link = self._link, None
        if link:
            await link.close()

    async def _keys(self) -> DeviceCredentials:
        if self._credentials is None or not self._credentials.usable:
            self._credentials = await self._crowd.transfers.credentials(self.device.identity.thing, self._tls)
        return self._credentials

    def _publish(self, topic: str, payload: bytes, qos: int) -> bool:
        return self._link is not None and self._link.publish(topic, payload, qos)

    def _beat_later(self) -> None:
        seconds = self._crowd.spec.habits.heartbeat_seconds
        self._heartbeat = asyncio.get_running_loop().call_later(seconds, self._beat)

    def _beat(self) -> None:
        self.device.beat()
        self._beat_later()

    def _leave(self) -> None:
        if self._heartbeat:
            self._heartbeat.cancel()
        self.device.forget()

    def _vanish(self) -> None:
        self._leave()
        link, self._link = self._link, None
        if link:
            link.cut()
        self._crowd.tally.vanished += 1
        if seconds := self._crowd.spec.habits.return_seconds:
            self._crowd.later(seconds, self, returns=True)

    def _on_lost(self) -> None:
        self._link = None
        if self._heartbeat:
            self._heartbeat.cancel()
        self._crowd.tally.lost += 1
        self._crowd.later(_RECONNECT_SECONDS, self, returns=False)


class Crowd:
    """The devices of one process.

    Args:
        spec: who they are, where their cloud is, and how they behave.
        transfers: the HTTP client.
    """

    def __init__(self, spec: CrowdSpec, transfers: Transfers) -> None:
        self.spec, self.transfers, self.tally = spec, transfers, Tally()
        self._members: list[Member] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._lag = 0.0

    async def gather(self) -> None:
        """Connect all devices, ``ramp`` per second.

        Raises:
            LinkError, TransferError: the cloud refused a device, also when it tried again.
        """
        started = time.monotonic()
        self._start(self._watch_the_loop())
        connecting: list[asyncio.Future[None]] = []
        for number, identity in enumerate(self.spec.devices):
            await asyncio.sleep(max(0.0, started + number / self.spec.ramp - time.monotonic()))
            failed = next((task for task in connecting if task.done() and task.exception()), None)
            if failed:
                break
            member = Member(identity, self)
            self._members.append(member)
            connecting.append(asyncio.ensure_future(self._connect(member)))
        try:
            await asyncio.gather(*connecting)
        finally:
            for task in connecting:
                task.cancel()

    def later(self, seconds: float, member: Member, *, returns: bool) -> None:
        """Connect a device again after some seconds."""
        self._start(self._again(seconds, member, returns=returns))

    async def close(self) -> None:
        """Close all sessions, some at a time."""
        for task in list(self._tasks):
            task.cancel()
        for first in range(0, len(self._members), _CLOSED_AT_ONCE):
            some = self._members[first : first + _CLOSED_AT_ONCE]
            await asyncio.gather(*(member.close() for member in some), return_exceptions=True)

    def sample(self) -> Sample:
        """Return what the devices did so far."""
        lag, self._lag = self._lag, 0.0
        tally = self.tally
        counted = {name: getattr(tally, name) for name in Sample.__struct_fields__ if hasattr(tally, name)}
        return Sample(
            at=time.time(),
            ready=sum(member.ready for member in self._members),
            connected=sum(member.connected for member in self._members),
            lag=lag,
            **counted,
        )

    def replies(self) -> Iterator[RoundReplies]:
        """Yield what the devices know of each attempt at a round."""
        for name, reply in self.tally.replies.items():
            yield RoundReplies(
                round_id=name,
                devices=sorted(reply.devices),
                sent=reply.sent,
                counted=len(reply.counted),
                refused=len(reply.refused),
            )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, member: Member) -> None:
        for attempt in range(1, _CONNECT_TRIES + 1):
            try:
                await member.connect()
            except (LinkError, TransferError) as error:
                self.tally.error = str(error)
                if attempt == _CONNECT_TRIES:
                    raise
                await asyncio.sleep(attempt)
            else:
                return

    async def _again(self, seconds: float, member: Member, *, returns: bool) -> None:
        await asyncio.sleep(seconds)
        try:
            await self._connect(member)
        except (LinkError, TransferError) as error:
            self.tally.error = f"it does not come back: {error}"
        else:
            self.tally.returned += returns

    async def _watch_the_loop(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TICK)
            self._lag = max(self._lag, time.monotonic() - before - _TICK)


def tls_context(identity: Identity, root_ca: str) -> ssl.SSLContext:
    """Return the TLS context of a device. Raises SwarmOptionError if a file cannot be used."""
    try:
        context = partial_context(root_ca)
        context.load_cert_chain(identity.certificate, identity.private_key)
    except OSError as error:  # includes ssl.SSLError
        message = (
            f"the certificate {identity.certificate} of {identity.thing} with its key {identity.private_key}"
            f" cannot be used: {error}; provision it again"
        )
        raise SwarmOptionError(message) from error
    return context


def partial_context(root_ca: str) -> ssl.SSLContext:
    """Return a TLS context without a certificate of a client."""
    if not root_ca:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As text, which is read once; a file would be read for each of thousands of contexts.
    context.load_verify_locations(cadata=Path(root_ca).read_text(encoding="ascii"))
    return context
