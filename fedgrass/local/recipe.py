"""Reads a component recipe, more strictly than Greengrass: what one nucleus would trip over is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import yaml
from msgspec import Meta

from fedgrass.local.access_control import check_access_control
from fedgrass.local.core_errors import InvalidAccessControlError, RecipeError
from fedgrass.local.recipe_lifecycle import CLASSIC_PHASES, PHASES, Lifecycle, RecipeMap, spelled_as_lite
from fedgrass.local.recipe_yaml import load_yaml

LARGEST_RECIPE_BYTES: Final = 16_000
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Permission(RecipeMap, frozen=True):
    """Who may read or execute an artifact."""

    read: Literal["NONE", "OWNER", "ALL"] = "OWNER"
    execute: Literal["NONE", "OWNER", "ALL"] = "NONE"


class Artifact(RecipeMap, frozen=True):
    """A file that belongs to a component."""

    uri: str = msgspec.field(name="URI")
    unarchive: Literal["NONE", "ZIP"] = "NONE"
    permission: Permission = Permission()
    digest: str | None = None
    algorithm: str | None = None

    @property
    def file_name(self) -> str:
        """The last part of the URI."""
        return self.uri.rsplit("/", 1)[-1]


class Manifest(RecipeMap, kw_only=True, frozen=True):
    """What to do on one platform."""

    name: str = ""
    platform: dict[str, str] = msgspec.field(default_factory=dict)
    lifecycle: Lifecycle
    artifacts: list[Artifact] = msgspec.field(default_factory=list)


class Dependency(RecipeMap, frozen=True):
    """Another component that has to be there."""

    version_requirement: str
    dependency_type: Literal["HARD", "SOFT"] = "HARD"


class ComponentConfiguration(RecipeMap, frozen=True):
    """What the component's configuration starts with."""

    default_configuration: dict[str, object] = msgspec.field(default_factory=dict)


class Recipe(RecipeMap, frozen=True):
    """A whole recipe."""

    recipe_format_version: Literal["2020-01-25"]
    component_name: str
    component_version: str
    manifests: Annotated[list[Manifest], Meta(min_length=1)]
    component_description: str = ""
    component_publisher: str = ""
    component_type: Literal["aws.greengrass.generic"] = "aws.greengrass.generic"
    component_configuration: ComponentConfiguration = ComponentConfiguration()
    component_dependencies: dict[str, Dependency] = msgspec.field(default_factory=dict)

    @property
    def default_configuration(self) -> dict[str, object]:
        """What the component's configuration starts with."""
        return self.component_configuration.default_configuration


# msgspec 0.22 crashes the process if several threads are the first to use a Struct. Cores read their recipes
# in threads, so it is used here once, while only one thread can.
msgspec.json.Decoder(Recipe)


def read_recipe(path: Path, *, scalars_are_strings: bool = False, classic: bool = False) -> Recipe:
    """The recipe in a YAML or JSON file. Raises RecipeError.

    With `scalars_are_strings` the default configuration of a YAML file holds `'3'` where it says `3`. With
    `classic` the recipe may have what only the classic nucleus reads: steps in capitals, and more of them.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_RECIPE_BYTES + 1)
    except (OSError, ValueError) as exc:  # a ValueError: there is a null byte in the name
        message = f"recipe {path}: {getattr(exc, 'strerror', None) or exc}"
        raise RecipeError(message) from exc
    if len(raw) > LARGEST_RECIPE_BYTES:
        size = max(len(raw), path.stat().st_size)  # a device has no size
        message = f"recipe {path}: {size} bytes are over Greengrass's limit of {LARGEST_RECIPE_BYTES}"
        raise RecipeError(message)
    try:
        # JSON tells numbers from strings on every nucleus.
        strings = scalars_are_strings and path.suffix != ".json"
        return parse_recipe(raw, scalars_are_strings=strings, classic=classic)
    except RecipeError as exc:
        message = f"recipe {path}: {exc}"
        raise RecipeError(message) from exc


def parse_recipe(raw: bytes, *, scalars_are_strings: bool = False, classic: bool = False) -> Recipe:
    """The recipe in YAML or JSON text. Raises RecipeError."""
    try:
        document = load_yaml(raw, scalars_are_strings=scalars_are_strings)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # ValueError: not UTF-8, or 5,000 digits
        message = f"it is neither YAML nor JSON: {exc}"
        raise RecipeError(message) from exc
    try:
        # Not strict: numbers and booleans may arrive as strings, as both nuclei allow.
        recipe = msgspec.convert(spelled_as_lite(document) if classic else document, Recipe, strict=False)
    except msgspec.ValidationError as exc:
        raise RecipeError(_explain(str(exc))) from exc
    _check(recipe, classic=classic)
    return recipe


def _explain(message: str) -> str:
    """Add the way out to msgspec's words, where there is a usual mistake."""
    unknown = re.search(r"unknown field `(\w+)`", message)
    if unknown and unknown[1].lower() in PHASES:
        return f"{message}: spell it `{unknown[1].lower()}`, Nucleus Lite tells capitals from small letters"
    if unknown and unknown[1].lower() in CLASSIC_PHASES:
        return f"{message}: under nucleus lite the local core knows the phases {', '.join(PHASES)}"
    if unknown and unknown[1] == "Lifecycle":
        return f"{message}: write the lifecycle into each manifest, the global form is not supported here"
    return message


def _check(recipe: Recipe, *, classic: bool) -> None:
    if not _NAME.fullmatch(recipe.component_name):
        message = f"ComponentName {recipe.component_name!r} holds signs other than letters, digits, - _ ."
        raise RecipeError(message)
    if not _VERSION.fullmatch(recipe.component_version):
        message = (
            f"ComponentVersion {recipe.component_version!r} is no version such as 1.0.0: if it is GDK's"
            " placeholder, build the component first, with a version of its own in gdk-config.json, and use"
            " the recipe of the build"
        )
        raise RecipeError(message)
    try:
        check_access_control(recipe.default_configuration.get("accessControl", {}))
    except InvalidAccessControlError as exc:
        raise RecipeError(str(exc)) from exc
    for manifest in recipe.manifests:
        _check_manifest(manifest, classic=classic)


def _check_manifest(manifest: Manifest, *, classic: bool) -> None:
    lifecycle = manifest.lifecycle
    if lifecycle.run is not None and lifecycle.startup is not None:
        message = "a lifecycle has either `run` or `startup`, this one has both"
        raise RecipeError(message)
    for name in (*PHASES, *CLASSIC_PHASES):
        step = lifecycle.phase(name)
        if step is not None and name in CLASSIC_PHASES and not classic:
            message = f"{name}: under nucleus lite the local core knows the phases {', '.join(PHASES)}"
            raise RecipeError(message)
        if step is not None and step.requires_privilege:
            message = f"{name} has RequiresPrivilege, but the local core runs components as yourself"
            raise RecipeError(message)
    for artifact in manifest.artifacts:
        if not artifact.file_name or artifact.file_name in {".", ".."}:
            message = f"artifact URI {artifact.uri!r} ends in no file name"
            raise RecipeError(message)
        if not re.match(r"(s3|file)://", artifact.uri):
            message = f"artifact URI {artifact.uri!r} is neither s3:// nor file://"
            raise RecipeError(message)
