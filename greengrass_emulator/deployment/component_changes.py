"""The changes of a deployment to single components, each with what it takes to undo it."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.deployment.component_artifacts import (
    forget_artifacts,
    install_artifacts,
    restore_artifacts,
)
from greengrass_emulator.deployment.component_dependencies import (
    check_dependencies,
    check_not_needed,
    check_policies,
)
from greengrass_emulator.deployment.deployment_records import ComponentSource
from greengrass_emulator.emulator_errors import CoreError
from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.lifecycle.component_lifecycle import BROKEN
from greengrass_emulator.lifecycle.component_registry import ComponentRegistry
from greengrass_emulator.lifecycle.configuration_tree import (
    Configuration,
    KeyPath,
    MergeError,
    StaleUpdateError,
    merge_trees,
)
from greengrass_emulator.lifecycle.deployed_component import DeployedComponent, work_folder
from greengrass_emulator.recipe.recipe_platform import interpolate, select_manifest
from greengrass_emulator.recipe.recipe_reader import Recipe, read_recipe


@dataclass(frozen=True)
class Change:
    """A change of one component, and what it takes to undo it."""

    old: DeployedComponent | None
    old_tree: Mapping[str, object]
    new: DeployedComponent | None
    restart_is_due: bool = False
    """Whether the component must still be restarted with its changed configuration."""

    @property
    def name(self) -> str:
        """The component's name."""
        component = self.new or self.old
        return component.name if component else ""


class ComponentChanges:
    """Replaces, configures and removes components; one change at a time.

    Args:
        registry: the components of the core.
        profile: the nucleus that is emulated.
        faults: those of the core.
        on_begin: called with a component's name just before the component changes.
    """

    def __init__(
        self,
        registry: ComponentRegistry,
        profile: Profile,
        faults: Faults,
        on_begin: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._profile = profile
        self._faults = faults
        self._on_begin = on_begin

    async def replace(self, source: ComponentSource) -> Change:
        """Install a component, in the place of one of the same name, and start it.

        Raises:
            CoreError: it cannot be installed; the previous component continues to run.
        """
        new, tree = await self._prepare(source)
        old = self._registry.components.get(new.name)
        change = Change(old, old.configuration.tree if old else {}, new)
        core = self._registry.core
        self._on_begin(new.name)
        try:
            # Artifacts that an earlier deployment has put aside are not what this one would restore.
            await asyncio.to_thread(forget_artifacts, new.recipe, self._packages)
            self._faults.check_disk()
            await asyncio.to_thread(
                install_artifacts,
                new.recipe,
                new.manifest,
                source.artifacts,
                self._packages,
                unpacks=self._profile.unpacks_local_archives or not source.is_local,
            )
            work_folder(core.root, new.name).mkdir(parents=True, exist_ok=True)
        except BaseException as error:
            await asyncio.to_thread(restore_artifacts, new.recipe, self._packages)
            if isinstance(error, OSError):
                message = f"{new.name} cannot be installed in {core.root}: {error}"
                raise CoreError(message) from error
            raise
        if old and old.process:
            await old.process.retire()
        if old:
            # The object stays the same: other components may have subscribed to it.
            new.configuration = old.configuration
            new.configuration.replace(tree, time.time())
        self._registry.put(new)
        self._registry.launch(new)
        return change

    async def remove(self, name: str) -> Change:
        """Stop a component and remove it from the core. Raises UnknownComponentError, DependencyError."""
        component = self._registry.get(name)
        check_not_needed(name, self._registry.components)
        self._on_begin(name)
        if component.process:
            await component.process.retire()
        self._registry.discard(name)
        return Change(component, component.configuration.tree, None)

    async def configure(self, name: str, merge: Mapping[str, object]) -> Change:
        """Merge into a component's configuration, which may restart it.

        It is restarted at once if its run step reads what changed. Under a profile that restarts it later,
        the change is marked ``restart_is_due``.

        Raises:
            CoreError: the configuration cannot be merged.
        """
        component = self._registry.get(name)
        tree = component.configuration.tree
        trial = DeployedComponent(
            component.recipe,
            component.manifest,
            self._configuration(tree),
            component.token,  # part of the run step's environment, which is compared below
        )
        with suppress(MergeError):  # the merge below raises it, and keeps what Nucleus Lite keeps
            trial.configuration.merge([], merge, time.time())
            check_policies(trial, self._registry.components)
        rendered = trial.render(self._registry.core)
        changed = self._merge(component, merge)
        if self._profile.configuration_restart_seconds is not None:
            if changed:
                self._on_begin(name)
            return Change(component, tree, component, restart_is_due=bool(changed))
        is_broken = component.process is not None and component.process.state == BROKEN
        is_changed = component.scripts is not None and rendered.run != component.scripts.run
        if component.process and (is_changed or is_broken):
            self._on_begin(name)
            await component.process.restart()
        return Change(component, tree, component)

    async def restart(self, changes: Sequence[Change]) -> None:
        """Restart the components whose change is marked ``restart_is_due``."""
        for change in changes:
            if change.restart_is_due and change.new and change.new.process:
                await change.new.process.restart()

    async def undo(self, changes: Sequence[Change]) -> None:
        """Restore the previous components, the last change first."""
        for change in reversed(changes):
            if change.new and change.new.process:
                await change.new.process.retire()
            if change.new and change.new is not change.old:
                await asyncio.to_thread(restore_artifacts, change.new.recipe, self._packages)
                self._registry.discard(change.new.name)
            if change.old:
                change.old.configuration.replace(change.old_tree, time.time())
                self._registry.put(change.old)
                self._registry.launch(change.old)

    async def settle(self, changes: Sequence[Change]) -> None:
        """Remove what was kept for ``undo``."""
        for change in changes:
            if change.new:
                await asyncio.to_thread(forget_artifacts, change.new.recipe, self._packages)

    async def _prepare(self, source: ComponentSource) -> tuple[DeployedComponent, Mapping[str, object]]:
        """Return the new component, checked against the current core, and its configuration."""
        recipe = await self.read(source)
        manifest = select_manifest(recipe, self._profile)
        core, deployed = self._registry.core, self._registry.components
        check_dependencies(recipe, deployed, core.thing_name)
        old = deployed.get(recipe.component_name)
        # A later deployment keeps the existing configuration, and adds defaults only where there is none.
        tree = merge_trees(recipe.default_configuration, old.configuration.tree if old else {})
        component = DeployedComponent(recipe, manifest, self._configuration(tree))
        try:
            self._merge(component, source.configuration)
        except CoreError:
            if old and not self._profile.rolls_back:
                with suppress(MergeError):
                    old.configuration.merge([], source.configuration, time.time())
            raise
        tree = dict(component.configuration.tree)
        component.configuration = self._configuration(tree, time.time())
        if core.interpolates_configuration:
            tree = {key: interpolate(value, component.variables(core)) for key, value in tree.items()}
            component.configuration = self._configuration(tree, time.time())
        check_policies(component, deployed)
        component.render(core)
        return component, tree

    async def read(self, source: ComponentSource) -> Recipe:
        """Return the recipe of a component, as the nucleus reads it. Raises RecipeError."""
        return await asyncio.to_thread(
            read_recipe,
            source.recipe,
            # From the cloud a recipe comes as JSON, which preserves numbers.
            scalars_are_strings=self._profile.yaml_scalars_are_strings and source.is_local,
            classic=self._profile.reads_classic_lifecycles,
        )

    def _configuration(self, tree: Mapping[str, object], timestamp: float = 0) -> Configuration:
        """Return a configuration; by default its values are older than any deployment."""
        return Configuration(tree, timestamp, self._profile.largest_configuration_value)

    @staticmethod
    def _merge(component: DeployedComponent, merge: Mapping[str, object]) -> list[KeyPath]:
        """Merge into a component's configuration; return the changed paths. Raises CoreError."""
        try:
            return component.configuration.merge([], merge, time.time())
        except (MergeError, StaleUpdateError) as error:
            why = "; the component has set a later value" if isinstance(error, StaleUpdateError) else ""
            message = f"the configuration of {component.name} cannot be merged: {error}{why}"
            raise CoreError(message) from error

    @property
    def _packages(self) -> Path:
        return self._registry.core.root / "packages"
