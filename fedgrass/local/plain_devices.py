"""Devices without Greengrass on a laptop: trainers that connect to the cloud directly.

Each is a separate process, which is restarted when it ends, as systemd would do (docs/plain_mqtt.md).
"""

import asyncio
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from components.trainer.task_installer import install
from fedgrass import sources
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.aws.thing_credentials import Credentials, CredentialsProvider
from fedgrass.local.fleet_start import start_in_waves
from greengrass_emulator.child_environment import local_variables
from greengrass_emulator.core.core_folders import folder_name
from greengrass_emulator.lifecycle.guarded_script import GuardedScript, Script

_DEVICE_FILE: Final = "device.json"
_RESTART_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1
_CONNECTED: Final = b"connected to"  # in the trainer's log
_FOREIGN: Final = "AWS_"  # prefix of variables that must not reach the device


@dataclass(frozen=True)
class PlainDevice:
    """A device: its name, its folder, and the asyncio task that keeps it running."""

    thing: str
    folder: Path
    task: asyncio.Task[None]

    @property
    def log(self) -> Path:
        """The log of its trainer."""
        return self.folder / "trainer.log"

    @property
    def file(self) -> Path:
        """The file with its connection and configuration."""
        return self.folder / _DEVICE_FILE


class PlainDevices:
    """Devices without Greengrass, and their credentials provider. All methods run in one event loop.

    Args:
        cloud: the running embedded cloud.
        stack: outputs of the deployed stack.
        credentials: returns the source of credentials of a thing.
        folder: parent of the folders of the devices.
        endpoint_url: address of the AWS API for the devices.
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

    async def start(
        self,
        configurations: Mapping[str, Mapping[str, object]],
        tasks: Sequence[Path] = (),
        started: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start a device per thing name, with the trainer's configuration for it.

        Args:
            configurations: the trainer's, by thing name.
            tasks: artifacts of the components of tasks, which are installed first.
            started: called with the number of devices that have connected so far.
        """
        provider = self._provider = CredentialsProvider(
            self._alias, self._cloud.root_ca, self._folder / "credentials-provider", self._log
        )
        await provider.start()
        roots = self._folder / "roots.pem"
        roots.write_bytes(self._cloud.root_ca.read_bytes() + provider.certificate.read_bytes())
        starts = [
            partial(self._start_one, thing, configuration, tasks, provider, roots)
            for thing, configuration in configurations.items()
        ]
        await start_in_waves(starts, started)

    async def stop(self) -> None:
        """Stop every device and the credentials provider. May be called twice."""
        tasks = [device.task for device in self.devices.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2 * _STOP_SECONDS)
        if self._provider is not None:
            await self._provider.stop()
            self._provider = None

    async def _start_one(
        self,
        thing: str,
        configuration: Mapping[str, object],
        tasks: Sequence[Path],
        provider: CredentialsProvider,
        roots: Path,
    ) -> None:
        """Start a device, and wait until it has connected; one that does not is reported by its heartbeat."""
        for task in tasks:
            into = str(self._folder / folder_name(thing))
            await asyncio.to_thread(install, task, into, sys.executable)
        await self._add(thing, configuration, provider, roots)
        log, deadline = self.devices[thing].log, time.monotonic() + _CONNECT_SECONDS
        while time.monotonic() < deadline and not _has_connected(log):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(_POLL_SECONDS)

    async def _add(
        self, thing: str, configuration: Mapping[str, object], provider: CredentialsProvider, roots: Path
    ) -> None:
        folder = self._folder / folder_name(thing)
        certificate = await asyncio.to_thread(
            self._cloud.create_thing, thing, folder, self._stack["DevicePolicyName"]
        )
        provider.register(thing, certificate.certificate, self._credentials(thing))
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
        (folder / _DEVICE_FILE).write_text(described, encoding="utf-8")
        running = asyncio.create_task(self._keep_running(folder))
        self.devices[thing] = PlainDevice(thing, folder, running)

    async def _keep_running(self, folder: Path) -> None:
        command = [sys.executable, "-m", "components.trainer", "--mqtt", str(folder / _DEVICE_FILE)]
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
                await running.stop(_STOP_SECONDS)
            self._log.warning("the trainer of %s ended with exit code %d and is restarted", folder.name, code)
            await asyncio.sleep(_RESTART_SECONDS)


def _has_connected(log: Path) -> bool:
    return log.is_file() and _CONNECTED in log.read_bytes()
