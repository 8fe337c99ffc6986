"""Reads component recipes, more strictly than Greengrass: what either nucleus would reject is an error.

YAML is read as by the nuclei: without dates, no key twice, and for Nucleus Lite each scalar as a string.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec
import yaml
from msgspec import Meta

from greengrass_emulator.emulator_errors import InvalidAccessControlError, RecipeError
from greengrass_emulator.recipe.access_control import check_access_control

_DEFAULT_PHASE_SECONDS = 120
_PHASES = ("install", "run", "shutdown")
_CLASSIC_PHASES = ("bootstrap", "recover", "startup")
"""Steps that exist on the classic nucleus only."""

LARGEST_RECIPE_BYTES = 16_000
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def load_yaml(raw: bytes, *, scalars_are_strings: bool = False) -> object:
    """Read a YAML or JSON document. Raises yaml.YAMLError, UnicodeDecodeError or RecursionError."""
    # Both loaders are SafeLoaders, which build only plain objects.
    return yaml.load(raw, _StringLoader if scalars_are_strings else _Loader)  # noqa: S506 - as above


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's way to configure a loader
        # `2020-01-25`, the version of the recipe format, is a string to Greengrass.
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # noqa: FBT001, FBT002 - PyYAML's
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = {str(key) for key in keys if keys.count(key) > 1 and key != "<<"}
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {', '.join(sorted(doubled))} is given twice", node.start_mark
            )
        return dict(super().construct_mapping(node, deep=deep))


class _StringLoader(_Loader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - as above


class RecipeMap(msgspec.Struct, rename="pascal", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of the recipe's maps: an unknown key is refused."""


class Phase(RecipeMap, frozen=True):
    """One step of a lifecycle."""

    script: str
    timeout: Annotated[int, Meta(gt=0)] = _DEFAULT_PHASE_SECONDS
    """Seconds; `run` has none."""
    setenv: dict[str, object] = {}
    requires_privilege: bool = False


class Lifecycle(RecipeMap, rename=None, frozen=True):
    """The steps of a component's lifecycle. Nucleus Lite knows them in lower case only."""

    setenv: dict[str, object] = msgspec.field(default_factory=dict, name="Setenv")
    install: str | Phase | None = None
    run: str | Phase | None = None
    shutdown: str | Phase | None = None
    bootstrap: str | Phase | None = None
    startup: str | Phase | None = None
    recover: str | Phase | None = None

    def phase(self, name: str) -> Phase | None:
        """Return the step of that name in its long form, or None."""
        step = getattr(self, name)
        return Phase(script=step) if isinstance(step, str) else cast("Phase | None", step)


def spelled_as_lite(document: object) -> object:
    """Return a recipe with all steps in lower case: the classic nucleus reads `Run` and `Install` too."""
    if not isinstance(document, Mapping) or not isinstance(document.get("Manifests"), list):
        return document
    return {**document, "Manifests": [_manifest(manifest) for manifest in document["Manifests"]]}


def _manifest(manifest: object) -> object:
    if not isinstance(manifest, Mapping) or not isinstance(manifest.get("Lifecycle"), Mapping):
        return manifest
    known = {name.lower(): name for name in (*_PHASES, *_CLASSIC_PHASES, "Setenv")}
    steps: dict[object, object] = {}
    for key, step in manifest["Lifecycle"].items():
        name = known.get(str(key).lower(), key)
        # A step that is given twice, in two spellings, stays as it is and is refused as unknown later.
        steps[key if name in steps else name] = step
    return {**manifest, "Lifecycle": steps}


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
    """The lifecycle and the artifacts on one platform."""

    name: str = ""
    platform: dict[str, str] = msgspec.field(default_factory=dict)
    lifecycle: Lifecycle
    artifacts: list[Artifact] = msgspec.field(default_factory=list)


class Dependency(RecipeMap, frozen=True):
    """A dependency on another component."""

    version_requirement: str
    dependency_type: Literal["HARD", "SOFT"] = "HARD"


class ComponentConfiguration(RecipeMap, frozen=True):
    """The component's default configuration."""

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
        """The component's default configuration."""
        return self.component_configuration.default_configuration


# msgspec 0.22 crashes the process if several threads are the first to use a Struct. Cores read recipes in
# threads, so it is used once at import.
msgspec.json.Decoder(Recipe)


def read_recipe(path: Path, *, scalars_are_strings: bool = False, classic: bool = False) -> Recipe:
    """Return the recipe in a YAML or JSON file.

    Args:
        path: the file.
        scalars_are_strings: whether a `3` of a YAML file is read as `'3'`.
        classic: whether steps may be in capitals, and those of the classic nucleus are accepted.

    Raises:
        RecipeError: it cannot be read, or is not a valid recipe.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_RECIPE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        message = f"recipe {path}: {getattr(error, 'strerror', None) or error}"
        raise RecipeError(message) from error
    if len(raw) > LARGEST_RECIPE_BYTES:
        size = max(len(raw), path.stat().st_size)  # a device has no size
        message = f"recipe {path}: {size} bytes exceed Greengrass's limit of {LARGEST_RECIPE_BYTES}"
        raise RecipeError(message)
    try:
        # In JSON numbers and strings are distinct on every nucleus.
        strings = scalars_are_strings and path.suffix != ".json"
        return parse_recipe(raw, scalars_are_strings=strings, classic=classic)
    except RecipeError as error:
        message = f"recipe {path}: {error}"
        raise RecipeError(message) from error


def parse_recipe(raw: bytes, *, scalars_are_strings: bool = False, classic: bool = False) -> Recipe:
    """Return the recipe in YAML or JSON text. Raises RecipeError."""
    try:
        document = load_yaml(raw, scalars_are_strings=scalars_are_strings)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or 5,000 digits
        message = f"it is neither YAML nor JSON: {error}"
        raise RecipeError(message) from error
    try:
        # Not strict: numbers and booleans may arrive as strings, as both nuclei allow.
        recipe = msgspec.convert(spelled_as_lite(document) if classic else document, Recipe, strict=False)
    except msgspec.ValidationError as error:
        raise RecipeError(_explain(str(error))) from error
    _check(recipe, classic=classic)
    return recipe


def _explain(message: str) -> str:
    """Add the remedy to msgspec's message for common mistakes."""
    unknown = re.search(r"unknown field `(\w+)`", message)
    if unknown and unknown[1].lower() in _PHASES:
        return f"{message}: spell it `{unknown[1].lower()}`, names are case-sensitive on Nucleus Lite"
    if unknown and unknown[1].lower() in _CLASSIC_PHASES:
        return f"{message}: nucleus lite has the phases {', '.join(_PHASES)}"
    if unknown and unknown[1] == "Lifecycle":
        return f"{message}: write the lifecycle into each manifest, the global form is not supported here"
    if unknown and unknown[1].lower() == "skipif":
        return f"{message}: let the script itself test the condition, Skipif is not supported here"
    return message


def _check(recipe: Recipe, *, classic: bool) -> None:
    if not _NAME.fullmatch(recipe.component_name):
        message = f"ComponentName {recipe.component_name!r} may have letters, digits and - _ . only"
        raise RecipeError(message)
    if not _VERSION.fullmatch(recipe.component_version):
        message = (
            f"ComponentVersion {recipe.component_version!r} is not a version such as 1.0.0: if it is GDK's"
            " placeholder, set a version in gdk-config.json, build the component, and use the recipe of the"
            " build"
        )
        raise RecipeError(message)
    try:
        check_access_control(recipe.default_configuration.get("accessControl", {}))
    except InvalidAccessControlError as error:
        raise RecipeError(str(error)) from error
    for manifest in recipe.manifests:
        _check_manifest(manifest, classic=classic)


def _check_manifest(manifest: Manifest, *, classic: bool) -> None:
    lifecycle = manifest.lifecycle
    if lifecycle.run is not None and lifecycle.startup is not None:
        message = "a lifecycle has either `run` or `startup`, this one has both"
        raise RecipeError(message)
    for name in (*_PHASES, *_CLASSIC_PHASES):
        step = lifecycle.phase(name)
        if step is not None and name in _CLASSIC_PHASES and not classic:
            message = f"{name}: nucleus lite has the phases {', '.join(_PHASES)}"
            raise RecipeError(message)
        if step is not None and step.requires_privilege:
            message = f"{name} has RequiresPrivilege, but the emulator runs components as your user"
            raise RecipeError(message)
    for artifact in manifest.artifacts:
        if not artifact.file_name or artifact.file_name in {".", ".."}:
            message = f"artifact URI {artifact.uri!r} does not end in a file name"
            raise RecipeError(message)
        if not re.match(r"(s3|file)://", artifact.uri):
            message = f"artifact URI {artifact.uri!r} is neither s3:// nor file://"
            raise RecipeError(message)
