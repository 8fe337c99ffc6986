"""A running core's control socket, which only its owner can open, and the execution of its requests.

``ControlServer`` is the socket, ``CoreControl`` carries out requests. ``CorePresence`` gives both to one core
of several in a process, so that the command line finds it.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import msgspec

from greengrass_emulator.control.control_client import (
    LONGEST_LINE_BYTES,
    AnyRequest,
    Clear,
    ComponentDescription,
    Configure,
    CoreDescription,
    Deploy,
    Describe,
    Inject,
    Publish,
    Reply,
    Stop,
    parse_request,
)
from greengrass_emulator.core.core_folders import Claim, socket_of
from greengrass_emulator.core.nucleus import GreengrassCore
from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.deployment.component_dependencies import in_order
from greengrass_emulator.deployment.deployment_records import ComponentSource, Deployment, DeploymentStatus
from greengrass_emulator.emulator_errors import ControlError, CoreError, NameTakenError
from greengrass_emulator.faults.fault_injection import FaultInjector
from greengrass_emulator.iot.iot_bridge import check_topic
from greengrass_emulator.iot.iot_connection import IotMessage
from greengrass_emulator.ipc.ipc_model import InvalidArgumentsError
from greengrass_emulator.recipe.recipe_reader import read_recipe

_REQUEST_SECONDS = 10.0
"""How long a client may take to send its line."""

_DEPLOYMENT_SECONDS = 3_600.0

_log = logging.getLogger(__name__)


class ControlServer:
    """Serves one request, a line of JSON, per connection.

    Args:
        thing_name: the name to take.
        answer: returns the reply to a request.
        log: receives failures inside the core.
    """

    def __init__(
        self, thing_name: str, answer: Callable[[AnyRequest], Awaitable[Reply]], log: logging.Logger
    ) -> None:
        """Raise ControlError for a name that is not a valid thing name."""
        self._path = socket_of(thing_name)
        self._answer = answer
        self._log = log
        self._claim: Claim | None = None
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises NameTakenError if a core of this name is already running."""
        self._claim = Claim(self._path)
        try:
            # The name is ours: a socket here was left by a core that was killed.
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=LONGEST_LINE_BYTES)
            self._path.chmod(0o600)
        except BaseException:
            await self.stop()
            self.release()
            raise

    async def stop(self) -> None:
        """Stop listening and drop replies in progress. The name stays taken. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
        current = asyncio.current_task()
        others = [task for task in self._serving if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def release(self) -> None:
        """Release the name for another core. May be called again."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                line = await reader.readuntil()
            writer.write(msgspec.json.encode(await self._reply(line)) + b"\n")
            await writer.drain()
        except (
            TimeoutError,
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ) as error:
            self._log.debug("a client of the control socket disconnected: %s", error)
        except asyncio.CancelledError:
            self._log.debug("the core stopped while it was answering a client of the control socket")
        finally:
            writer.close()

    async def _reply(self, line: bytes) -> Reply:
        try:
            return await self._answer(parse_request(line))
        except CoreError as error:
            return Reply(error=str(error))
        except Exception as error:  # noqa: BLE001 - the core continues, the client gets the error
            self._log.exception("a request of the control socket failed inside the core")
            return Reply(error=f"the core failed on this request: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class HostHooks:
    """Callbacks of a core's control socket into the program that runs the core."""

    publish: Callable[[IotMessage], Awaitable[None]]
    """Publishes a message as IoT Core would. Raises CoreError."""
    stop: Callable[[], None]
    """Requests the core's stop without waiting for it."""


class CoreControl:
    """Answers control requests for one core."""

    def __init__(
        self, core: GreengrassCore, profile: Profile, injector: FaultInjector, host: HostHooks
    ) -> None:
        self._core = core
        self._profile = profile
        self._injector = injector
        self._host = host
        self.name = core.thing_name
        """The core's name on this machine."""
        self.is_ready = False
        """Whether the core is up. Its socket listens earlier, since its name is taken first."""

    async def answer(self, request: AnyRequest) -> Reply:
        """Carry out a request. Raises CoreError, with the reason, if it is refused or fails."""
        if not self.is_ready and not isinstance(request, Describe | Stop):
            message = f"{self.name} is still starting: try again"
            raise ControlError(message)
        match request:
            case Describe():
                return Reply(core=self._description())
            case Stop():
                self._host.stop()
                return Reply(said="stopping")
            case Inject(fault=fault, amount=amount, seconds=seconds):
                await self._injector.inject(fault, amount, seconds)
                return Reply(said=f"{fault} injected")
            case Clear(fault=fault):
                await self._injector.clear(fault)
                return Reply(said=f"{fault} cleared")
            case Publish():
                return await self._publish(request)
            case Deploy():
                return await self._deploy(request)
            case Configure(component=component, merge=merge):
                return await self._outcome(await self._core.update_configuration(component, merge))

    def _description(self) -> CoreDescription:
        components = [
            ComponentDescription(name=name, version=version, state=state)
            for name, (version, state) in self._core.component_states().items()
        ]
        return CoreDescription(
            thing=self.name,
            pid=os.getpid(),
            profile=self._profile.name,
            root=str(self._core.root),
            components=components,
            faults=self._injector.active,
        )

    async def _publish(self, request: Publish) -> Reply:
        try:
            check_topic(request.topic)
        except InvalidArgumentsError as error:
            raise CoreError(str(error)) from error
        qos = cast("Literal[0, 1]", request.qos)
        await self._host.publish(IotMessage(request.topic, request.payload, qos, request.retain))
        count = len(request.payload)
        return Reply(said=f"{count} {'byte' if count == 1 else 'bytes'} published to {request.topic}")

    async def _deploy(self, request: Deploy) -> Reply:
        files = [Path(file) for file in request.recipes]
        recipes = {file: await asyncio.to_thread(read_recipe, file, classic=True) for file in files}
        sources = [
            ComponentSource(
                file, Path(request.artifacts), request.configurations.get(recipes[file].component_name, {})
            )
            for file in in_order(recipes)
        ]
        return await self._outcome(await self._core.deployments.deploy(sources, request.remove))

    async def _outcome(self, deployment: Deployment) -> Reply:
        ended = await self._core.deployments.wait_for(deployment.identifier, _DEPLOYMENT_SECONDS)
        what = f"deployment {ended.identifier} of {', '.join(ended.components)}"
        if ended.status is not DeploymentStatus.SUCCEEDED:
            message = f"{what}: {ended.outcome or ended.status}: {ended.reason}"
            raise CoreError(message)
        return Reply(said=f"{what}: {ended.outcome}")


class CorePresence:
    """A core's control socket, and the faults that are injected over it.

    If another core on this machine has the same thing name, the second ``device-1`` is ``device-1:2``.
    Methods are called in the core's event loop.
    """

    def __init__(self, core: GreengrassCore, profile: Profile, host: HostHooks) -> None:
        self.faults = FaultInjector(core)
        self._thing = core.thing_name
        self._control = CoreControl(core, profile, self.faults, host)
        self._server: ControlServer | None = None

    @property
    def name(self) -> str:
        """The core's name on this machine; empty if it has no control socket."""
        return self._control.name if self._server else ""

    async def start(self) -> None:
        """Listen. Without a usable folder for sockets the core runs without one, and a warning is logged."""
        try:
            self._server = await self._listen()
        except ControlError as error:
            _log.warning("the command line cannot find core %s: %s", self._thing, error)

    def ready(self) -> None:
        """Accept all requests: the core is up."""
        self._control.is_ready = True

    async def stop(self) -> None:
        """Stop listening; active faults end with the core. May be called again."""
        self.faults.close()
        if self._server:
            await self._server.stop()

    def release(self) -> None:
        """Release the name, after the core has stopped. May be called again."""
        if self._server:
            self._server.release()

    async def _listen(self) -> ControlServer:
        name, number = self._thing, 1
        while True:
            server = ControlServer(name, self._control.answer, _log)
            try:
                await server.start()
            except NameTakenError:
                number += 1
                name = f"{self._thing}:{number}"
            else:
                self._control.name = name
                return server
