"""The components of one core: deployed, configured, started, watched and stopped."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from fedgrass.local.access_control import check_access_control, policy_ids
from fedgrass.local.artifacts import install_artifacts
from fedgrass.local.component_process import BROKEN, STATES, ComponentProcess, LifecycleScripts
from fedgrass.local.configuration import Configuration, merge_trees
from fedgrass.local.core_errors import (
    ComponentStateError,
    DependencyError,
    InvalidAccessControlError,
    RecipeError,
    UnknownComponentError,
)
from fedgrass.local.deployed_component import CoreSurroundings, DeployedComponent, log_file, work_folder
from fedgrass.local.profiles import Profile
from fedgrass.local.recipe import Recipe, read_recipe
from fedgrass.local.recipe_platform import select_manifest

PROVIDED: Final = frozenset(
    {
        "aws.greengrass.Nucleus",
        "aws.greengrass.NucleusLite",
        "aws.greengrass.StreamManager",
        "aws.greengrass.TokenExchangeService",
    }
)
"""Components that the core itself stands in for."""
LOG_TAIL_BYTES: Final = 2_000


class ComponentRegistry:
    """Knows every component of a core by name."""

    def __init__(self, core: Callable[[], CoreSurroundings], profile: Profile, log: logging.Logger) -> None:
        self._surroundings = core
        self._profile = profile
        self._log = log
        self._components: dict[str, DeployedComponent] = {}
        self._waiters: list[tuple[str, str, asyncio.Future[None]]] = []
        self._restarts: set[asyncio.Task[None]] = set()

    @property
    def _core(self) -> CoreSurroundings:
        return (
            self._surroundings()
        )  # asked anew each time: ports and the socket change from one start to the next

    async def deploy(self, recipe_file: Path, artifacts: Path, configuration: Mapping[str, object]) -> None:
        """Install a component, or a new version of it, and start it.

        Raises a CoreError that says what is wrong.
        """
        strings = self._profile.yaml_scalars_are_strings
        recipe = await asyncio.to_thread(read_recipe, recipe_file, scalars_are_strings=strings)
        manifest = select_manifest(recipe, self._profile)
        self._check_dependencies(recipe)
        old = self._components.get(recipe.component_name)
        # A later deployment keeps what was configured before, and takes its defaults only where nothing was.
        tree = merge_trees(recipe.default_configuration, old.configuration.tree if old else {})
        component = DeployedComponent(
            recipe, manifest, Configuration(merge_trees(tree, configuration), time.time())
        )
        self._check_access_control(component)
        component.render(self._core)
        if old and old.process:
            await old.process.stop()
        await asyncio.to_thread(install_artifacts, recipe, manifest, artifacts, self._core.root / "packages")
        work_folder(self._core.root, component.name).mkdir(parents=True, exist_ok=True)
        self._components[component.name] = component
        self._launch(component)

    def start_all(self) -> None:
        """Install and run every deployed component, with new tokens, as a nucleus does when it starts."""
        for component in self._components.values():
            component.token = secrets.token_urlsafe(16)
            self._launch(component)

    async def stop_all(self) -> None:
        """End every component."""
        for task in self._restarts:
            task.cancel()
        stopping = [component.process.stop() for component in self._components.values() if component.process]
        await asyncio.gather(*stopping)

    async def update_configuration(self, name: str, merge: Mapping[str, object]) -> None:
        """Merge into a component's configuration.

        A component whose run step reads what changed is restarted.
        """
        component = self.get(name)
        old = component.configuration
        trial = DeployedComponent(
            component.recipe,
            component.manifest,
            Configuration(merge_trees(old.tree, merge), 0),
            component.token,
        )
        self._check_access_control(trial)
        rendered = trial.render(self._core)
        old.merge([], merge, time.time())
        if component.process and component.scripts and rendered.run != component.scripts.run:
            await component.process.restart()

    def get(self, name: str) -> DeployedComponent:
        """A deployed component. Raises UnknownComponentError."""
        try:
            return self._components[name]
        except KeyError:
            there = ", ".join(self._components) or "none"
            message = f"no component {name} on {self._core.thing_name}: there are {there}"
            raise UnknownComponentError(message) from None

    def state(self, name: str) -> str:
        """The state of a deployed component."""
        process = self.get(name).process
        return process.state if process else "NEW"

    async def wait_for(self, name: str, state: str, seconds: float) -> None:
        """Wait until a component is in, or passes through, `state`.

        Raises ComponentStateError with its log's end.
        """
        if state not in STATES:
            message = f"there is no state {state!r}: choose one of {', '.join(sorted(STATES))}"
            raise ComponentStateError(message)
        if self.state(name) == state:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (name, state, reached)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await reached
        except TimeoutError:
            raise self._not_reached(name, state, f"after {seconds:g} s") from None
        finally:
            self._waiters.remove(waiter)

    # What IPC operations ask: see ipc_operations.Components.

    def component_of(self, token: str) -> str | None:
        """The name of the component that a token belongs to, or None."""
        for component in self._components.values():
            if secrets.compare_digest(component.token.encode(), token.encode(errors="replace")):
                return component.name
        return None

    def is_component_token(self, token: str) -> bool:
        """Whether a token belongs to a deployed component."""
        return self.component_of(token) is not None

    def configuration_of(self, component: str) -> Configuration | None:
        """The configuration of a deployed component, or None."""
        deployed = self._components.get(component)
        return deployed.configuration if deployed else None

    def report_state(self, component: str, state: str) -> None:
        """A component says of itself that it is RUNNING or ERRORED."""
        process = self.get(component).process
        if process:
            process.report(state)

    def schedule_restart(self, component: str) -> None:
        """Restart a component once the event loop comes to it: the answer to its request goes out before."""
        process = self.get(component).process
        if process:
            task = asyncio.create_task(process.restart())
            self._restarts.add(task)
            task.add_done_callback(self._restarts.discard)

    def renew_token(self, name: str) -> None:
        """From now on the component's old token is refused; its next process gets the new one."""
        self.get(name).token = secrets.token_urlsafe(16)

    def _launch(self, component: DeployedComponent) -> None:
        def scripts() -> LifecycleScripts:
            component.scripts = component.render(self._core)
            return component.scripts

        # Not in logging's own table, as the core's logger.
        log = logging.Logger(f"{self._log.name}.{component.name}", self._log.level)  # noqa: LOG001
        log.parent = self._log
        component.process = ComponentProcess(scripts, lambda state: self._entered(component.name, state), log)
        component.process.start()

    def _entered(self, name: str, state: str) -> None:
        for component, wanted, reached in self._waiters:
            if component != name or reached.done():
                continue
            if state == wanted:
                reached.set_result(None)
            elif state == BROKEN:
                reached.set_exception(self._not_reached(name, wanted, "because it has failed too often"))

    def _not_reached(self, name: str, state: str, why: str) -> ComponentStateError:
        file = log_file(self._core.root, name)
        tail = (
            file.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
            if file.exists()
            else "(nothing)"
        )
        return ComponentStateError(
            f"{name} on {self._core.thing_name} is {self.state(name)}, not {state}, {why}."
            f" The end of {file}:\n{tail}"
        )

    def _check_dependencies(self, recipe: Recipe) -> None:
        for name, dependency in recipe.component_dependencies.items():
            if dependency.dependency_type == "HARD" and name not in PROVIDED and name not in self._components:
                message = (
                    f"{recipe.component_name} needs {name},"
                    f" which is not on {self._core.thing_name}: deploy it first"
                )
                raise DependencyError(message)

    def _check_access_control(self, component: DeployedComponent) -> None:
        access_control = component.configuration.tree.get("accessControl", {})
        try:
            check_access_control(access_control)
        except InvalidAccessControlError as exc:
            message = f"{component.name}: {exc}"
            raise InvalidAccessControlError(message) from exc
        taken = {
            policy: other.name
            for other in self._components.values()
            if other.name != component.name
            for policy in policy_ids(other.configuration.tree.get("accessControl", {}))
        }
        for policy in policy_ids(access_control):
            if policy in taken:
                message = f"{component.name}: policy id {policy} is taken by {taken[policy]}: ids are unique"
                raise RecipeError(message)
