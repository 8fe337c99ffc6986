"""The recipes of a folder, and the order in which components can be deployed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

from fedgrass.local.component_checks import hard_dependencies
from fedgrass.local.core_errors import DependencyError, RecipeError
from fedgrass.local.recipe import Recipe, read_recipe

SUFFIXES: Final = (".yaml", ".yml", ".json")


def recipes_in(folder: Path) -> dict[Path, Recipe]:
    """Every recipe of a folder, by file. Raises RecipeError for a file that holds none."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    except (OSError, ValueError) as exc:  # a ValueError: there is a null byte in the name
        message = f"recipe folder {str(folder)!r}: {getattr(exc, 'strerror', None) or exc}"
        raise RecipeError(message) from exc
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
    except CycleError as exc:
        circle: Sequence[str] = exc.args[1]
        message = f"components need each other in a circle: {' -> '.join(circle)}"
        raise DependencyError(message) from exc


def _version(entry: tuple[Path, Recipe]) -> tuple[int, ...]:
    numbers = entry[1].component_version.partition("-")[0].split(".")
    return tuple(int(number) for number in numbers)
