"""Dependencies between components: the checks before a component is deployed, and the order of deployment.

A component is accepted if its HARD dependencies are deployed and no other component uses the ids of its
policies. Recipes are ordered so that each component follows its dependencies.
"""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from greengrass_emulator.emulator_errors import DependencyError, InvalidAccessControlError, RecipeError
from greengrass_emulator.lifecycle.deployed_component import DeployedComponent
from greengrass_emulator.recipe.access_control import check_access_control, policy_ids
from greengrass_emulator.recipe.recipe_reader import Recipe, read_recipe

_PROVIDED = frozenset(
    {
        "aws.greengrass.Nucleus",
        "aws.greengrass.NucleusLite",
        "aws.greengrass.StreamManager",
        "aws.greengrass.TokenExchangeService",
    }
)
"""Components that the emulator itself provides."""

_SUFFIXES = (".yaml", ".yml", ".json")


def hard_dependencies(recipe: Recipe) -> set[str]:
    """Return the HARD dependencies of a component, without those that the emulator provides."""
    dependencies = recipe.component_dependencies.items()
    return {name for name, one in dependencies if one.dependency_type == "HARD"} - _PROVIDED


def check_dependencies(recipe: Recipe, deployed: Mapping[str, DeployedComponent], thing: str) -> None:
    """Raise DependencyError unless the HARD dependencies of a component are deployed."""
    for name in sorted(hard_dependencies(recipe) - set(deployed)):
        message = f"{recipe.component_name} needs {name}, which is not deployed on {thing}: deploy it first"
        raise DependencyError(message)


def check_not_needed(name: str, deployed: Mapping[str, DeployedComponent]) -> None:
    """Raise DependencyError if another component has a HARD dependency on this one."""
    for other in deployed.values():
        if other.name != name and name in hard_dependencies(other.recipe):
            message = f"{name} cannot be removed: {other.name} needs it, remove that too"
            raise DependencyError(message)


def check_policies(component: DeployedComponent, deployed: Mapping[str, DeployedComponent]) -> None:
    """Check a component's ``accessControl``.

    Raises:
        InvalidAccessControlError: it is not valid.
        RecipeError: another component uses the id of one of its policies.
    """
    access_control = component.configuration.tree.get("accessControl", {})
    try:
        check_access_control(access_control)
    except InvalidAccessControlError as error:
        message = f"{component.name}: {error}"
        raise InvalidAccessControlError(message) from error
    taken = {
        policy: other.name
        for other in deployed.values()
        if other.name != component.name
        for policy in policy_ids(other.configuration.tree.get("accessControl", {}))
    }
    for policy in policy_ids(access_control):
        if policy in taken:
            message = f"{component.name}: policy id {policy} is already used by {taken[policy]}"
            raise RecipeError(message)


def recipes_in(folder: Path) -> dict[Path, Recipe]:
    """Return every recipe of a folder, by file. Raises RecipeError for a file that is not a recipe."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        message = f"recipe folder {str(folder)!r}: {getattr(error, 'strerror', None) or error}"
        raise RecipeError(message) from error
    return {file: read_recipe(file, classic=True) for file in files}


def choose(recipes: Mapping[Path, Recipe], wanted: Mapping[str, str], deployed: Iterable[str]) -> list[Path]:
    """Return the recipe files of the wanted components, dependencies first.

    Args:
        recipes: those of a folder, by file.
        wanted: version by component.
        deployed: the components on the core; dependencies that are not among them are taken from the folder.

    Raises:
        RecipeError: a wanted component is not in the folder.
        DependencyError: components depend on each other in a circle.
    """
    by_version = {(one.component_name, one.component_version): file for file, one in recipes.items()}
    newest = {one.component_name: file for file, one in sorted(recipes.items(), key=_version)}
    chosen: dict[str, Path] = {}
    for name, version in wanted.items():
        if (name, version) not in by_version:
            message = f"there is no recipe of {name} {version} in the recipe folder"
            raise RecipeError(message)
        chosen[name] = by_version[name, version]
    examined: set[str] = set()
    while unseen := set(chosen) - examined:
        for name in unseen:
            examined.add(name)
            missing = hard_dependencies(recipes[chosen[name]]) - set(deployed) - set(chosen)
            chosen.update({one: newest[one] for one in missing if one in newest})
    return in_order({file: recipes[file] for file in chosen.values()})


def in_order(recipes: Mapping[Path, Recipe]) -> list[Path]:
    """Return the recipe files, each after its dependencies.

    Raises:
        DependencyError: the dependencies form a circle, or two recipes are of the same component.
    """
    files = {recipe.component_name: file for file, recipe in recipes.items()}
    if len(files) < len(recipes):
        message = "two of the recipes are of the same component: deploy only one version of it"
        raise DependencyError(message)
    sorter = TopologicalSorter(
        {name: hard_dependencies(recipes[file]) & set(files) for name, file in files.items()}
    )
    try:
        return [files[name] for name in sorter.static_order()]
    except CycleError as error:
        circle: Sequence[str] = error.args[1]
        message = f"components depend on each other in a circle: {' -> '.join(circle)}"
        raise DependencyError(message) from error


def _version(entry: tuple[Path, Recipe]) -> tuple[int, ...]:
    numbers = entry[1].component_version.partition("-")[0].split(".")
    return tuple(int(number) for number in numbers)
