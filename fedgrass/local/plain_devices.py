"""Devices without Greengrass on a laptop: trainers that connect to the cloud by themselves.

Each is a process of its own, started again when it ends, as systemd would (docs/plain_mqtt.md).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedgrass import sources
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.aws.thing_credentials import Credentials, CredentialsProvider
from greengrass_emulator.child_environment import local_variables
from greengrass_emulator.core.core_folders import folder_name
from greengrass_emulator.lifecycle.guarded_script import GuardedScript, Script

DEVICE_FILE: Final = "device.json"
RESTART_SECONDS: Final = 1.0
STOP_SECONDS: Final = 5.0
_FOREIGN: Final = "AWS_"  # variables that are the person's own


@dataclass(frozen=True)
class PlainDevice:
    """One device: its name, its folder, and the task that keeps it running."""

    thing: str
    folder: Path
    running: asyncio.Task[None]

    @property
    def log(self) -> Path:
        """What its trainer says."""
        return self.folder / "trainer.log"

    @property
    def file(self) -> Path:
        """What it was started with: connection and configuration."""
        return self.folder / DEVICE_FILE


class PlainDevices:
    """Plain-MQTT devices and the credentials provider that they ask. All methods run in one event loop.

    Args:
        cloud: the embedded cloud, running.
        stack: the outputs of the deployed template.
        credentials: makes what a thing's role gives.
        folder: where the devices keep their files, one folder each.
        endpoint_url: where they find the AWS API.
    """

    def __init__(
        self,
        cloud: EmbeddedCloud,
        stack: Mapping[str, str],
        credentials: Callable[[str], Credentials],
        folder: Path,
        endpoint_url: str,
    ) -> None:
        self._cloud = cloud
        self._stack = stack
        self._alias = f"fedgrass-{stack['Fleet']}"  # as template.yaml names it
        self._credentials = credentials
        self._folder = folder.absolute()
        self._endpoint_url = endpoint_url
        self._log = logging.getLogger("fedgrass.local")
        self._provider: CredentialsProvider | None = None
        self.devices: dict[str, PlainDevice] = {}

    async def start(self, configurations: Mapping[str, Mapping[str, object]]) -> None:
        """Start a device per thing name, each with the trainer's configuration for it."""
        provider = self._provider = CredentialsProvider(
            self._alias, self._cloud.root_ca, self._folder / "credentials-provider", self._log
        )
        await provider.start()
        roots = self._folder / "roots.pem"
        roots.write_bytes(self._cloud.root_ca.read_bytes() + provider.certificate.read_bytes())
        for thing, configuration in configurations.items():
            await self._add(thing, configuration, provider, roots)

    async def stop(self) -> None:
        """End every device and the credentials provider. May be called again."""
        tasks = [device.running for device in self.devices.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2 * STOP_SECONDS)
        if self._provider is not None:
            await self._provider.stop()
            self._provider = None

    async def _add(
        self, thing: str, configuration: Mapping[str, object], provider: CredentialsProvider, roots: Path
    ) -> None:
        folder = self._folder / folder_name(thing)
        certificate = await asyncio.to_thread(
            self._cloud.create_thing, thing, folder, self._stack["DevicePolicyName"]
        )
        provider.know(thing, certificate.certificate, self._credentials(thing))
        connection = {
            "thing": thing,
            "endpoint": self._cloud.iot_endpoint,
            "port": self._cloud.mqtt_port,
            "certificate": str(certificate.certificate),
            "private_key": str(certificate.private_key),
            "root_ca": str(roots),
            "credentials_endpoint": provider.endpoint,
            "role_alias": self._alias,
            "region": self._cloud.region,
            "work_folder": "work",
        }
        described = json.dumps({"connection": connection, "trainer": dict(configuration)})
        (folder / DEVICE_FILE).write_text(described, encoding="utf-8")
        running = asyncio.create_task(self._keep_running(folder))
        self.devices[thing] = PlainDevice(thing, folder, running)

    async def _keep_running(self, folder: Path) -> None:
        command = [sys.executable, "-m", "components.trainer", "--mqtt", str(folder / DEVICE_FILE)]
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        environment = {
            **own,
            **local_variables(os.environ),
            "AWS_ENDPOINT_URL": self._endpoint_url,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(sources.ROOT), own.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
        }
        script = Script("exec " + shlex.join(command), environment, folder, folder / "trainer.log")
        while True:
            running = await GuardedScript.start(script)
            try:
                code = await running.wait()
            finally:
                await running.stop(STOP_SECONDS)
            self._log.warning("the trainer of %s ended with exit code %d: started again", folder.name, code)
            await asyncio.sleep(RESTART_SECONDS)
