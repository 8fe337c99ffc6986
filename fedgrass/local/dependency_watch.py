"""What becomes of components whose HARD dependency dies; a SOFT one may come and go as it likes.

The classic nucleus stops them, and starts them again when the dependency is back. Nucleus Lite turns the
dependency into systemd's `BindsTo=`: they are stopped, and only a deployment or a restart of the core starts
them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from fedgrass.local.component_process import BROKEN, ERRORED, FINISHED, INSTALLED, RUNNING, STARTING
from fedgrass.local.deployed_component import DeployedComponent

_ALIVE: Final = frozenset({STARTING, RUNNING})


class DependencyWatch:
    """Stops components with what they need. Methods belong to the core's event loop.

    Args:
        components: all deployed components by name, as they are at each moment.
        binds: whether they stay stopped, as under Nucleus Lite.
        log: of the core.
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
        """A component has come to a state by itself, not since the core has stopped it."""
        if state in {ERRORED, BROKEN} or (state == FINISHED and self._binds):
            self.lost(name)
        elif state in {RUNNING, FINISHED}:
            self.back(name)

    def lost(self, name: str) -> None:
        """The process of a component, or of a service of the core, has died."""
        self._back.setdefault(name, asyncio.Event()).clear()
        for dependent in self._components().values():
            dependency = dependent.recipe.component_dependencies.get(name)
            process = dependent.process
            if dependency is None or dependency.dependency_type != "HARD" or process is None:
                continue
            if process.state not in _ALIVE:
                continue
            self._log.warning("%s is stopped: %s, which it needs, has died", dependent.name, name)
            task = asyncio.create_task(self._stop(dependent, name))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)
            if self._binds:
                self.lost(dependent.name)

    def back(self, name: str) -> None:
        """The process of a component, or of a service of the core, runs again."""
        if name in self._back:
            self._back[name].set()

    async def release(self) -> None:
        """Start what was stopped for good, as a deployment does."""
        if not self._binds:
            return
        await asyncio.gather(*self._stops, return_exceptions=True)
        for name in sorted(self._stopped):
            component = self._components().get(name)
            if component and component.process:
                component.process.start()
        self._stopped.clear()

    async def close(self) -> None:
        """Forget everything: the core stops."""
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
