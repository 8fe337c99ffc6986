"""Deferral of deployments by components, as on the classic nucleus.

Before it changes anything, a deployment sends each subscribed component a preUpdateEvent and waits at most 60
seconds for the answers. A component that defers is asked again after the time that it has requested; after an
answer of 0, or none, the deployment continues. Nucleus Lite has neither operation.
"""

import asyncio
from collections.abc import Mapping

from greengrass_emulator.ipc.ipc_model import (
    DeferComponentUpdateRequest,
    InvalidArgumentsError,
    ServiceError,
    parse,
)
from greengrass_emulator.ipc.ipc_stream import Call, IpcStream, Operation

_ANSWER_SECONDS = 60.0
"""The default of a deployment's componentUpdatePolicy."""
_MILLISECONDS = 1_000


class ComponentUpdates:
    """SubscribeToComponentUpdates and DeferComponentUpdate, and the deployments that wait for the answers."""

    def __init__(self) -> None:
        self.answer_seconds = _ANSWER_SECONDS
        self._listeners: dict[str, set[IpcStream]] = {}
        self._unanswered: dict[tuple[str, str], asyncio.Future[float]] = {}

    def by_name(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {
            "SubscribeToComponentUpdates": self._subscribe_to_component_updates,
            "DeferComponentUpdate": self._defer_component_update,
        }

    async def wait_for_components(self, deployment: str) -> None:
        """Return once no component defers the deployment."""
        while self._listeners:
            asked = [self._ask(component, deployment) for component in self._listeners]
            answered, _ = await asyncio.wait(asked, timeout=self.answer_seconds)
            self._unanswered.clear()
            seconds = max((answer.result() for answer in answered), default=0.0)
            if seconds <= 0:
                return
            await asyncio.sleep(seconds)

    def report_done(self, deployment: str) -> None:
        """Send postUpdateEvent to the components that are still subscribed."""
        self._send({"postUpdateEvent": {"deploymentId": deployment}}, *self._listeners)

    def _ask(self, component: str, deployment: str) -> asyncio.Future[float]:
        answer = asyncio.get_running_loop().create_future()
        self._unanswered[component, deployment] = answer
        event = {"preUpdateEvent": {"deploymentId": deployment, "isGgcRestarting": False}}
        self._send(event, component)
        return answer

    def _send(self, event: Mapping[str, object], *components: str) -> None:
        for component in components:
            for stream in list(self._listeners[component]):
                stream.send_event("ComponentUpdatePolicyEvents", event)

    async def _subscribe_to_component_updates(self, call: Call) -> Mapping[str, object]:
        self._listeners.setdefault(call.component, set()).add(call.stream)

        def leave() -> None:
            self._listeners[call.component].discard(call.stream)
            if not self._listeners[call.component]:
                del self._listeners[call.component]
                for (component, _), answer in self._unanswered.items():
                    if component == call.component and not answer.done():
                        answer.set_result(0.0)

        call.stream.keep_open(leave)
        return {}

    async def _defer_component_update(self, call: Call) -> Mapping[str, object]:
        request = parse(DeferComponentUpdateRequest, call.body)
        if call.component not in self._listeners:
            message = "Component is not subscribed to component update events"
            raise InvalidArgumentsError(message)
        if request.deployment_id is None:
            message = "Cannot defer the update, the deployment ID provided was null"
            raise InvalidArgumentsError(message)
        answer = self._unanswered.pop((call.component, request.deployment_id), None)
        if answer is None or answer.done():
            message = "Time limit to respond to PreComponentUpdateEvent exceeded"
            raise ServiceError(message)
        answer.set_result((request.recheck_after_ms or 0) / _MILLISECONDS)
        return {}
