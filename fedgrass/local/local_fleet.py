"""A fleet of emulated Greengrass cores on a laptop: each with its thing, nucleus and Stream Manager.

All cores run in one event loop on a background thread, so that callers can be blocking code. Their components
are separate processes.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.aws.thing_credentials import assume
from fedgrass.local.fleet_start import connect_patiently, seconds_for, start_in_waves
from fedgrass.local.plain_devices import PlainDevices
from greengrass_emulator.control.control_server import CorePresence, HostHooks
from greengrass_emulator.core.core_folders import folder_name
from greengrass_emulator.core.core_settings import CoreSettings
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.emulator_errors import IotConnectionError
from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.iot.iot_connection import IotMessage
from greengrass_emulator.stream_manager.stream_server import StreamManager

if TYPE_CHECKING:
    from mypy_boto3_iot_data import IoTDataPlaneClient
    from mypy_boto3_s3 import S3Client

Result = TypeVar("Result")

_STOP_SECONDS = 30.0
_START_SECONDS = 120.0
_RENEW_BEFORE = timedelta(minutes=5)


class DeviceCredentials:
    """Credentials of the device role, restricted to one thing.

    On AWS the credentials provider replaces ``${credentials-iot:ThingName}`` in the policy of the role. The
    embedded cloud has no such provider, so aws/thing_credentials.py does the same.
    """

    def __init__(self, cloud: EmbeddedCloud, role_arn: str, thing: str, endpoint_url: str) -> None:
        self._cloud = cloud
        self._role_arn = role_arn
        self._endpoint_url = endpoint_url
        self._thing = thing
        self._lock = threading.Lock()
        self._current: dict[str, str] = {}
        self._expires = datetime.fromtimestamp(0, tz=UTC)
        self._s3: S3Client | None = None

    def get(self) -> Mapping[str, str]:
        """Return AccessKeyId, SecretAccessKey, Token and Expiration, renewed before they expire."""
        with self._lock:
            if datetime.now(UTC) > self._expires - _RENEW_BEFORE:
                self._renew()
            return self._current

    def s3_client(self) -> "S3Client":
        """Return an S3 client with these credentials."""
        current = self.get()
        with self._lock:
            if self._s3 is None:
                self._s3 = self._cloud.client_with("s3", current, self._endpoint_url)
            return self._s3

    def _renew(self) -> None:
        credentials = assume(self._cloud, self._role_arn, self._thing)
        self._expires = credentials["Expiration"]
        self._current = {
            "AccessKeyId": credentials["AccessKeyId"],
            "SecretAccessKey": credentials["SecretAccessKey"],
            "Token": credentials["SessionToken"],
            "Expiration": credentials["Expiration"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self._s3 = None


@dataclass(frozen=True)
class ComponentBuild:
    """A component as package.py or ``fedgrass task publish`` built it."""

    name: str
    recipe: Path
    artifacts: Path

    def archive(self) -> Path:
        """Return its artifact, the only one."""
        (found,) = (self.artifacts / self.name).glob("*/*")
        return found


@dataclass(frozen=True)
class Device:
    """One core of the fleet."""

    thing: str
    core: GreengrassCore
    streams: StreamManager
    presence: CorePresence


class Fleet:
    """Cores that run one component, and devices without Greengrass; ``stop`` stops all of them.

    Args:
        cloud: the running embedded cloud.
        stack: outputs of the deployed stack.
        folder: parent of the folders of the cores.
        profile: the nucleus that the cores emulate.
        endpoint_url: address of the AWS API for the devices; empty: that of the cloud.
        make_core: creates each core, for tests that replace it.
    """

    def __init__(  # noqa: PLR0913 - the last two let tests put faults between devices and cloud
        self,
        cloud: EmbeddedCloud,
        stack: Mapping[str, str],
        folder: Path,
        profile: Profile,
        *,
        endpoint_url: str = "",
        make_core: Callable[[CoreSettings], GreengrassCore] = GreengrassCore,
    ) -> None:
        self._cloud = cloud
        self._endpoint_url = endpoint_url or cloud.endpoint_url
        self._make_core = make_core
        self._stack = stack
        self._folder = folder
        self._profile = profile
        self._loop = _without_interruption(asyncio.new_event_loop)
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet", daemon=True)
        self.devices: dict[str, Device] = {}
        self._stopping: set[asyncio.Task[None]] = set()  # cores being stopped by `fedgrass core stop`
        self.plain = PlainDevices(
            cloud,
            stack,
            lambda thing: self._credentials(thing).get,
            folder.parent / "plain-devices",
            self._endpoint_url,
        )

    def __enter__(self) -> Self:
        """Start the event loop; ``start`` starts the cores."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every core."""
        self.stop()

    def start(
        self,
        build: ComponentBuild,
        configurations: Mapping[str, Mapping[str, object]],
        tasks: Sequence[ComponentBuild] = (),
        started: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start a core per thing name, and deploy the component to it with the thing's configuration.

        A few cores are started at a time; ``started`` is called with the number of those that run. The
        components of tasks are deployed first. Returns when every component is running. Raises the first
        error; the caller must still call ``stop``.
        """
        starts = [
            partial(self._start_one, thing, build, chosen, tasks) for thing, chosen in configurations.items()
        ]
        self.call(start_in_waves(starts, started), _START_SECONDS + seconds_for(len(starts)))

    def start_plain(
        self,
        configurations: Mapping[str, Mapping[str, object]],
        tasks: Sequence[ComponentBuild] = (),
        started: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start a device without Greengrass per thing name, with the thing's configuration.

        A few devices are started at a time; ``started`` is called with the number of those that have
        connected. The components of tasks are installed first, as an operator does it by hand.
        """
        archives = [task.archive() for task in tasks]
        seconds = _START_SECONDS + seconds_for(len(configurations))
        self.call(self.plain.start(configurations, archives, started), seconds)

    def call(self, coroutine: Coroutine[Any, Any, Result], timeout: float = 30) -> Result:
        """Run a coroutine in the fleet's event loop and return its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Stop every core and device; only their files remain. May be called twice."""
        if not self._thread.is_alive():
            return
        try:
            devices = len(self.devices) + len(self.plain.devices)
            self.call(self._stop_all(), _STOP_SECONDS + seconds_for(devices))
            # Pending calls of the cloud must complete while it still runs.
            self.call(self._loop.shutdown_default_executor(), _STOP_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_SECONDS)
            self._loop.close()

    async def _start_one(
        self,
        thing: str,
        build: ComponentBuild,
        configuration: Mapping[str, object],
        tasks: Sequence[ComponentBuild],
    ) -> None:
        folder = self._folder / folder_name(thing)
        certificate = await asyncio.to_thread(
            self._cloud.create_thing, thing, folder, self._stack["DevicePolicyName"]
        )
        credentials = self._credentials(thing)

        # Stream Manager asks the nucleus to verify tokens, and the nucleus needs the port of Stream Manager.
        def is_known(token: str) -> bool:
            return core.is_component_token(token)

        faults = Faults()
        streams = StreamManager(folder / "streams", credentials.s3_client, is_known, faults=faults)
        port = await streams.start()
        core = self._make_core(
            CoreSettings(
                thing_name=thing,
                root=folder / "greengrass",
                iot_endpoint=self._cloud.iot_endpoint,
                iot_port=self._cloud.mqtt_port,
                certificate=certificate.certificate,
                private_key=certificate.private_key,
                root_ca=self._cloud.root_ca,
                region=self._cloud.region,
                credentials=credentials.get,
                environment={
                    "AWS_ENDPOINT_URL": self._endpoint_url,
                    "STREAM_MANAGER_SERVER_PORT": str(port),
                },
                profile=self._profile,
                faults=faults,
                stream_manager=streams,
            )
        )
        hooks = HostHooks(self._publish, lambda: self._switch_off(thing))
        device = Device(thing, core, streams, CorePresence(core, self._profile, hooks))
        self.devices[thing] = device
        await device.presence.start()
        await connect_patiently(core.start)
        device.presence.ready()
        for task in tasks:
            await core.deploy(task.recipe, task.artifacts)
            await core.wait_for(task.name, "FINISHED", _START_SECONDS)
        await core.deploy(build.recipe, build.artifacts, configuration)
        await core.wait_for(build.name, "RUNNING", _START_SECONDS)

    def _credentials(self, thing: str) -> DeviceCredentials:
        return DeviceCredentials(self._cloud, self._stack["DeviceRoleArn"], thing, self._endpoint_url)

    async def _publish(self, message: IotMessage) -> None:
        """Publish a message as the cloud. Raises IotConnectionError."""
        client: IoTDataPlaneClient = self._cloud.client("iot-data")
        publish = partial(client.publish, topic=message.topic, payload=message.payload, qos=message.qos)
        try:
            await asyncio.to_thread(publish, retain=message.retain)
        except (BotoCoreError, ClientError) as error:
            text = f"the embedded cloud refused the message on {message.topic}: {error}"
            raise IotConnectionError(text) from error

    def _switch_off(self, thing: str) -> None:
        if device := self.devices.pop(thing, None):
            task = asyncio.create_task(_stop_one(device))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)

    async def _stop_all(self) -> None:
        cores = (_stop_one(device) for device in self.devices.values())
        stops = [self.plain.stop(), *cores, *self._stopping]
        self.devices.clear()
        _raise_first(await asyncio.gather(*stops, return_exceptions=True))


def _raise_first(results: Sequence[BaseException | None]) -> None:
    """Raise the first error in the results of concurrent tasks."""
    for result in results:
        if result is not None:
            raise result


async def _stop_one(device: Device) -> None:
    try:
        await device.presence.stop()
        await device.core.stop()
    finally:
        await device.streams.stop()
        device.presence.release()


def _without_interruption(make: Callable[[], asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
    """Return the result of ``make``, with SIGINT and SIGTERM delayed until it returns.

    An event loop whose construction is interrupted prints a traceback when it is garbage-collected.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return make()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
