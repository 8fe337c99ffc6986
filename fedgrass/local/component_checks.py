"""What has to hold before a component is taken in: its dependencies are there, its policies are its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedgrass.local.access_control import check_access_control, policy_ids
from fedgrass.local.core_errors import DependencyError, InvalidAccessControlError, RecipeError
from fedgrass.local.deployed_component import DeployedComponent
from fedgrass.local.recipe import Recipe

PROVIDED: Final = frozenset(
    {
        "aws.greengrass.Nucleus",
        "aws.greengrass.NucleusLite",
        "aws.greengrass.StreamManager",
        "aws.greengrass.TokenExchangeService",
    }
)
"""Components that the core itself stands in for."""


def hard_dependencies(recipe: Recipe) -> set[str]:
    """The components that have to be there before this one, without those that the core stands in for."""
    dependencies = recipe.component_dependencies.items()
    return {name for name, one in dependencies if one.dependency_type == "HARD"} - PROVIDED


def check_dependencies(recipe: Recipe, there: Mapping[str, DeployedComponent], thing: str) -> None:
    """Raise DependencyError unless all that the component needs is on the core."""
    for name in sorted(hard_dependencies(recipe) - set(there)):
        message = f"{recipe.component_name} needs {name}, which is not on {thing}: deploy it first"
        raise DependencyError(message)


def check_not_needed(name: str, there: Mapping[str, DeployedComponent]) -> None:
    """Raise DependencyError if another component needs this one."""
    for other in there.values():
        if other.name != name and name in hard_dependencies(other.recipe):
            message = f"{name} cannot be removed: {other.name} needs it, remove that too"
            raise DependencyError(message)


def check_policies(component: DeployedComponent, there: Mapping[str, DeployedComponent]) -> None:
    """Raise InvalidAccessControlError, or RecipeError for a policy id that another component has."""
    access_control = component.configuration.tree.get("accessControl", {})
    try:
        check_access_control(access_control)
    except InvalidAccessControlError as exc:
        message = f"{component.name}: {exc}"
        raise InvalidAccessControlError(message) from exc
    taken = {
        policy: other.name
        for other in there.values()
        if other.name != component.name
        for policy in policy_ids(other.configuration.tree.get("accessControl", {}))
    }
    for policy in policy_ids(access_control):
        if policy in taken:
            message = f"{component.name}: policy id {policy} is taken by {taken[policy]}: ids are unique"
            raise RecipeError(message)
