"""A single core with all of its services and no cloud, for developers of Greengrass components.

A local folder replaces S3: an export is written to <folder>/<bucket>/<key>.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from greengrass_emulator.control.control_server import ControlServer, CoreControl, HostHooks
from greengrass_emulator.core.core_settings import CoreSettings
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import CLASSIC, Profile
from greengrass_emulator.deployment.deployment_records import ComponentSource
from greengrass_emulator.emulator_errors import ComponentStateError, CoreError, NoCloudError
from greengrass_emulator.faults.fault_injection import FaultInjector
from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.iot.iot_connection import IotMessage
from greengrass_emulator.iot.loopback_iot import LoopbackIotCore
from greengrass_emulator.lifecycle.component_lifecycle import BROKEN, FINISHED
from greengrass_emulator.stream_manager.stream_server import StreamManager

_PIECE_BYTES = 256 * 1024

_WAIT_SECONDS = 60.0


class S3Folder:
    """An S3 client, as far as Stream Manager's exports need one, that writes to a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def upload_fileobj(  # noqa: PLR0913, PLR0917 - boto3's signature
        self,
        Fileobj: IO[bytes],  # noqa: N803 - boto3's name
        Bucket: str,  # noqa: N803 - as above
        Key: str,  # noqa: N803 - as above
        ExtraArgs: dict[str, Any] | None = None,  # noqa: ARG002, N803 - files have no user metadata
        Callback: Callable[[int], None] | None = None,  # noqa: N803 - as above
        Config: object = None,  # noqa: ARG002, N803 - concerns multipart uploads
    ) -> None:
        """Copy a file into the folder atomically.

        Raises:
            PermissionError: the key leads out of its bucket's folder. S3 would accept it.
        """
        bucket = (self._folder / Bucket).resolve()
        target = (bucket / Key.lstrip("/")).resolve()
        if not target.is_relative_to(bucket) or target == bucket:
            message = f"key {Key!r} leads out of bucket {Bucket}, which is a folder here"
            raise PermissionError(message)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.unfinished")
        try:
            with unfinished.open("wb") as copy:
                while piece := Fileobj.read(_PIECE_BYTES):
                    copy.write(piece)
                    if Callback is not None:
                        Callback(len(piece))
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: no connection is open between uploads."""


@dataclass(frozen=True)
class AwsAccess:
    """AWS for a core's components: credentials as the token exchange service gives them, and an S3 client."""

    credentials: Callable[[], Mapping[str, str]]
    s3_client: Callable[[], Any]


@dataclass(frozen=True)
class StandaloneOptions:
    """The options of a standalone core."""

    thing_name: str
    root: Path
    profile: Profile = CLASSIC
    secrets: Mapping[str, str | bytes] = field(default_factory=dict)
    interpolate_component_configuration: bool = False
    aws: AwsAccess | None = None
    """None: components get no credentials, and exports go to a folder."""


class StandaloneCore:
    """A core with Stream Manager and a loopback for IoT Core.

    Await ``start``, ``deploy``, then ``stop``. ``stopping`` is set when ``stop`` is requested from outside.
    """

    def __init__(self, options: StandaloneOptions) -> None:
        root = options.root.absolute()
        faults = Faults()
        self._options = options
        self._loopback = LoopbackIotCore(
            root / "iot_core_messages.jsonl", keeps_session=options.profile.spools_offline
        )
        aws = options.aws or AwsAccess(_no_credentials, lambda: S3Folder(root / "s3"))
        self._streams = StreamManager(
            root / "streams",
            aws.s3_client,
            self._is_component_token,
            faults=faults,
        )
        self._environment: dict[str, str] = {}
        authorities = ssl.get_default_verify_paths().cafile
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        settings = CoreSettings(
            thing_name=options.thing_name,
            root=root,
            iot_endpoint="loopback",
            iot_port=0,
            certificate=root / "none",
            private_key=root / "none",
            root_ca=Path(authorities) if authorities else root / "none",
            region=region,
            credentials=aws.credentials,
            environment=self._environment,
            profile=options.profile,
            faults=faults,
            stream_manager=self._streams,
            secrets=options.secrets,
            interpolate_component_configuration=options.interpolate_component_configuration,
        )
        self.core = GreengrassCore(settings, lambda: self._loopback)
        self.stopping = asyncio.Event()
        """Set when the stop of the core was requested over its control socket."""
        self.faults = FaultInjector(self.core)
        hooks = HostHooks(self._accept, self.stopping.set)
        self._control = CoreControl(self.core, options.profile, self.faults, hooks)
        self._server = ControlServer(options.thing_name, self._control.answer, logging.getLogger(__name__))

    async def start(self) -> None:
        """Start all services. Raises EmulatorError, after stopping them again, if one cannot be started."""
        try:
            # First, so that two cores of the same name never share a folder.
            await self._server.start()
            self._make_root()
            self._environment["STREAM_MANAGER_SERVER_PORT"] = str(await self._streams.start())
            await self.core.start()
            self._control.is_ready = True
        except BaseException:
            await self.stop()
            raise

    async def deploy(self, sources: Sequence[ComponentSource]) -> None:
        """Deploy components in this order. Raises CoreError if one of them cannot be deployed."""
        await self.core.deployments.deploy(sources)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish a message to the components as IoT Core would."""
        self._loopback.accept(IotMessage(topic, payload, 1, retain))

    async def message(self, topic_filter: str, seconds: float) -> bytes:
        """Return the payload of the oldest matching message to IoT Core that was not returned before.

        Args:
            topic_filter: an MQTT topic filter.
            seconds: how long to wait for a message.

        Raises:
            IotConnectionError: no message matched in time.
        """
        return (await self._loopback.message(topic_filter, seconds)).payload

    async def components_ended(self) -> bool:
        """Wait until every component is FINISHED or BROKEN; return whether all are FINISHED."""
        while alive := [name for name, state in self._states().items() if state not in {FINISHED, BROKEN}]:
            with suppress(ComponentStateError):  # it is BROKEN, or still running
                await self.core.wait_for(alive[0], FINISHED, _WAIT_SECONDS)
        return all(state == FINISHED for state in self._states().values())

    async def stop(self) -> None:
        """Stop everything; the core's files stay. May be called again."""
        try:
            await self._server.stop()
            self.faults.close()
            await self.core.stop()
            await self._streams.stop()
        finally:
            self._server.release()

    async def _accept(self, message: IotMessage) -> None:
        self._loopback.accept(message)

    def _is_component_token(self, token: str) -> bool:
        return self.core.is_component_token(token)

    def _states(self) -> dict[str, str]:
        return {name: state for name, (_, state) in self.core.component_states().items()}

    def _make_root(self) -> None:
        try:
            self.core.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"{self.core.root}, the core's folder, cannot be created: {error.strerror}"
            raise CoreError(message) from error


def _no_credentials() -> Mapping[str, str]:
    message = "this core has no cloud behind it; `run --aws` gives it your own credentials"
    raise NoCloudError(message)
