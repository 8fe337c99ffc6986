"""A core's connection to IoT Core, over TLS to the embedded cloud's broker: lost links, sessions, limits."""

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from greengrass_emulator.emulator_errors import IotConnectionError
from greengrass_emulator.iot.iot_bridge import IotBridge
from greengrass_emulator.iot.iot_connection import IotEndpoint, IotMessage
from greengrass_emulator.iot.paho_connection import PahoConnection
from greengrass_emulator.ipc.ipc_model import ServiceError
from tests.emulator.local_core import eventually

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

SECONDS = 20
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": "arn:aws:iot:*:*:topic/room/*",
        },
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:*:*:topicfilter/room/*"},
    ],
}
LOG = logging.getLogger("test")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCloud]:
    with EmbeddedCloud(tmp_path_factory.mktemp("cloud")) as running:
        iot: IoTClient = running.client("iot")
        iot.create_policy(policyName="room", policyDocument=json.dumps(POLICY))
        yield running


class Link:
    """A bridge over a real connection, as in a core."""

    def __init__(self, endpoint: IotEndpoint, profile: Profile) -> None:
        self.connection = PahoConnection(
            endpoint, LOG, in_flight_messages=profile.in_flight_messages, keeps_session=profile.spools_offline
        )
        self.bridge = IotBridge(self.connection, profile, LOG)
        self.got: asyncio.Queue[IotMessage] = asyncio.Queue()

    async def listen(self, topic_filter: str = "room/#") -> None:
        await self.bridge.subscribe(topic_filter, 1, self.got.put_nowait)

    def say(self, payload: bytes, topic: str = "room/a") -> None:
        self.bridge.publish(IotMessage(topic, payload, 1))

    async def hear(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return (await self.got.get()).payload


def endpoint(cloud: EmbeddedCloud, name: str, folder: Path) -> IotEndpoint:
    thing = cloud.create_thing(name, folder / name, "room")
    return IotEndpoint(
        cloud.iot_endpoint, cloud.mqtt_port, name, thing.certificate, thing.private_key, cloud.root_ca
    )


def talk(*links: Link, about: Callable[..., Awaitable[None]]) -> None:
    async def conversation() -> None:
        try:
            for link in links:
                await link.connection.start(link.bridge.dispatch, SECONDS)
            await about(*links)
        finally:
            for link in links:
                await link.connection.stop()

    asyncio.run(conversation())


def test_messages_are_delivered_in_both_directions_in_order_and_quickly(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    async def about(one: Link, other: Link) -> None:
        await other.listen()
        started = time.perf_counter()
        for number in range(100):
            one.say(b"%d" % number)
            assert await other.hear() == b"%d" % number
        # A polling loop anywhere would add tens of milliseconds for each.
        assert (time.perf_counter() - started) / 100 < 0.03

    talk(
        Link(endpoint(cloud, "one", tmp_path), LITE),
        Link(endpoint(cloud, "other", tmp_path), CLASSIC),
        about=about,
    )


def test_after_an_unsubscription_no_message_arrives(cloud: EmbeddedCloud, tmp_path: Path) -> None:
    async def about(link: Link) -> None:
        subscription = await link.bridge.subscribe("room/a", 1, link.got.put_nowait)
        await link.bridge.unsubscribe(subscription)
        await link.listen("room/b")
        link.say(b"to nobody", "room/a")
        link.say(b"to b", "room/b")
        assert await link.hear() == b"to b"

    talk(Link(endpoint(cloud, "leaver", tmp_path), CLASSIC), about=about)


@pytest.mark.parametrize(("profile", "heard"), [(LITE, [b"after"]), (CLASSIC, [b"meanwhile", b"after"])])
def test_a_lost_link_comes_back_with_its_subscriptions_and_only_classic_with_what_was_missed(
    cloud: EmbeddedCloud, tmp_path: Path, profile: Profile, heard: list[bytes]
) -> None:
    async def about(link: Link, other: Link) -> None:
        await link.listen()
        await other.listen()
        await link.connection.cut()
        other.say(b"meanwhile")
        assert await other.hear() == b"meanwhile"  # the broker has processed it before the link is restored
        await link.connection.restore()
        await asyncio.to_thread(eventually, lambda: link.connection.connected)
        # Connected does not mean subscribed: this subscription follows all earlier ones.
        await link.listen("room/now")
        other.say(b"after")
        assert [await link.hear() for _ in heard] == heard

    talk(
        Link(endpoint(cloud, f"lost-{profile.name}", tmp_path), profile),
        Link(endpoint(cloud, f"speaker-{profile.name}", tmp_path), CLASSIC),
        about=about,
    )


def test_a_link_can_be_cut_and_restored_at_any_moment_and_cuts_no_other(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    async def about(link: Link, other: Link) -> None:
        await other.listen()
        for number in range(10):
            link.bridge.publish(IotMessage("room/a", b"%d" % number, 1))
            await asyncio.gather(link.connection.cut(), link.connection.cut())
            assert not link.connection.connected
            await link.connection.restore()
            assert other.connection.connected
        heard = {await other.hear()}
        while b"9" not in heard:
            heard.add(await other.hear())

    talk(
        Link(endpoint(cloud, "torn", tmp_path), CLASSIC),
        Link(endpoint(cloud, "whole", tmp_path), CLASSIC),
        about=about,
    )


def test_classic_delivers_what_it_spooled_while_the_link_was_cut(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    async def about(link: Link, other: Link) -> None:
        await other.listen()
        await link.connection.cut()
        for number in range(20):
            link.say(b"%d" % number)
        await link.connection.restore()
        assert [await other.hear() for _ in range(20)] == [b"%d" % number for number in range(20)]

    talk(
        Link(endpoint(cloud, "spooler", tmp_path), CLASSIC),
        Link(endpoint(cloud, "reader", tmp_path), CLASSIC),
        about=about,
    )


def test_lite_refuses_to_publish_while_the_link_is_cut(cloud: EmbeddedCloud, tmp_path: Path) -> None:
    async def about(link: Link) -> None:
        await link.connection.cut()
        with pytest.raises(ServiceError, match="no connection to IoT Core"):
            link.say(b"x")

    talk(Link(endpoint(cloud, "cut", tmp_path), LITE), about=about)


@pytest.mark.parametrize("profile", [LITE, CLASSIC], ids=lambda profile: str(profile.name))
def test_a_message_that_the_iot_policy_forbids_is_accepted_and_affects_no_other(
    cloud: EmbeddedCloud, tmp_path: Path, profile: Profile
) -> None:
    async def about(link: Link) -> None:
        await link.listen()
        link.say(b"to nobody", "hall/a")
        await asyncio.to_thread(eventually, lambda: link.connection.connected)
        link.say(b"allowed")
        assert await link.hear() == b"allowed"

    talk(Link(endpoint(cloud, f"bold-{profile.name}", tmp_path), profile), about=about)


def test_more_messages_than_may_be_in_flight_are_all_acknowledged(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    async def about(link: Link) -> None:
        await link.listen()
        said = 0
        while said < 40:
            try:
                link.say(b"%d" % said)
                said += 1
            except ServiceError:
                await asyncio.sleep(0.001)
        assert [await link.hear() for _ in range(40)] == [b"%d" % number for number in range(40)]

    talk(Link(endpoint(cloud, "busy", tmp_path), LITE), about=about)


def test_a_server_that_the_root_certificate_has_not_signed_is_refused(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    honest = endpoint(cloud, "careful", tmp_path)
    other_root = dataclasses.replace(honest, root_ca=honest.certificate)

    with pytest.raises(IotConnectionError, match="certificate"):
        talk(Link(other_root, LITE), about=lambda _: pytest.fail("it connected"))


def test_a_missing_certificate_file_is_refused_at_once(cloud: EmbeddedCloud, tmp_path: Path) -> None:
    lost = dataclasses.replace(endpoint(cloud, "lost", tmp_path), certificate=tmp_path / "absent.pem")

    with pytest.raises(IotConnectionError, match=r"as lost: .*No such file"):
        talk(Link(lost, LITE), about=lambda _: pytest.fail("it connected"))
