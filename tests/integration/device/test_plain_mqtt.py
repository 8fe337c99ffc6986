"""A device without Greengrass: over TLS to the real broker, in S3 by its certificate's credentials."""

import asyncio
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.runtime.component_errors import Forbidden, Unavailable
from components.trainer.connection.device_file import read_device_file
from components.trainer.connection.iot_credentials import RENEW_BEFORE
from components.trainer.connection.mqtt_connection import MqttConnection
from fedgrass.federation import object_keys, weights
from fedgrass.federation.messages import (
    Announcement,
    Completion,
    Heartbeat,
    LogRequest,
    Status,
    Verdict,
    decode,
    encode,
)
from fedgrass.federation.messages.device_log import decode_log
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud, ThingCertificate
from fedgrass.local.aws.thing_credentials import CredentialsProvider
from tests.cloud_credentials import temporary_credentials
from tests.emulator.local_core import eventually
from tests.integration.device.noise_work import MODEL, MODEL_KEY, announced
from tests.mqtt_device import PATIENCE, Operator, Trainer, write_device_file

FLEET = "plant"
THING = "press-1"
BUCKET = "plain-mqtt"
ALIAS = "fedgrass-plant"
TRAINER = {"fleet": FLEET, "heartbeat_seconds": 1, "tasks": {"noise": {"megabytes": 0.1}}}
POLICY = """{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}
]}"""
SCRIPT = Path(__file__).parents[3] / "components" / "trainer" / "connection" / "iot_credentials.py"


@dataclass
class Provider:
    """The credentials provider's stand-in in a thread, with what it gives to a thing."""

    server: CredentialsProvider
    credentials: dict[str, str]
    asked: int = 0
    lifetime: timedelta = timedelta(hours=1)
    failures: int = 0
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def give(self) -> dict[str, str]:
        self.asked += 1
        if self.asked <= self.failures:
            message = "STS is not well"
            raise RuntimeError(message)
        expiration = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {**self.credentials, "Expiration": expiration}

    def run(self, call: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(30)


@dataclass
class Place:
    """Everything that a device needs around it."""

    cloud: EmbeddedCloud
    provider: Provider
    operator: Operator
    folder: Path
    certificate: ThingCertificate
    stack: ExitStack

    def connection(self, **changes: Any) -> dict[str, Any]:
        return {
            "thing": THING,
            "endpoint": self.cloud.iot_endpoint,
            "port": self.cloud.mqtt_port,
            "certificate": str(self.certificate.certificate),
            "private_key": str(self.certificate.private_key),
            "root_ca": str(self.folder / "roots.pem"),
            "credentials_endpoint": self.provider.server.endpoint,
            "role_alias": ALIAS,
            "region": self.cloud.region,
            "work_folder": "work",
            **changes,
        }

    def write(self, trainer: dict[str, Any] | None = None, **changes: Any) -> Path:
        return write_device_file(self.folder, self.connection(**changes), trainer or TRAINER)

    def start(self, file: Path | None = None, **environment: str) -> Trainer:
        started = Trainer(file or self.write(), {"AWS_ENDPOINT_URL": self.cloud.endpoint_url, **environment})
        self.stack.callback(started.close)
        return started

    def said(self, kind: str, how: Callable[[bytes], Any]) -> list[Any]:
        return [how(payload) for payload in self.operator.said(f"clients/{THING}/{kind}")]

    def waits_for(self, kind: str, count: int = 1) -> bytes:
        topic = f"clients/{THING}/{kind}"
        eventually(lambda: len(self.operator.said(topic)) >= count, PATIENCE)
        return self.operator.said(topic)[count - 1]

    def tells(self, message: Any) -> None:
        self.operator.says(f"clients/{THING}/announce", encode(message))


@pytest.fixture
def place(tmp_path: Path, embedded_cloud: EmbeddedCloud) -> Iterator[Place]:
    cloud = embedded_cloud
    iot = cloud.client("iot")
    if "plain" not in [policy["policyName"] for policy in iot.list_policies()["policies"]]:
        iot.create_policy(policyName="plain", policyDocument=POLICY)
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=MODEL_KEY, Body=MODEL)
    with ExitStack() as stack:
        log = logging.getLogger("test")
        server = CredentialsProvider(ALIAS, cloud.root_ca, tmp_path / "provider", log)
        provider = Provider(server, temporary_credentials(cloud))
        thread = threading.Thread(target=provider.loop.run_forever, daemon=True)
        thread.start()
        stack.callback(thread.join, 10)
        stack.callback(provider.loop.call_soon_threadsafe, provider.loop.stop)
        provider.run(provider.server.start())
        stack.callback(lambda: provider.run(provider.server.stop()))
        certificate = cloud.create_thing(THING, tmp_path / "certificates", "plain")
        provider.server.register(THING, certificate.certificate, provider.give)
        roots = cloud.root_ca.read_bytes() + provider.server.certificate.read_bytes()
        (tmp_path / "roots.pem").write_bytes(roots)
        operator = Operator(cloud, FLEET)
        stack.callback(operator.close)
        yield Place(cloud, provider, operator, tmp_path, certificate, stack)


def work(number: int = 1, **other: Any) -> Announcement:
    return announced(BUCKET, number, **other)


def ended(pid: int) -> bool:
    """Whether no process has ``pid`` for its parent."""
    done = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, check=False)
    return not done.stdout.strip()


# ---------------------------------------------------------------- the trainer


def test_a_device_without_greengrass_trains_and_uploads_by_its_certificate_alone(place: Place) -> None:
    trainer = place.start(AWS_ACCESS_KEY_ID="static", AWS_SECRET_ACCESS_KEY="static")  # noqa: S106
    place.waits_for("hello")
    assert decode(place.waits_for("heartbeat"), Heartbeat).tasks == "noise"
    place.tells(work())
    completion = decode(place.waits_for("complete"), Completion)
    found = place.cloud.client("s3").get_object(Bucket=BUCKET, Key=f"updates/{THING}/run-a/1-1.safetensors")
    update = weights.decode(found["Body"].read())
    change = np.asarray(update["bias"]) - np.asarray(weights.decode(MODEL)["bias"])
    np.testing.assert_allclose(change, completion.train_metrics["change"], atol=1e-6)
    place.tells(Verdict(run="run-a", round=1, attempt=1, counted=True))
    eventually(lambda: "run-a/1/1: the cloud counted the reply" in trainer.log, PATIENCE)
    # One of the two processes may have found what the other had kept.
    assert 1 <= place.provider.asked <= 2
    trainer.signal(signal.SIGTERM)
    assert trainer.wait() == 0
    assert ended(trainer.pid)
    assert "Traceback" not in trainer.log
    kept = place.folder / "work" / "credentials.json"
    assert kept.stat().st_mode & 0o077 == 0


def test_a_killed_trainer_goes_on_where_it_was(place: Place) -> None:
    first = place.start()
    place.waits_for("hello")
    place.tells(work())
    place.waits_for("complete")
    first.signal(signal.SIGKILL)
    first.wait()
    place.start()
    place.waits_for("hello", 2)
    # No verdict came: the reply is published again, and nothing is trained again.
    again = decode(place.waits_for("complete", 2), Completion)
    assert again == decode(place.waits_for("complete"), Completion)
    states = place.said("status", lambda payload: decode(payload, Status).state)
    assert [state for state in states if state != "progress"] == [
        "accepted"
    ]  # a slow machine reports more progress
    # The lines of both processes are uploaded on request, by the certificate's credentials alone.
    request = LogRequest(id="f" * 32, bucket=BUCKET, expires_at=round(time.time() * 1000) + 60_000)
    place.tells(request)
    lines = logged(place, request)
    assert sum("in fleet plant as press-1" in line for line in lines) == 2
    accepted = [line for line in lines if line.endswith("trainer INFO run-a/1/1: accepted: train noise")]
    assert len(accepted) == 1


def logged(place: Place, request: LogRequest) -> list[str]:
    """Return the log lines that the device uploads for a request."""
    key = object_keys.device_log(THING, request.id)
    s3 = place.cloud.client("s3")

    def arrived() -> bool:
        return bool(s3.list_objects_v2(Bucket=BUCKET, Prefix=key).get("Contents"))

    eventually(arrived, PATIENCE)
    return decode_log(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(), THING, request.id)[1]


def test_a_changed_file_is_taken_up_at_a_reload(place: Place) -> None:
    trainer = place.start()
    place.waits_for("heartbeat")
    place.write({**TRAINER, "tasks": {"noise": {}, "digits": {}}})
    trainer.signal(signal.SIGHUP)
    eventually(lambda: "took up a changed configuration" in trainer.log, PATIENCE)

    def tasks() -> set[str]:
        return {beat.tasks for beat in place.said("heartbeat", lambda said: decode(said, Heartbeat))}

    eventually(lambda: "digits,noise" in tasks(), PATIENCE)


def test_a_file_that_was_spoilt_changes_nothing_at_a_reload(place: Place) -> None:
    trainer = place.start()
    place.waits_for("heartbeat")
    place.write({**TRAINER, "heartbeat_seconds": "often"})
    trainer.signal(signal.SIGHUP)
    eventually(lambda: "the configuration stays as it was" in trainer.log, PATIENCE)
    place.waits_for("heartbeat", len(place.operator.said(f"clients/{THING}/heartbeat")) + 2)
    assert "Traceback" not in trainer.log


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certificate": "/nowhere.pem"}, "certificate /nowhere.pem cannot be read"),
        ({"thing": "a b"}, "thing is 'a b'"),
        ({"work_folder": "/proc/nothing"}, "work_folder /proc/nothing cannot be used"),
    ],
)
def test_a_mistake_in_the_file_ends_the_trainer_with_one_line(
    place: Place, changes: dict[str, Any], words: str
) -> None:
    trainer = place.start(place.write(**changes))
    assert trainer.wait() == 78
    assert words in trainer.log
    assert "Traceback" not in trainer.log
    assert trainer.log.count("\n") == 1


def test_systemd_is_told_once_the_device_is_in_its_fleet(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(PATIENCE)
        systemd.bind("\0fedgrass-test-" + place.folder.name)
        place.start(NOTIFY_SOCKET="@fedgrass-test-" + place.folder.name)
        assert systemd.recv(100) == b"READY=1"
        assert "hello" in place.waits_for("hello").decode() or place.operator.said(f"clients/{THING}/hello")


def test_a_cloud_that_is_not_there_is_told_and_waited_for(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    trainer = place.start(place.write(port=port))
    eventually(lambda: "no connection to localhost" in trainer.log, PATIENCE)
    trainer.signal(signal.SIGTERM)
    assert trainer.wait() == 0
    assert "Connection refused" in trainer.log
    assert "Traceback" not in trainer.log


# ---------------------------------------------------------------- the connection


@dataclass
class Link:
    """The adapter's connection, with the messages and the losses that it reported."""

    adapter: MqttConnection
    heard: list[bytes] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def subscribe(self, topic: str) -> None:
        eventually(lambda: self._subscribed(topic), PATIENCE)

    def _subscribed(self, topic: str) -> bool:
        try:
            self.adapter.subscribe(topic, self.heard.append, 1)
        except Unavailable:
            return False
        return True

    def cut(self) -> None:
        """Break the link silently, as a lost network does."""
        transport = self.adapter._client.socket()
        assert transport is not None
        with socket.socket(fileno=os.dup(transport.fileno())) as link:
            link.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def link(place: Place) -> Iterator[Link]:
    file = place.write()
    connection, _ = read_device_file(file)
    lost: list[str] = []
    adapter = MqttConnection(file, connection, lost.append)
    adapter.open()
    yield Link(adapter, lost=lost)
    adapter.close()


def test_what_was_said_while_the_link_was_lost_is_heard_after_it(place: Place, link: Link) -> None:
    topic = f"fedgrass/{FLEET}/clients/{THING}/announce"
    link.subscribe(topic)
    link.cut()
    eventually(lambda: not link.adapter._client.is_connected(), PATIENCE)
    place.operator.says(f"clients/{THING}/announce", b"1")
    eventually(lambda: link.heard == [b"1"], PATIENCE)
    place.operator.says(f"clients/{THING}/announce", b"2")
    eventually(lambda: link.heard == [b"1", b"2"], PATIENCE)
    assert link.lost == []


def test_a_message_is_not_sent_while_there_is_no_connection(link: Link) -> None:
    link.subscribe("fedgrass/plant/clients/press-1/announce")
    link.adapter.publish("fedgrass/plant/clients/press-1/hello", b"{}", 1)
    link.adapter.close()
    with pytest.raises(
        Unavailable, match=r"could not publish to .*hello: there is no connection to localhost"
    ):
        link.adapter.publish("fedgrass/plant/clients/press-1/hello", b"{}", 1)


def test_a_topic_that_is_heard_no_more_stays_quiet(place: Place, link: Link) -> None:
    announce, status = (f"fedgrass/{FLEET}/clients/{THING}/{kind}" for kind in ("announce", "status"))
    link.subscribe(announce)
    link.subscribe(status)
    link.adapter.unsubscribe(announce)
    place.operator.says(f"clients/{THING}/announce", b"1")
    place.operator.says(f"clients/{THING}/status", b"2")
    eventually(lambda: link.heard == [b"2"], PATIENCE)


def test_a_handler_that_fails_costs_nothing_but_its_message(place: Place, link: Link) -> None:
    def fail(_: bytes) -> None:
        raise ValueError

    link.subscribe("fedgrass/plant/clients/press-1/announce")
    link.adapter.subscribe("fedgrass/plant/clients/press-1/status", fail, 1)
    place.operator.says(f"clients/{THING}/status", b"1")
    place.operator.says(f"clients/{THING}/announce", b"2")
    eventually(lambda: link.heard == [b"2"], PATIENCE)
    assert link.lost == []


def test_pauses_between_two_connections_are_drawn_at_random_and_grow_to_a_bound(link: Link) -> None:
    drawn = []
    for _ in range(200):
        link.adapter._pause()
        drawn.append(link.adapter._client._reconnect_min_delay)
    assert all(0 <= pause <= 2.0 for pause in drawn[:1])
    assert 60 < max(drawn) <= 120
    assert min(drawn[10:]) < 20  # the whole of a pause is random: a fleet does not come back as one
    assert len(set(drawn)) == len(drawn)


def test_the_end_of_pahos_thread_is_told(link: Link) -> None:
    link.subscribe("fedgrass/plant/clients/press-1/announce")
    link.adapter._client._thread_terminate = True  # as if it had failed
    eventually(lambda: link.lost == ["the MQTT client's thread has ended"], PATIENCE)


def test_another_authority_is_not_trusted(place: Place) -> None:
    root = str(place.provider.server.certificate)  # did not sign the broker's certificate
    file = place.write(root_ca=root)
    connection, _ = read_device_file(file)
    adapter = MqttConnection(file, connection, lambda _: None)
    adapter.open()
    try:
        eventually(lambda: "certificate verify failed" in adapter._why.lower(), PATIENCE)
    finally:
        adapter.close()


def test_a_refusal_of_a_topic_says_whose_policy_it_is() -> None:
    from paho.mqtt.packettypes import PacketTypes  # noqa: PLC0415
    from paho.mqtt.reasoncodes import ReasonCode  # noqa: PLC0415

    from components.trainer.connection.mqtt_connection import _refusal  # noqa: PLC0415

    refused = _refusal(ReasonCode(PacketTypes.PUBACK, "Not authorized"), "publish to x")
    assert isinstance(refused, Forbidden)
    assert "IoT policy of the device's certificate" in str(refused)
    full = _refusal(ReasonCode(PacketTypes.PUBACK, "Quota exceeded"), "publish to x")
    assert isinstance(full, Unavailable)


# ---------------------------------------------------------------- credentials


def ask(place: Place, **changes: str) -> subprocess.CompletedProcess[str]:
    options = {
        "url": f"https://{place.provider.server.endpoint}/role-aliases/{ALIAS}/credentials",
        "thing": THING,
        "certificate": str(place.certificate.certificate),
        "private-key": str(place.certificate.private_key),
        "root-ca": str(place.folder / "roots.pem"),
        "cache": str(place.folder / "credentials.json"),
        **changes,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_credentials_are_kept_until_they_are_about_to_expire(place: Place) -> None:
    given = f'"AccessKeyId": "{place.provider.credentials["AccessKeyId"]}"'
    assert given in ask(place).stdout
    assert given in ask(place).stdout
    assert place.provider.asked == 1
    place.provider.lifetime = RENEW_BEFORE - timedelta(minutes=1)
    (place.folder / "credentials.json").unlink()
    ask(place)
    ask(place)
    assert place.provider.asked == 3


def test_a_cache_that_is_spoilt_is_made_anew(place: Place) -> None:
    (place.folder / "credentials.json").write_text('{"expiration": "soon"')
    assert ask(place).returncode == 0
    assert place.provider.asked == 1


def test_a_provider_that_stumbles_is_asked_again(place: Place) -> None:
    place.provider.failures = 1
    assert ask(place).returncode == 0
    assert place.provider.asked == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"thing": "press-2"}, "HTTP 400"),
        ({"url": "https://localhost:{port}/role-aliases/other/credentials"}, "Role alias does not exist"),
        ({"certificate": "/nowhere.pem"}, "the certificate /nowhere.pem with its key"),
        ({"url": "https://localhost:1/role-aliases/x/credentials"}, "Connection refused"),
    ],
)
def test_a_refusal_of_credentials_is_told_in_a_line(
    place: Place, changes: dict[str, str], words: str
) -> None:
    port = place.provider.server.endpoint.rpartition(":")[2]
    done = ask(place, **{name: value.format(port=port) for name, value in changes.items()})
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_certificate_of_no_known_thing_gets_nothing(place: Place, tmp_path: Path) -> None:
    other = place.cloud.create_thing("stranger", tmp_path / "stranger", "plain")
    changes = {"certificate": str(other.certificate), "private-key": str(other.private_key)}
    done = ask(place, **changes)
    assert "HTTP 403: the certificate's IoT policy has to allow iot:AssumeRoleWithCertificate" in done.stderr


def test_a_client_without_a_certificate_does_not_get_in(place: Place) -> None:
    host, _, port = place.provider.server.endpoint.partition(":")
    context = ssl.create_default_context(cafile=str(place.folder / "roots.pem"))
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host) as link,
    ):
        assert answer_to(link, f"GET /role-aliases/{ALIAS}/credentials HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert place.provider.asked == 0


def answer_to(link: ssl.SSLSocket, request: str) -> bytes:
    """Return the first bytes of an answer, none if the server ended the connection."""
    try:
        link.sendall(request.encode())
        return link.recv(100)
    except (ssl.SSLError, ConnectionError):
        return b""
