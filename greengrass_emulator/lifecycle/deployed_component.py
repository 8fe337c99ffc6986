"""One component on a core: its recipe, its configuration, its token, and what its process gets."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from greengrass_emulator.child_environment import base_environment
from greengrass_emulator.core.core_settings import CoreSettings
from greengrass_emulator.deployment.component_artifacts import artifact_folders
from greengrass_emulator.lifecycle.component_lifecycle import ComponentLifecycle
from greengrass_emulator.lifecycle.configuration_tree import Configuration
from greengrass_emulator.lifecycle.guarded_script import LifecycleScripts, Script, TimedScript
from greengrass_emulator.recipe.recipe_platform import RecipeVariables, environment
from greengrass_emulator.recipe.recipe_reader import Manifest, Recipe

STREAM_MANAGER = "aws.greengrass.StreamManager"
TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name


@dataclass(frozen=True)
class CoreSurroundings:
    """What every component of a core is told of it."""

    root: Path
    thing_name: str
    environment: Mapping[str, str]
    token_exchange_url: str
    interpolates_configuration: bool = False
    """Whether recipe variables in a component's configuration are replaced when it is deployed."""
    reads_dependencies: bool = False
    """Whether a recipe variable may ask a direct dependency, as in `{com.example.Model:artifacts:path}`."""
    quotes_setenv: bool = True
    """Whether the shell reads each value of a recipe's Setenv as one word."""
    variables_of: Callable[[str], RecipeVariables | None] = lambda _: None
    """The variables of another deployed component."""


def surroundings(
    settings: CoreSettings, root: Path, ipc_socket: str, token_exchange_url: str
) -> CoreSurroundings:
    """What a running core of these settings tells its components; `root` is the core's folder."""
    profile = settings.profile
    environment = {
        **base_environment(os.environ, home_folder(root), profile.component_user),
        **settings.environment,
        "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": ipc_socket,
        "AWS_IOT_THING_NAME": settings.thing_name,
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        "GGC_VERSION": profile.nucleus_version,
        "GG_ROOT_CA_PATH": str(settings.root_ca.absolute()),
    }
    return CoreSurroundings(
        root,
        settings.thing_name,
        environment,
        token_exchange_url,
        settings.interpolate_component_configuration and profile.interpolates_configuration,
        profile.reads_dependencies,
        profile.quotes_setenv,
    )


@dataclass(eq=False)
class DeployedComponent:
    """A component from its deployment on."""

    recipe: Recipe
    manifest: Manifest
    configuration: Configuration
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    process: ComponentLifecycle | None = None
    scripts: LifecycleScripts | None = None
    """What the process was last started with."""

    @property
    def name(self) -> str:
        """The component's name."""
        return self.recipe.component_name

    def render(self, core: CoreSurroundings) -> LifecycleScripts:
        """The lifecycle with all variables filled in.

        Raises RecipeError for a variable that stands for nothing.
        """
        variables = self.variables(core)
        run = self._timed("run", variables, core)
        return LifecycleScripts(
            install=self._timed("install", variables, core),
            run=run.script if run else None,
            shutdown=self._timed("shutdown", variables, core),
            bootstrap=self._timed("bootstrap", variables, core),
            startup=self._timed("startup", variables, core),
            recover=self._timed("recover", variables, core),
        )

    def variables(self, core: CoreSurroundings) -> RecipeVariables:
        """What the recipe variables of this component stand for."""
        folders = artifact_folders(core.root / "packages", self.recipe)
        work, tree = work_folder(core.root, self.name), self.configuration.tree
        needed = self.recipe.component_dependencies if core.reads_dependencies else {}
        found = {name: core.variables_of(name) for name in needed}
        dependencies = {name: variables for name, variables in found.items() if variables}
        return RecipeVariables(*folders, work, core.root, core.thing_name, tree, dependencies)

    def environment(self, core: CoreSurroundings) -> dict[str, str]:
        """The environment of the component's process, without the recipe's Setenv."""
        own = {"SVCUID": self.token, "AWS_CONTAINER_AUTHORIZATION_TOKEN": self.token}
        if TOKEN_EXCHANGE in self.recipe.component_dependencies:  # HARD or SOFT
            own["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = core.token_exchange_url
        return {**core.environment, **own}

    def _timed(self, name: str, variables: RecipeVariables, core: CoreSurroundings) -> TimedScript | None:
        phase = self.manifest.lifecycle.phase(name)
        if phase is None:
            return None
        log = log_file(core.root, self.name)
        text, own = variables.fill(phase.script), self.environment(core)
        setenv = {
            **environment(self.manifest.lifecycle.setenv, variables),
            **environment(phase.setenv, variables),
        }
        if core.quotes_setenv:
            own |= setenv
        else:
            # As Nucleus Lite 2.6.0 writes them: the shell reads a value with a space as several words.
            text = "".join(f"export {name}={value}\n" for name, value in setenv.items()) + text
        return TimedScript(Script(text, own, variables.work, log), phase.timeout)


def work_folder(root: Path, component: str) -> Path:
    """A component's working directory."""
    return root / "work" / component


def home_folder(root: Path) -> Path:
    """The home of the user that components run as."""
    return root / "home"


def log_file(root: Path, component: str) -> Path:
    """Where a component's output is kept."""
    return root / "logs" / f"{component}.log"
