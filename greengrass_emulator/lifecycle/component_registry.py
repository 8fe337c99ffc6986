"""The components of one core: found by name or token, started, watched and stopped.

When the process of a HARD dependency dies, dependents are stopped; a SOFT dependency has no such effect.
"""

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.emulator_errors import ComponentStateError, UnknownComponentError
from greengrass_emulator.lifecycle.component_lifecycle import (
    BROKEN,
    ERRORED,
    FINISHED,
    INSTALLED,
    NEW,
    RUNNING,
    STARTING,
    STATES,
    ComponentLifecycle,
)
from greengrass_emulator.lifecycle.configuration_tree import Configuration
from greengrass_emulator.lifecycle.deployed_component import CoreContext, DeployedComponent, log_file
from greengrass_emulator.lifecycle.guarded_script import LifecycleScripts
from greengrass_emulator.recipe.recipe_platform import RecipeVariables

_ALIVE = frozenset({STARTING, RUNNING})

_LOG_TAIL_BYTES = 800
"""With the rest of the message it must fit into a printed line, whose end would be cut."""


class DependencyWatch:
    """Stops components whose HARD dependency has died. Methods are called in the core's event loop.

    Args:
        components: returns the deployed components by name.
        log: that of the core.
        binds: whether dependents stay stopped, as under Nucleus Lite, or start when the dependency is back.
    """

    def __init__(
        self, components: Callable[[], Mapping[str, DeployedComponent]], log: logging.Logger, *, binds: bool
    ) -> None:
        self._components = components
        self._binds = binds
        self._log = log
        self._stops: set[asyncio.Task[None]] = set()
        self._back: dict[str, asyncio.Event] = {}
        self._stopped: set[str] = set()

    def entered(self, name: str, state: str) -> None:
        """Note a new state of a component, unless the core is stopping it."""
        if state in {ERRORED, BROKEN} or (state == FINISHED and self._binds):
            self.lost(name)
        elif state in {RUNNING, FINISHED}:
            self.back(name)

    def lost(self, name: str) -> None:
        """Stop the dependents of a component, or of a service of the core, whose process has died."""
        self._back.setdefault(name, asyncio.Event()).clear()
        for dependent in self._components().values():
            dependency = dependent.recipe.component_dependencies.get(name)
            process = dependent.process
            if dependency is None or dependency.dependency_type != "HARD" or process is None:
                continue
            if process.state not in _ALIVE:
                continue
            self._log.warning("%s is stopped: its HARD dependency %s has died", dependent.name, name)
            task = asyncio.create_task(self._stop(dependent, name))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)
            if self._binds:
                self.lost(dependent.name)

    def back(self, name: str) -> None:
        """Let the dependents of a component or service start: its process runs again."""
        if name in self._back:
            self._back[name].set()

    async def release(self) -> None:
        """Start the components that stay stopped, as a deployment does."""
        if not self._binds:
            return
        await asyncio.gather(*self._stops, return_exceptions=True)
        for name in sorted(self._stopped):
            component = self._components().get(name)
            if component and component.process:
                component.process.start()
        self._stopped.clear()

    async def close(self) -> None:
        """Cancel everything: the core stops."""
        for task in self._stops:
            task.cancel()
        await asyncio.gather(*self._stops, return_exceptions=True)
        self._back.clear()
        self._stopped.clear()

    async def _stop(self, component: DeployedComponent, dependency: str) -> None:
        process = component.process
        if process is None:
            return
        if self._binds:
            self._stopped.add(component.name)
            await process.stop()
            return
        await process.stop(INSTALLED)
        await self._back[dependency].wait()
        process.start()


class ComponentRegistry:
    """The components of a core by name; deployments change them."""

    def __init__(self, core: Callable[[], CoreContext], profile: Profile, log: logging.Logger) -> None:
        self._context = core
        self.dependencies = DependencyWatch(
            lambda: self._components, log, binds=profile.binds_hard_dependencies
        )
        self._provided: dict[str, Callable[[], Mapping[str, object]]] = {}
        self._log = log
        self._components: dict[str, DeployedComponent] = {}
        self._waiters: list[tuple[str, Collection[str], asyncio.Future[None]]] = []
        self._restarts: set[asyncio.Task[None]] = set()

    @property
    def core(self) -> CoreContext:
        """What components learn of the core. Ports and the socket change from one start to the next."""
        return dataclasses.replace(self._context(), variables_of=self._variables_of)

    @property
    def components(self) -> Mapping[str, DeployedComponent]:
        """All deployed components by name."""
        return self._components

    def put(self, component: DeployedComponent) -> None:
        """Add a component, in the place of one of the same name."""
        self._components[component.name] = component

    def discard(self, name: str) -> None:
        """Remove a component whose process has ended."""
        self._components.pop(name, None)

    def launch(self, component: DeployedComponent) -> None:
        """Install and run a component in the background."""

        def scripts() -> LifecycleScripts:
            component.scripts = component.render(self.core)
            return component.scripts

        # Not in logging's table of loggers: see the core's logger.
        log = logging.Logger(f"{self._log.name}.{component.name}", self._log.level)  # noqa: LOG001 - as above
        log.parent = self._log
        component.process = ComponentLifecycle(scripts, lambda state: self._entered(component, state), log)
        component.process.start()

    def start_all(self) -> None:
        """Install and run every deployed component, with new tokens, as a nucleus does when it starts."""
        for component in self._components.values():
            component.token = secrets.token_urlsafe(16)
            self.launch(component)

    async def stop_all(self) -> None:
        """Stop every component."""
        await self.dependencies.close()
        for task in self._restarts:
            task.cancel()
        processes = [component.process for component in self._components.values() if component.process]
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await asyncio.gather(*(one.retire() for one in processes))

    def get(self, name: str) -> DeployedComponent:
        """Return a deployed component. Raises UnknownComponentError."""
        try:
            return self._components[name]
        except KeyError:
            deployed = ", ".join(self._components) or "none"
            message = f"no component {name} on {self.core.thing_name}: there are {deployed}"
            raise UnknownComponentError(message) from None

    def state(self, name: str) -> str:
        """Return the state of a deployed component."""
        process = self.get(name).process
        return process.state if process else NEW

    async def wait_for(self, name: str, state: str, seconds: float) -> None:
        """Wait until a component is in a state, or passes through it.

        Raises:
            ComponentStateError: it is not after ``seconds``; the message has the end of the component's log.
        """
        if state not in STATES:
            message = f"there is no state {state!r}: choose one of {', '.join(sorted(STATES))}"
            raise ComponentStateError(message)
        await self._wait(name, {state}, seconds)

    async def settle(self, name: str, settle_seconds: float, seconds: float) -> None:
        """Wait until a component has finished, or has run without interruption for a while.

        Args:
            name: the component.
            settle_seconds: how long it must run.
            seconds: how long to wait.

        Raises:
            ComponentStateError: it is BROKEN, or neither has finished nor runs after ``seconds``.
        """
        while True:
            if self.state(name) == BROKEN:
                raise self._not_reached(name, {RUNNING, FINISHED}, "because it has failed too often")
            await self._wait(name, {RUNNING, FINISHED}, seconds)
            try:
                await self._wait(name, STATES - {RUNNING}, settle_seconds)
            except ComponentStateError:
                if self.state(name) == RUNNING:
                    return
            if self.state(name) == FINISHED:
                return

    # The port of the IPC operations: see ipc_operations.Components.

    def component_of(self, token: str) -> str | None:
        """Return the name of the component that a token belongs to, or None."""
        for component in self._components.values():
            if secrets.compare_digest(component.token.encode(), token.encode(errors="replace")):
                return component.name
        return None

    def is_component_token(self, token: str) -> bool:
        """Return whether a token belongs to a deployed component."""
        return self.component_of(token) is not None

    def configuration_of(self, component: str) -> Configuration | None:
        """Return the configuration of a deployed component or of a service of the core, or None."""
        if deployed := self._components.get(component):
            return deployed.configuration
        return Configuration(self._provided[component](), 0) if component in self._provided else None

    def provide(self, name: str, configuration: Callable[[], Mapping[str, object]]) -> None:
        """Make the configuration of a service of the core readable under the name of its component."""
        self._provided[name] = configuration

    def report_state(self, component: str, state: str) -> None:
        """Take the report of a component that it is RUNNING or ERRORED."""
        process = self.get(component).process
        if process:
            process.report(state)

    def schedule_restart(self, component: str) -> None:
        """Restart a component in another task, after the response to its request has been sent."""
        process = self.get(component).process
        if process:
            self._later(process.restart)

    def schedule_stop(self, component: str) -> None:
        """Stop a component in another task, after the response to its request has been sent."""
        process = self.get(component).process
        if process:
            self._later(process.stop)

    def renew_token(self, name: str) -> None:
        """Replace a component's token, which is refused from now on; its next process gets the new one."""
        self.get(name).token = secrets.token_urlsafe(16)

    def _later(self, act: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(act())
        self._restarts.add(task)
        task.add_done_callback(self._restarts.discard)

    def _variables_of(self, name: str) -> RecipeVariables | None:
        component = self._components.get(name)
        return component.variables(self._context()) if component else None

    async def _wait(self, name: str, states: Collection[str], seconds: float) -> None:
        if self.state(name) in states:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (name, states, reached)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await reached
        except TimeoutError:
            raise self._not_reached(name, states, f"after {seconds:g} s") from None
        finally:
            self._waiters.remove(waiter)

    def _entered(self, component: DeployedComponent, state: str) -> None:
        name = component.name
        if component.process and not component.process.is_being_stopped:
            self.dependencies.entered(name, state)
        for waiting_for, wanted, reached in self._waiters:
            if waiting_for != name or reached.done():
                continue
            if state in wanted:
                reached.set_result(None)
            elif state == BROKEN:
                reached.set_exception(self._not_reached(name, wanted, "because it has failed too often"))

    def _not_reached(self, name: str, states: Collection[str], why: str) -> ComponentStateError:
        file = log_file(self.core.root, name)
        tail = (
            file.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
            if file.exists()
            else "(nothing)"
        )
        wanted = " or ".join(sorted(states))
        return ComponentStateError(
            f"{name} on {self.core.thing_name} is {self.state(name)}, not {wanted}, {why}."
            f" The end of {file}:\n{tail}"
        )
