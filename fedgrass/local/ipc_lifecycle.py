"""The IPC operations about other components: list them, describe, restart and stop them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from fedgrass.local.access_control import CLI
from fedgrass.local.deployed_component import DeployedComponent
from fedgrass.local.ipc_errors import ResourceNotFoundError
from fedgrass.local.ipc_operations import Components, authorize
from fedgrass.local.ipc_requests import ComponentRequest, parse
from fedgrass.local.ipc_stream import Call, Operation

EVERY_COMPONENT: Final = "*"
"""The resource of operations that are about no single component."""


class Inventory(Components, Protocol):
    """What these operations need of the core that they belong to."""

    @property
    def components(self) -> Mapping[str, DeployedComponent]:
        """All deployed components by name."""

    def state(self, name: str) -> str:
        """The state of a deployed component."""

    def schedule_restart(self, component: str) -> None:
        """Restart a deployed component soon, after the answer has been sent."""

    def schedule_stop(self, component: str) -> None:
        """Stop a deployed component soon, after the answer has been sent."""


class LifecycleOperations:
    """RestartComponent, StopComponent, ListComponents, GetComponentDetails."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def by_name(self) -> Mapping[str, Operation]:
        """The operations, by the names that requests call them by."""
        return {
            "RestartComponent": self._restart_component,
            "StopComponent": self._stop_component,
            "ListComponents": self._list_components,
            "GetComponentDetails": self._get_component_details,
        }

    def _allowed(self, call: Call) -> str:
        """The component that a request names. Raises UnauthorizedError, ResourceNotFoundError."""
        name = parse(ComponentRequest, call.body).component_name
        authorize(self._inventory, call, CLI, name)
        if name not in self._inventory.components:
            message = f"no component {name} is deployed here"
            raise ResourceNotFoundError(message)
        return name

    async def _restart_component(self, call: Call) -> Mapping[str, object]:
        self._inventory.schedule_restart(self._allowed(call))
        return {"restartStatus": "SUCCEEDED"}

    async def _stop_component(self, call: Call) -> Mapping[str, object]:
        self._inventory.schedule_stop(self._allowed(call))
        return {"stopStatus": "SUCCEEDED"}

    async def _list_components(self, call: Call) -> Mapping[str, object]:
        authorize(self._inventory, call, CLI, EVERY_COMPONENT)
        return {"components": [self._describe(name) for name in self._inventory.components]}

    async def _get_component_details(self, call: Call) -> Mapping[str, object]:
        return {"componentDetails": self._describe(self._allowed(call))}

    def _describe(self, name: str) -> Mapping[str, object]:
        component = self._inventory.components[name]
        return {
            "componentName": name,
            "version": component.recipe.component_version,
            "state": self._inventory.state(name),
            "configuration": component.configuration.tree,
        }
