"""Dependencies between components: the checks before a component is deployed, and the order of deployment.

A component is accepted if its hard dependencies are deployed and no other component has its policies'
identifiers. A folder of recipes is put in an order in which each component follows its dependencies.
"""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from greengrass_emulator.emulator_errors import DependencyError, InvalidAccessControlError, RecipeError
from greengrass_emulator.lifecycle.deployed_component import DeployedComponent
from greengrass_emulator.recipe.access_control import check_access_control, policy_ids
from greengrass_emulator.recipe.recipe_reader import Recipe, read_recipe

PROVIDED = frozenset(
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
    except InvalidAccessControlError as error:
        message = f"{component.name}: {error}"
        raise InvalidAccessControlError(message) from error
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


SUFFIXES = (".yaml", ".yml", ".json")


def recipes_in(folder: Path) -> dict[Path, Recipe]:
    """Every recipe of a folder, by file. Raises RecipeError for a file that holds none."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    except (OSError, ValueError) as error:  # a ValueError: there is a null byte in the name
        message = f"recipe folder {str(folder)!r}: {getattr(error, 'strerror', None) or error}"
        raise RecipeError(message) from error
    return {file: read_recipe(file, classic=True) for file in files}


def choose(recipes: Mapping[Path, Recipe], wanted: Mapping[str, str], there: Iterable[str]) -> list[Path]:
    """The recipe files for `wanted` (version by component), those they need first.

    A dependency that is not `there` is taken from the folder too. Raises RecipeError for a component that is
    neither, DependencyError for one that needs itself.
    """
    by_version = {(one.component_name, one.component_version): file for file, one in recipes.items()}
    newest = {one.component_name: file for file, one in sorted(recipes.items(), key=_version)}
    chosen: dict[str, Path] = {}
    for name, version in wanted.items():
        if (name, version) not in by_version:
            message = f"there is no recipe of {name} {version} in the recipe folder"
            raise RecipeError(message)
        chosen[name] = by_version[name, version]
    looked_at: set[str] = set()
    while unseen := set(chosen) - looked_at:
        for name in unseen:
            looked_at.add(name)
            missing = hard_dependencies(recipes[chosen[name]]) - set(there) - set(chosen)
            chosen.update({one: newest[one] for one in missing if one in newest})
    return in_order({file: recipes[file] for file in chosen.values()})


def in_order(recipes: Mapping[Path, Recipe]) -> list[Path]:
    """The recipe files, each behind those that it needs. Raises DependencyError for a circle."""
    files = {recipe.component_name: file for file, recipe in recipes.items()}
    if len(files) < len(recipes):
        message = "two of the recipes are of the same component: deploy one version of it"
        raise DependencyError(message)
    sorter = TopologicalSorter(
        {name: hard_dependencies(recipes[file]) & set(files) for name, file in files.items()}
    )
    try:
        return [files[name] for name in sorter.static_order()]
    except CycleError as error:
        circle: Sequence[str] = error.args[1]
        message = f"components need each other in a circle: {' -> '.join(circle)}"
        raise DependencyError(message) from error


def _version(entry: tuple[Path, Recipe]) -> tuple[int, ...]:
    numbers = entry[1].component_version.partition("-")[0].split(".")
    return tuple(int(number) for number in numbers)
