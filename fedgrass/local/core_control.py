"""Does what is asked of a running core over its control socket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from fedgrass.local.control_messages import (
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
)
from fedgrass.local.core_errors import ControlError, CoreError
from fedgrass.local.deployment_records import ComponentSource, Deployment, DeploymentStatus
from fedgrass.local.fault_injection import FaultInjector
from fedgrass.local.iot_bridge import check_topic
from fedgrass.local.iot_connection import IotMessage
from fedgrass.local.ipc_errors import InvalidArgumentsError
from fedgrass.local.nucleus import GreengrassCore
from fedgrass.local.profiles import Profile
from fedgrass.local.recipe import read_recipe
from fedgrass.local.recipe_folder import in_order

DEPLOYMENT_SECONDS: Final = 3_600.0


@dataclass(frozen=True)
class Outside:
    """What a core's control socket reaches beside the core itself."""

    publish: Callable[[IotMessage], Awaitable[None]]
    """Says something in the place of IoT Core. Raises a CoreError."""
    stop: Callable[[], None]
    """Asks for the core's end, without waiting for it."""


class CoreControl:
    """Answers control requests for one core."""

    def __init__(
        self, core: GreengrassCore, profile: Profile, injector: FaultInjector, outside: Outside
    ) -> None:
        self._core = core
        self._profile = profile
        self._injector = injector
        self._outside = outside
        self.name = core.thing_name
        """What the core is called on this machine."""
        self.is_ready = False
        """Whether the core is up: its socket listens before, for its name is taken from the start."""

    async def answer(self, request: AnyRequest) -> Reply:
        """Do what a request asks. Raises a CoreError that says why it cannot be done."""
        if not self.is_ready and not isinstance(request, Describe | Stop):
            message = f"{self.name} is still starting: try again"
            raise ControlError(message)
        match request:
            case Describe():
                return Reply(core=self._description())
            case Stop():
                self._outside.stop()
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
        except InvalidArgumentsError as exc:
            raise CoreError(str(exc)) from exc
        qos = cast("Literal[0, 1]", request.qos)
        await self._outside.publish(IotMessage(request.topic, request.payload, qos, request.retain))
        return Reply(said=f"{len(request.payload)} bytes published to {request.topic}")

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
        ended = await self._core.deployments.wait_for(deployment.identifier, DEPLOYMENT_SECONDS)
        what = f"deployment {ended.identifier} of {', '.join(ended.components)}"
        if ended.status is not DeploymentStatus.SUCCEEDED:
            message = f"{what}: {ended.outcome or ended.status}: {ended.reason}"
            raise CoreError(message)
        return Reply(said=f"{what}: {ended.outcome}")
