"""The IPC operations by which a component administers its core.

They list, describe, restart and stop components, and create local deployments.
"""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

from greengrass_emulator.deployment.component_dependencies import choose, recipes_in
from greengrass_emulator.deployment.core_deployments import Deployments
from greengrass_emulator.deployment.deployment_records import ComponentSource, Deployment
from greengrass_emulator.emulator_errors import CoreError, UnknownDeploymentError
from greengrass_emulator.ipc.ipc_model import (
    ComponentRequest,
    CreateLocalDeploymentRequest,
    GetLocalDeploymentStatusRequest,
    InvalidArgumentsError,
    ResourceNotFoundError,
    parse,
)
from greengrass_emulator.ipc.ipc_operations import Components, authorize
from greengrass_emulator.ipc.ipc_stream import Call, Operation
from greengrass_emulator.lifecycle.component_registry import ComponentRegistry
from greengrass_emulator.lifecycle.deployed_component import DeployedComponent
from greengrass_emulator.recipe.access_control import CLI

_EVERY_COMPONENT = "*"
"""The resource of operations that do not concern a single component."""


class Inventory(Components, Protocol):
    """The part of the core that these operations need."""

    @property
    def components(self) -> Mapping[str, DeployedComponent]:
        """All deployed components by name."""

    def state(self, name: str) -> str:
        """Return the state of a deployed component."""

    def schedule_restart(self, component: str) -> None:
        """Restart a deployed component, after the response has been sent."""

    def schedule_stop(self, component: str) -> None:
        """Stop a deployed component, after the response has been sent."""


class LifecycleOperations:
    """RestartComponent, StopComponent, ListComponents, GetComponentDetails."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def by_name(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {
            "RestartComponent": self._restart_component,
            "StopComponent": self._stop_component,
            "ListComponents": self._list_components,
            "GetComponentDetails": self._get_component_details,
        }

    def _allowed(self, call: Call) -> str:
        """Return the component that a request names. Raises UnauthorizedError, ResourceNotFoundError."""
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
        authorize(self._inventory, call, CLI, _EVERY_COMPONENT)
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


class DeploymentOperations:
    """CreateLocalDeployment, GetLocalDeploymentStatus, ListLocalDeployments."""

    def __init__(self, registry: ComponentRegistry, deployments: Deployments) -> None:
        self._registry = registry
        self._deployments = deployments

    def by_name(self) -> Mapping[str, Operation]:
        """Return the operations by name."""
        return {
            "CreateLocalDeployment": self._create_local_deployment,
            "GetLocalDeploymentStatus": self._get_local_deployment_status,
            "ListLocalDeployments": self._list_local_deployments,
        }

    async def _create_local_deployment(self, call: Call) -> Mapping[str, object]:
        request = parse(CreateLocalDeploymentRequest, call.body)
        authorize(self._registry, call, CLI, _EVERY_COMPONENT)
        configurations = {
            name: _merge_of(name, update)
            for name, update in (request.component_to_configuration or {}).items()
        }
        add, remove = request.root_component_versions_to_add or {}, request.root_components_to_remove or []
        if unknown := sorted(set(configurations) - set(add) - set(self._registry.components)):
            message = f"componentToConfiguration names {unknown[0]}, which is neither added nor deployed"
            raise InvalidArgumentsError(message)
        try:
            sources = await asyncio.to_thread(self._sources, request, add, configurations)
        except CoreError as error:
            raise InvalidArgumentsError(str(error)) from error
        merges_only = {name: merge for name, merge in configurations.items() if name not in add}
        # The response is sent first: the deployment may replace the component that requests it.
        record = self._deployments.schedule(sources, remove, merges_only)
        return {"deploymentId": record.identifier}

    def _sources(
        self,
        request: CreateLocalDeploymentRequest,
        add: Mapping[str, str],
        configurations: Mapping[str, Mapping[str, object]],
    ) -> list[ComponentSource]:
        if not add:
            return []
        if request.recipe_directory_path is None:
            message = "rootComponentVersionsToAdd needs recipeDirectoryPath, the folder with the recipes"
            raise InvalidArgumentsError(message)
        recipes = recipes_in(Path(request.recipe_directory_path))
        artifacts = Path(request.artifacts_directory_path or request.recipe_directory_path)
        return [
            ComponentSource(
                file, artifacts, configurations.get(recipes[file].component_name, {}), is_local=True
            )
            for file in choose(recipes, add, self._registry.components)
        ]

    async def _get_local_deployment_status(self, call: Call) -> Mapping[str, object]:
        request = parse(GetLocalDeploymentStatusRequest, call.body)
        authorize(self._registry, call, CLI, _EVERY_COMPONENT)
        try:
            return {"deployment": _describe(self._deployments.get(request.deployment_id))}
        except UnknownDeploymentError as error:
            raise ResourceNotFoundError(str(error)) from error

    async def _list_local_deployments(self, call: Call) -> Mapping[str, object]:
        authorize(self._registry, call, CLI, _EVERY_COMPONENT)
        return {"localDeployments": [_describe(record) for record in self._deployments.records]}


def _merge_of(name: str, update: Mapping[str, object]) -> Mapping[str, object]:
    merge = update.get("MERGE", {})
    if not isinstance(merge, Mapping) or set(update) - {"MERGE"}:
        message = f"componentToConfiguration of {name} must be a map with the one key MERGE, a map itself"
        raise InvalidArgumentsError(message)
    return cast("Mapping[str, object]", merge)


def _describe(record: Deployment) -> Mapping[str, object]:
    details: dict[str, object] = {"detailedDeploymentStatus": record.outcome} if record.outcome else {}
    if record.reason:
        details["deploymentFailureCause"] = record.reason
    return {
        "deploymentId": record.identifier,
        "status": record.status,
        "createdOn": datetime.fromtimestamp(record.created_at, UTC).isoformat(timespec="milliseconds"),
        "deploymentStatusDetails": details,
    }
