"""A client with valid credentials that tries forbidden actions, and how AWS responds."""

import json
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud, ThingCertificate
from fedgrass.local.aws.thing_credentials import assume
from fedgrass.local.testbed import Testbed

SECONDS = 10.0
REFUSED = 0x80  # and above: MQTT 5, section 2.4


def credentials_of_thing(testbed: Testbed, thing: str) -> Mapping[str, str]:
    """Return the credentials that the credentials provider gives to a thing."""
    return _named(assume(testbed.cloud, testbed.stack["DeviceRoleArn"], thing))


def credentials_of_role(cloud: EmbeddedCloud, role: str) -> Mapping[str, str]:
    """Return credentials of a function's role, which only Lambda may assume; here the owner may too."""
    iam, sts = cloud.client("iam"), cloud.client("sts")
    trust = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
    owner = {"AWS": sts.get_caller_identity()["Arn"]}
    added = {"Effect": "Allow", "Principal": owner, "Action": "sts:AssumeRole"}
    changed = {**trust, "Statement": [*trust["Statement"], added]}
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(changed))
    arn = iam.get_role(RoleName=role)["Role"]["Arn"]
    return _named(sts.assume_role(RoleArn=arn, RoleSessionName="intruder")["Credentials"])


def _named(credentials: Mapping[str, Any]) -> Mapping[str, str]:
    return {
        "AccessKeyId": credentials["AccessKeyId"],
        "SecretAccessKey": credentials["SecretAccessKey"],
        "Token": credentials["SessionToken"],
    }


@dataclass
class Attempts:
    """The attempts on the broker, by result."""

    allowed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


def try_topics(testbed: Testbed, folder: Path, fleet: str) -> Attempts:
    """Try topics and a client id with the certificate of the thing ``intruder``."""
    files = testbed.cloud.create_thing("intruder", folder, testbed.stack["DevicePolicyName"])
    own, other = f"fedgrass/{fleet}/clients/intruder", f"fedgrass/{fleet}/clients/device-1"
    publishes = {
        "publish complete": f"{own}/complete",
        "publish status": f"{own}/status",
        "publish hello": f"{own}/hello",
        "publish own announce": f"{own}/announce",
        "publish another's complete": f"{other}/complete",
        "publish another's heartbeat": f"{other}/heartbeat",
        "publish another's announce": f"{other}/announce",
        "publish rounds": f"fedgrass/{fleet}/rounds/first",
        "publish models": f"fedgrass/{fleet}/models/noise",
        "publish another fleet's": "fedgrass/orchard/clients/intruder/complete",
    }
    subscribes = {
        "subscribe announce": f"{own}/announce",
        "subscribe another's announce": f"{other}/announce",
        "subscribe everything": "#",
        "subscribe all announcements": f"fedgrass/{fleet}/clients/+/announce",
    }
    found = Attempts()
    for name, topic in publishes.items():
        with _Connection(testbed, files, "intruder") as connection:
            (found.allowed if connection.publishes(topic) else found.refused).add(name)
    for name, topic in subscribes.items():
        with _Connection(testbed, files, "intruder") as connection:
            (found.allowed if connection.subscribes(topic) else found.refused).add(name)
    with _Connection(testbed, files, "device-1") as connection:
        (found.allowed if connection.accepted else found.refused).add("connect as another")
    return found


class _Connection:
    """A connection to the broker for one attempt and its response."""

    def __init__(self, testbed: Testbed, files: ThingCertificate, client: str) -> None:
        self._address = testbed.cloud.iot_endpoint, testbed.cloud.mqtt_port
        self._answered = threading.Event()
        self._code = REFUSED
        self.accepted = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client, protocol=paho.MQTTv5)
        self._client.tls_set(
            str(testbed.cloud.root_ca),
            str(files.certificate),
            str(files.private_key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        self._client.on_connect = lambda _client, _data, _flags, code, _properties: self._hear(code)
        self._client.on_publish = lambda _client, _data, _number, code, _properties: self._hear(code)
        self._client.on_subscribe = lambda _client, _data, _number, codes, _properties: self._hear(codes[0])
        # A broker may also close the connection after a forbidden attempt.
        self._client.on_disconnect = lambda *_: self._answered.set()

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        self.accepted = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publishes(self, topic: str) -> bool:
        """Publish; return whether the broker accepted it."""
        self._client.publish(topic, b"{}", qos=1)
        return self._answer()

    def subscribes(self, topic: str) -> bool:
        """Subscribe; return whether the broker allowed it."""
        self._client.subscribe(topic, qos=1)
        return self._answer()

    def _hear(self, code: Any) -> None:
        self._code = code.value
        self._answered.set()

    def _answer(self) -> bool:
        assert self._answered.wait(SECONDS), "the broker did not answer"
        code, self._code = self._code, REFUSED
        self._answered.clear()
        return bool(code < REFUSED)
