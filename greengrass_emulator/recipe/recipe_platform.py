"""Selects a recipe's manifest for this machine, and replaces recipe variables."""

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.emulator_errors import RecipeError
from greengrass_emulator.recipe.recipe_reader import Manifest, Recipe

_ARCHITECTURES = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "x86",
    "i686": "x86",
}
_VARIABLE = re.compile(r"\{(?:([\w.-]+):)?(artifacts|configuration|iot|kernel|work):([^{}\s]*)\}")


def select_manifest(recipe: Recipe, profile: Profile) -> Manifest:
    """Return the first manifest that fits this machine under the profile's nucleus.

    Raises:
        RecipeError: none fits.
    """
    here = {
        "os": platform.system().lower(),
        "architecture": _ARCHITECTURES.get(platform.machine().lower(), "unknown"),
    }
    for manifest in recipe.manifests:
        if _fits(manifest.platform, here, profile):
            return manifest
    hint = (
        ": nucleus lite needs `runtime: '*'` in a manifest's Platform" if profile.needs_runtime_field else ""
    )
    message = (
        f"{recipe.component_name} has no manifest for {here['os']} on {here['architecture']}"
        f" with nucleus {profile.name}{hint}"
    )
    raise RecipeError(message)


def _fits(wanted: Mapping[str, str], here: Mapping[str, str], profile: Profile) -> bool:
    runtime = wanted.get("runtime")
    if runtime is None and profile.needs_runtime_field:
        return False
    if runtime not in {None, "*", profile.runtime}:
        return False
    return all(
        value in {"*", "all", here.get(key)}
        for key, value in wanted.items()
        if key != "runtime" and (key in here or profile.reads_every_attribute)
    )


@dataclass(frozen=True)
class RecipeVariables:
    """The values of the variables of one component's recipe."""

    artifacts: Path
    decompressed: Path
    work: Path
    root: Path
    thing_name: str
    configuration: Mapping[str, object]
    dependencies: Mapping[str, "RecipeVariables"] = field(default_factory=dict)
    """Those of the direct dependencies, to which a recipe can refer on the classic nucleus."""

    def fill(self, text: str) -> str:
        """Return `text` with every recipe variable replaced. Raises RecipeError for an unknown one."""
        return _VARIABLE.sub(self._value, text)

    def _value(self, match: re.Match[str]) -> str:
        component, namespace, key = match.groups()
        if component:
            return self._of_dependency(component, match)
        if namespace == "configuration":
            return _as_text(self._configured(key))
        known = {
            "artifacts:path": self.artifacts,
            "artifacts:decompressedPath": self.decompressed,
            "work:path": self.work,
            "kernel:rootPath": self.root,
            "iot:thingName": self.thing_name,
        }
        try:
            return str(known[f"{namespace}:{key}"])
        except KeyError:
            names = ", ".join(f"{{{name}}}" for name in known)
            message = f"{match[0]} is not a recipe variable: there are {names}, {{configuration:/...}}"
            raise RecipeError(message) from None

    def _of_dependency(self, component: str, match: re.Match[str]) -> str:
        if component not in self.dependencies:
            known = ", ".join(self.dependencies) or "none"
            message = (
                f"{match[0]} refers to {component}: the classic nucleus replaces variables of deployed"
                f" direct dependencies ({known}), nucleus lite of no other component"
            )
            raise RecipeError(message)
        return self.dependencies[component].fill("{" + match[0].removeprefix("{" + component + ":"))

    def _configured(self, pointer: str) -> object:
        node: object = self.configuration
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(node, Mapping) or key not in node:
                message = f"{{configuration:{pointer}}} does not exist: the configuration has no {key!r}"
                raise RecipeError(message)
            node = node[key]
        return node


def interpolate(value: object, variables: RecipeVariables) -> object:
    """Return a configuration with the recipe variables in its strings replaced. Raises RecipeError."""
    if isinstance(value, str):
        return variables.fill(value)
    if isinstance(value, Mapping):
        return {key: interpolate(inner, variables) for key, inner in value.items()}
    return [interpolate(inner, variables) for inner in value] if isinstance(value, list) else value


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def environment(setenv: Mapping[str, object], variables: RecipeVariables) -> dict[str, str]:
    """Return a recipe's Setenv as environment variables, with recipe variables replaced.

    Raises:
        RecipeError: a value is neither a string nor a number.
    """
    for name, value in setenv.items():
        if not isinstance(value, str | int | float):
            message = f"Setenv {name} must be a string or a number, not {value!r}"
            raise RecipeError(message)
    return {name: variables.fill(_as_text(value)) for name, value in setenv.items()}
