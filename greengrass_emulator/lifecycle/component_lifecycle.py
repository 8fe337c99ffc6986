"""The lifecycle of one component: install, run, restart after a failure, BROKEN after the third, stop."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Container

from greengrass_emulator.emulator_errors import CoreError, ScriptFailedError
from greengrass_emulator.lifecycle.guarded_script import (
    GuardedScript,
    LifecycleScripts,
    RestartLimits,
    Script,
    TimedScript,
)

NEW = "NEW"
INSTALLED = "INSTALLED"
STARTING = "STARTING"
RUNNING = "RUNNING"
STOPPING = "STOPPING"
ERRORED = "ERRORED"
BROKEN = "BROKEN"
FINISHED = "FINISHED"
STATES = frozenset({NEW, INSTALLED, STARTING, RUNNING, STOPPING, ERRORED, BROKEN, FINISHED})

_BOOTSTRAP_SUCCESS = (0, 100, 101)
"""Exit codes of a successful bootstrap; 100 and 101 request a restart of nucleus or machine."""


class ComponentLifecycle:
    """Runs a component's lifecycle.

    Args:
        scripts: returns the scripts; called at every start, since the configuration may have changed.
        on_state: called with each new state.
        log: the component's log.
        limits: of restarts and time.
    """

    def __init__(
        self,
        scripts: Callable[[], LifecycleScripts],
        on_state: Callable[[str], None],
        log: logging.Logger,
        limits: RestartLimits | None = None,
    ) -> None:
        self._scripts = scripts
        self._on_state = on_state
        self._log = log
        self._limits = limits or RestartLimits()
        self._failures: deque[float] = deque()
        self._supervisor: asyncio.Task[None] | None = None
        self._current: GuardedScript | None = None
        self._needs_install = True
        self._reported_error = asyncio.Event()
        self._is_retired = False
        self.is_being_stopped = False
        """Whether the core is stopping the component, so that its end is not a failure."""
        self._turn = asyncio.Lock()
        self.state = NEW

    def start(self) -> None:
        """Start the lifecycle in the background: install, unless that is done, and run."""
        if not self._is_retired and (self._supervisor is None or self._supervisor.done()):
            self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self, next_state: str = FINISHED) -> None:
        """Stop the component and its child processes, and enter ``next_state``. May be called again."""
        async with self._turn:
            await self._stop(next_state)

    async def retire(self) -> None:
        """Stop permanently: a restart that is already scheduled has no effect."""
        self._is_retired = True
        await self.stop()

    async def restart(self) -> None:
        """Stop and start again, without the install step."""
        # Two concurrent restarts would start two processes, one of which would be lost.
        async with self._turn:
            await self._stop(INSTALLED)
            self._failures.clear()
            if self.state in {ERRORED, BROKEN}:
                self._enter(INSTALLED)  # a caller that waits for the outcome must not see the earlier failure
            self.start()

    def report(self, state: str) -> None:
        """Take the component's report that it is RUNNING or ERRORED."""
        if state == ERRORED and self.state in {STARTING, RUNNING}:
            self._reported_error.set()
            if self._current is not None:
                self._log.warning("the component reports ERRORED: it is restarted")
                self._current.terminate()
        elif state == RUNNING and self.state == STARTING:
            self._enter(RUNNING)

    async def _stop(self, next_state: str) -> None:
        if self._supervisor is None:
            return
        was_running = self.state in {STARTING, RUNNING}
        self.is_being_stopped = True
        try:
            if was_running:
                self._enter(STOPPING)
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
            self._supervisor = None
            if was_running:
                await self._shut_down()
                self._enter(next_state)
        finally:
            self.is_being_stopped = False

    async def _supervise(self) -> None:
        while True:
            try:
                await self._live()
            except (CoreError, OSError) as error:
                self._log.warning("%s", error)
            else:
                return
            if self._is_one_failure_too_many():
                self._log.error("the component is BROKEN after %d failures", self._limits.failures)
                self._enter(BROKEN)
                return
            self._enter(ERRORED)
            await self._recover()
            await asyncio.sleep(self._limits.pause_seconds)

    async def _live(self) -> None:
        scripts = self._scripts()
        if self._needs_install and scripts.bootstrap:
            await self._run_in_time("bootstrap", scripts.bootstrap, _BOOTSTRAP_SUCCESS)
        if self._needs_install and scripts.install:
            await self._run_in_time("install", scripts.install)
        if self._needs_install:
            self._needs_install = False
            self._enter(INSTALLED)
        self._reported_error.clear()
        self._enter(STARTING)
        if scripts.startup:
            await self._start_up(scripts.startup)
        if scripts.run:
            await self._run(scripts.run)
        self._enter(FINISHED)

    async def _run(self, script: Script) -> None:
        running = await GuardedScript.start(script)
        self._enter(RUNNING)
        code = await self._wait_for(running)
        if self._reported_error.is_set():
            message = "run ended after the component had reported ERRORED"
            raise ScriptFailedError(message)
        if code:
            message = f"run ended with exit code {code}"
            raise ScriptFailedError(message)

    async def _start_up(self, timed: TimedScript) -> None:
        """Run the startup step; its child processes run on until the component fails or is stopped."""
        running = await GuardedScript.start(timed.script, keep_children=True)
        self._current = running
        try:
            async with asyncio.timeout(timed.seconds):
                code = await running.wait()
            if code:
                message = f"startup ended with exit code {code}"
                raise ScriptFailedError(message)
            self._enter(RUNNING)
            await self._reported_error.wait()
            message = "the component has reported ERRORED"
            raise ScriptFailedError(message)
        except TimeoutError:
            message = f"startup took longer than its Timeout of {timed.seconds:g} s"
            raise ScriptFailedError(message) from None
        finally:
            self._current = None
            await running.stop(self._limits.stop_seconds)

    async def _recover(self) -> None:
        """Run the recover step, which follows a failure after which the component is restarted."""
        try:
            if timed := self._scripts().recover:
                await self._run_in_time("recover", timed)
        except (CoreError, OSError) as error:
            self._log.warning("%s", error)

    async def _run_in_time(self, name: str, timed: TimedScript, accepted: Container[int] = (0,)) -> None:
        running = await GuardedScript.start(timed.script)
        try:
            async with asyncio.timeout(timed.seconds):
                code = await self._wait_for(running)
        except TimeoutError:
            message = f"{name} took longer than its Timeout of {timed.seconds:g} s"
            raise ScriptFailedError(message) from None
        if code not in accepted:
            message = f"{name} ended with exit code {code}"
            raise ScriptFailedError(message)

    async def _wait_for(self, running: GuardedScript) -> int:
        """Wait for a script's end, and stop it if this task is cancelled."""
        self._current = running
        try:
            return await running.wait()
        finally:
            self._current = None
            await running.stop(self._limits.stop_seconds)

    async def _shut_down(self) -> None:
        try:
            if timed := self._scripts().shutdown:
                await self._run_in_time("shutdown", timed)
        except (CoreError, OSError) as error:
            self._log.warning("%s", error)

    def _is_one_failure_too_many(self) -> bool:
        now = time.monotonic()
        self._failures.append(now)
        while self._failures[0] < now - self._limits.window_seconds:
            self._failures.popleft()
        return len(self._failures) >= self._limits.failures

    def _enter(self, state: str) -> None:
        if state != self.state:
            self._log.info("%s -> %s", self.state, state)
            self.state = state
            self._on_state(state)
