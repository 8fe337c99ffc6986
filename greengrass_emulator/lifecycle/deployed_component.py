"""One component on a core: recipe, configuration, token, and the environment of its process."""

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
class CoreContext:
    """What every component of a core learns about it."""

    root: Path
    thing_name: str
    environment: Mapping[str, str]
    token_exchange_url: str
    interpolates_configuration: bool = False
    """Whether recipe variables in a component's configuration are replaced when it is deployed."""
    reads_dependencies: bool = False
    """Whether a recipe variable such as `{com.example.Model:artifacts:path}` is replaced."""
    quotes_setenv: bool = True
    """Whether the shell reads each value of a recipe's Setenv as one word."""
    variables_of: Callable[[str], RecipeVariables | None] = lambda _: None
    """Returns the recipe variables of another deployed component."""


def core_context(settings: CoreSettings, root: Path, ipc_socket: str, token_exchange_url: str) -> CoreContext:
    """Return what components learn about a running core with these settings, whose folder is ``root``."""
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
    return CoreContext(
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
    """A component that is deployed on a core."""

    recipe: Recipe
    manifest: Manifest
    configuration: Configuration
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    process: ComponentLifecycle | None = None
    scripts: LifecycleScripts | None = None
    """The scripts with which the process was last started."""

    @property
    def name(self) -> str:
        """The component's name."""
        return self.recipe.component_name

    def render(self, core: CoreContext) -> LifecycleScripts:
        """Return the lifecycle's scripts with all variables replaced. Raises RecipeError."""
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

    def variables(self, core: CoreContext) -> RecipeVariables:
        """Return the values of this component's recipe variables."""
        folders = artifact_folders(core.root / "packages", self.recipe)
        work, tree = work_folder(core.root, self.name), self.configuration.tree
        needed = self.recipe.component_dependencies if core.reads_dependencies else {}
        found = {name: core.variables_of(name) for name in needed}
        dependencies = {name: variables for name, variables in found.items() if variables}
        return RecipeVariables(*folders, work, core.root, core.thing_name, tree, dependencies)

    def environment(self, core: CoreContext) -> dict[str, str]:
        """Return the environment of the component's process, without the recipe's Setenv."""
        own = {"SVCUID": self.token, "AWS_CONTAINER_AUTHORIZATION_TOKEN": self.token}
        if TOKEN_EXCHANGE in self.recipe.component_dependencies:  # HARD or SOFT
            own["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = core.token_exchange_url
        return {**core.environment, **own}

    def _timed(self, name: str, variables: RecipeVariables, core: CoreContext) -> TimedScript | None:
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
    """Return a component's working directory."""
    return root / "work" / component


def home_folder(root: Path) -> Path:
    """Return the home of the user that components run as."""
    return root / "home"


def log_file(root: Path, component: str) -> Path:
    """Return the file with a component's output."""
    return root / "logs" / f"{component}.log"
