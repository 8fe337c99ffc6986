"""A fleet of Greengrass cores on a laptop: each core with its thing, its nucleus and its Stream Manager.

All cores live in one event loop in one background thread, so that the caller may be ordinary blocking code;
what they run, the components, are processes of their own.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from fedgrass.local.aws.thing_credentials import assume
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

Result = TypeVar("Result")

STOP_SECONDS = 30.0
START_SECONDS = 120.0
_RENEW_BEFORE = timedelta(minutes=5)


class DeviceCredentials:
    """The device role's credentials, narrowed to what the role allows one thing.

    On AWS the credentials provider fills ``${credentials-iot:ThingName}`` into the role's policy. The
    embedded cloud has no such provider: the same is done here; see device_role.py.
    """

    def __init__(self, cloud: EmbeddedCloud, role_arn: str, thing: str, endpoint_url: str) -> None:
        self._cloud = cloud
        self._role_arn = role_arn
        self._endpoint_url = endpoint_url
        self._thing = thing
        self._lock = threading.Lock()
        self._current: dict[str, str] = {}
        self._expires = datetime.fromtimestamp(0, tz=UTC)
        self._s3: Any = None

    def get(self) -> Mapping[str, str]:
        """Return AccessKeyId, SecretAccessKey, Token and Expiration; renewed before they expire."""
        with self._lock:
            if datetime.now(UTC) > self._expires - _RENEW_BEFORE:
                self._renew()
            return self._current

    def s3_client(self) -> Any:
        """Return an S3 client with these credentials."""
        current = self.get()
        with self._lock:
            if self._s3 is None:
                self._s3 = self._cloud.client_with("s3", current, self._endpoint_url)
            return self._s3

    def _renew(self) -> None:
        answer = assume(self._cloud, self._role_arn, self._thing)
        self._expires = answer["Expiration"]
        self._current = {
            "AccessKeyId": answer["AccessKeyId"],
            "SecretAccessKey": answer["SecretAccessKey"],
            "Token": answer["SessionToken"],
            "Expiration": answer["Expiration"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self._s3 = None


@dataclass(frozen=True)
class ComponentBuild:
    """A component as package.py built it."""

    name: str
    recipe: Path
    artifacts: Path


@dataclass(frozen=True)
class Device:
    """One core of the fleet."""

    thing: str
    core: GreengrassCore
    streams: StreamManager
    presence: CorePresence


class Fleet:
    """Cores that run one component, and devices without Greengrass; ``stop`` ends them all.

    Args:
        cloud: the embedded cloud, running.
        stack: the outputs of the deployed template.
        folder: where the cores keep their files, one folder each.
        profile: which real nucleus they imitate.
        endpoint_url: where the devices find the AWS API; the cloud's own address if empty.
        make_core: makes each core, for one that differs.
    """

    def __init__(  # noqa: PLR0913  # the last two are for those who put faults between devices and cloud
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
        self._loop = _made_whole(asyncio.new_event_loop)
        self._thread = threading.Thread(target=self._loop.run_forever, name="fleet", daemon=True)
        self.devices: dict[str, Device] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # cores that are stopped by `fedgrass core stop`
        self.plain = PlainDevices(
            cloud,
            stack,
            lambda thing: self._credentials(thing).get,
            folder.parent / "plain-devices",
            self._endpoint_url,
        )

    def __enter__(self) -> Self:
        """Start the event loop; the cores come with ``start``."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every core."""
        self.stop()

    def start(self, build: ComponentBuild, configurations: Mapping[str, Mapping[str, object]]) -> None:
        """Start a core per thing name with the component deployed, each with its own configuration.

        Returns when every component runs. Raises the first failure; ``stop`` is then still the caller's.
        """
        self.call(self._start_all(build, configurations), START_SECONDS)

    def start_plain(self, configurations: Mapping[str, Mapping[str, object]]) -> None:
        """Start a device without Greengrass per thing name, each with its own configuration."""
        self.call(self.plain.start(configurations), START_SECONDS)

    def call(self, coroutine: Coroutine[Any, Any, Result], timeout: float = 30) -> Result:
        """Run a coroutine of a core in the fleet's event loop and return its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """Stop every core; nothing is left but their files. May be called twice."""
        if not self._thread.is_alive():
            return
        try:
            self.call(self._stop_all(), STOP_SECONDS)
            # Calls of the cloud that are under way end while it is still there to answer them.
            self.call(self._loop.shutdown_default_executor(), STOP_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SECONDS)
            self._loop.close()

    async def _start_all(
        self, build: ComponentBuild, configurations: Mapping[str, Mapping[str, object]]
    ) -> None:
        starts = (self._start_one(thing, build, chosen) for thing, chosen in configurations.items())
        _raise_first(await asyncio.gather(*starts, return_exceptions=True))

    async def _start_one(
        self, thing: str, build: ComponentBuild, configuration: Mapping[str, object]
    ) -> None:
        folder = self._folder / folder_name(thing)
        certificate = await asyncio.to_thread(
            self._cloud.create_thing, thing, folder, self._stack["DevicePolicyName"]
        )
        credentials = self._credentials(thing)

        # Stream Manager asks the nucleus whose token it was shown; the nucleus has to know its port.
        def known(token: str) -> bool:
            return core.is_component_token(token)

        faults = Faults()
        streams = StreamManager(folder / "streams", credentials.s3_client, known, faults=faults)
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
        outside = HostHooks(self._publish, lambda: self._switch_off(thing))
        device = Device(thing, core, streams, CorePresence(core, self._profile, outside))
        self.devices[thing] = device
        await device.presence.start()
        await core.start()
        device.presence.ready()
        await core.deploy(build.recipe, build.artifacts, configuration)
        await core.wait_for(build.name, "RUNNING", START_SECONDS)

    def _credentials(self, thing: str) -> DeviceCredentials:
        return DeviceCredentials(self._cloud, self._stack["DeviceRoleArn"], thing, self._endpoint_url)

    async def _publish(self, message: IotMessage) -> None:
        """Say something as the cloud. Raises IotConnectionError."""
        client = self._cloud.client("iot-data")
        words = {"topic": message.topic, "payload": message.payload, "qos": message.qos}
        try:
            await asyncio.to_thread(client.publish, **words, retain=message.retain)
        except (BotoCoreError, ClientError) as exc:
            text = f"the embedded cloud did not take the message for {message.topic}: {exc}"
            raise IotConnectionError(text) from exc

    def _switch_off(self, thing: str) -> None:
        if device := self.devices.pop(thing, None):
            task = asyncio.create_task(_stop_one(device))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _stop_all(self) -> None:
        cores = (_stop_one(device) for device in self.devices.values())
        stops = [self.plain.stop(), *cores, *self._leaving]
        self.devices.clear()
        _raise_first(await asyncio.gather(*stops, return_exceptions=True))


def _raise_first(results: Sequence[BaseException | None]) -> None:
    """Raise the first failure of several that ran to their ends side by side."""
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


def _made_whole(make: Callable[[], asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
    """Return what ``make`` makes; a Ctrl-C or a stop meanwhile comes after it.

    An event loop that is left half made complains with a traceback when it is thrown away.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return make()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
