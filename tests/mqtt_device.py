"""A device without Greengrass for tests: its trainer as a process, over the embedded cloud's real broker."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

import package
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.testbed import create_observer
from tests.emulator.local_core import eventually

PATIENCE = 40.0  # seconds


class Operator:
    """The cloud's side of a fleet's topics: receives everything, publishes what a test asks for."""

    def __init__(self, cloud: EmbeddedCloud, fleet: str) -> None:
        self._cloud = cloud
        self._fleet = fleet
        self._lock = threading.Lock()
        self._heard: list[tuple[str, bytes]] = []
        files = create_observer(cloud, fleet, Path(tempfile.mkdtemp(dir=cloud.log.parent)))
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{files.client_prefix}operator")
        self._client.tls_set(str(cloud.root_ca), str(files.certificate), str(files.private_key))
        self._client.on_message = self._hear
        self._client.on_connect = lambda client, *_: client.subscribe(f"fedgrass/{fleet}/#", 1)
        self._client.connect(cloud.iot_endpoint, cloud.mqtt_port)
        self._client.loop_start()
        eventually(self._echo, PATIENCE)

    def said(self, topic: str) -> list[bytes]:
        """Return what was published on a topic below ``fedgrass/<fleet>/``."""
        with self._lock:
            return [payload for on, payload in self._heard if on == f"fedgrass/{self._fleet}/{topic}"]

    def says(self, topic: str, payload: bytes) -> None:
        full = f"fedgrass/{self._fleet}/{topic}"
        self._cloud.client("iot-data").publish(topic=full, qos=1, payload=payload)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, _client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        with self._lock:
            self._heard.append((message.topic, bytes(message.payload)))

    def _echo(self) -> bool:
        self.says("echo", b"{}")
        return bool(self.said("echo"))


class Trainer:
    """The trainer's process, as systemd would start it."""

    def __init__(self, file: Path, environment: Mapping[str, str]) -> None:
        self.log_file = file.parent / "trainer.log"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "components.trainer", "--mqtt", str(file)],
                env={**os.environ, "PYTHONPATH": str(package.ROOT), **environment},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)


def write_device_file(folder: Path, connection: Mapping[str, Any], trainer: Mapping[str, Any]) -> Path:
    """Write a device's file whole: a trainer may read it at any moment."""
    file = folder / "device.json"
    unfinished = folder / "device.unfinished"
    unfinished.write_text(json.dumps({"connection": connection, "trainer": trainer}))
    unfinished.replace(file)
    return file
