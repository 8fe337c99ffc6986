"""A scripted device: a thing with a certificate that publishes valid or invalid messages."""

import json
import ssl
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from fedgrass.federation import messages, object_keys
from fedgrass.federation.messages import Heartbeat
from fedgrass.federation.weights import checksum
from fedgrass.local.testbed import Testbed


class HandmadeDevice:
    """An MQTT client with the certificate of its thing, which publishes anything."""

    def __init__(self, testbed: Testbed, thing: str, folder: Path, fleet: str) -> None:
        self.thing = thing
        self._testbed = testbed
        self._fleet = fleet
        files = testbed.cloud.create_thing(thing, folder, testbed.stack["DevicePolicyName"])
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=thing, protocol=mqtt.MQTTv5)
        self._client.tls_set(
            str(testbed.cloud.root_ca),
            str(files.certificate),
            str(files.private_key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )

    def __enter__(self) -> Self:
        self._client.connect(self._testbed.cloud.iot_endpoint, self._testbed.cloud.mqtt_port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, kind: str, payload: bytes, *, as_thing: str = "") -> None:
        """Publish on a topic of this device or of another one."""
        topic = f"fedgrass/{self._fleet}/clients/{as_thing or self.thing}/{kind}"
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def heartbeat(self) -> None:
        """Publish a heartbeat with the noise task."""
        heartbeat = Heartbeat(
            state="idle", tasks="noise", examples=100, component_version="0", uptime_seconds=1.0
        )
        self.say("heartbeat", messages.encode(heartbeat))

    def upload(self, data: bytes, work: dict[str, Any]) -> None:
        """Store an update under the key that the averager reads."""
        key = object_keys.update(self.thing, work["run"], work["round"], work["attempt"])
        self._testbed.cloud.client("s3").put_object(Bucket=work["bucket"], Key=key, Body=data)

    def completion(self, data: bytes, work: dict[str, Any], **changes: object) -> bytes:
        """Return a completion of ``work`` with an update of these bytes, and with ``changes``."""
        named = {"run": work["run"], "round": work["round"], "attempt": work["attempt"]}
        fields = {
            "version": 1,
            **named,
            "announced_at": work["announced_at"],
            "bytes": len(data),
            "checksum": checksum(data),
            "examples": 100,
            **changes,
        }
        fields["round_id"] = f"{fields['run']}/{fields['round']}/{fields['attempt']}"
        return json.dumps(fields).encode()
