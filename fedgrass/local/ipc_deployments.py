"""The IPC operations about deployments that a component makes on its own core."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from fedgrass.local.access_control import CLI
from fedgrass.local.component_registry import ComponentRegistry
from fedgrass.local.core_errors import CoreError, UnknownDeploymentError
from fedgrass.local.deployment_records import ComponentSource, Deployment
from fedgrass.local.deployments import Deployments
from fedgrass.local.ipc_errors import InvalidArgumentsError, ResourceNotFoundError
from fedgrass.local.ipc_lifecycle import EVERY_COMPONENT
from fedgrass.local.ipc_operations import authorize
from fedgrass.local.ipc_requests import CreateLocalDeploymentRequest, GetLocalDeploymentStatusRequest, parse
from fedgrass.local.ipc_stream import Call, Operation
from fedgrass.local.recipe_folder import choose, recipes_in


class DeploymentOperations:
    """CreateLocalDeployment, GetLocalDeploymentStatus, ListLocalDeployments."""

    def __init__(self, registry: ComponentRegistry, deployments: Deployments) -> None:
        self._registry = registry
        self._deployments = deployments

    def by_name(self) -> Mapping[str, Operation]:
        """The operations, by the names that requests call them by."""
        return {
            "CreateLocalDeployment": self._create_local_deployment,
            "GetLocalDeploymentStatus": self._get_local_deployment_status,
            "ListLocalDeployments": self._list_local_deployments,
        }

    async def _create_local_deployment(self, call: Call) -> Mapping[str, object]:
        request = parse(CreateLocalDeploymentRequest, call.body)
        authorize(self._registry, call, CLI, EVERY_COMPONENT)
        configurations = {
            name: _merge_of(name, update)
            for name, update in (request.component_to_configuration or {}).items()
        }
        add, remove = request.root_component_versions_to_add or {}, request.root_components_to_remove or []
        if strange := sorted(set(configurations) - set(add) - set(self._registry.components)):
            message = f"componentToConfiguration names {strange[0]}, which is neither added nor deployed"
            raise InvalidArgumentsError(message)
        try:
            sources = await asyncio.to_thread(self._sources, request, add, configurations)
        except CoreError as exc:
            raise InvalidArgumentsError(str(exc)) from exc
        only_configured = {name: merge for name, merge in configurations.items() if name not in add}
        # The answer goes out first: the deployment may replace the component that asks for it.
        record = self._deployments.schedule(sources, remove, only_configured)
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
        authorize(self._registry, call, CLI, EVERY_COMPONENT)
        try:
            return {"deployment": _describe(self._deployments.get(request.deployment_id))}
        except UnknownDeploymentError as exc:
            raise ResourceNotFoundError(str(exc)) from exc

    async def _list_local_deployments(self, call: Call) -> Mapping[str, object]:
        authorize(self._registry, call, CLI, EVERY_COMPONENT)
        return {"localDeployments": [_describe(record) for record in self._deployments.records]}


def _merge_of(name: str, update: Mapping[str, object]) -> Mapping[str, object]:
    merge = update.get("MERGE", {})
    if not isinstance(merge, Mapping) or set(update) - {"MERGE"}:
        message = f"componentToConfiguration of {name} has to be a map with the one key MERGE, a map itself"
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
