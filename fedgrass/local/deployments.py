"""Deployments to one core: new components, new versions, configuration merges, removals, and the way back.

A deployment has succeeded when each of its components has finished, or has run for a while without failing.
If one is given up before that, what was there before comes back: version, artifacts and configuration.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from fedgrass.local.component_changes import Change, ComponentChanges
from fedgrass.local.component_registry import ComponentRegistry
from fedgrass.local.component_updates import ComponentUpdates
from fedgrass.local.core_errors import ComponentStateError, CoreError, UnknownDeploymentError
from fedgrass.local.deployment_records import ComponentSource, Deployment, DeploymentOutcome
from fedgrass.local.faults import Faults
from fedgrass.local.profiles import Profile

SETTLE_SECONDS: Final = 5.0
"""So long a component has to run without failing for its deployment to have succeeded."""
COMPONENT_SECONDS: Final = 3_600.0
"""How long a component may take to come to rest."""
REMEMBERED: Final = 100
"""Deployments whose outcome can still be asked for."""


class Deployments:
    """Changes which components a core has, one deployment at a time."""

    def __init__(
        self,
        registry: ComponentRegistry,
        profile: Profile,
        faults: Faults,
        log: logging.Logger,
        updates: ComponentUpdates,
    ) -> None:
        self._registry = registry
        self._updates = updates
        self._changes = ComponentChanges(registry, profile, faults, self._supersede)
        self._log = log
        self._turn = asyncio.Lock()
        self._scheduled: set[asyncio.Task[None]] = set()
        self._watches: dict[Deployment, asyncio.Task[None]] = {}
        self._records: deque[Deployment] = deque(maxlen=REMEMBERED)
        self.settle_seconds = SETTLE_SECONDS

    @property
    def records(self) -> Sequence[Deployment]:
        """The last deployments, the oldest first."""
        return list(self._records)

    async def deploy(self, sources: Sequence[ComponentSource], remove: Sequence[str] = ()) -> Deployment:
        """Install and start components, or new versions of them, in this order; remove others.

        Returns when all lifecycles have begun; `wait_for` tells the outcome. Raises a CoreError, after
        undoing everything, if one cannot be installed or removed.
        """
        record = self._record()
        await self._carry_out(record, sources, remove, {})
        return record

    async def update_configuration(self, name: str, merge: Mapping[str, object]) -> Deployment:
        """Merge into a component's configuration.

        A component whose run step reads what changed is restarted; if it fails then, the merge is undone.
        """
        record = self._record()
        await self._carry_out(record, [], [], {name: merge})
        return record

    def schedule(
        self,
        sources: Sequence[ComponentSource],
        remove: Sequence[str],
        merges: Mapping[str, Mapping[str, object]],
    ) -> Deployment:
        """Begin a deployment soon; the record tells what becomes of it. `merges` are by component."""
        record = self._record()

        async def carry_out() -> None:
            try:
                await self._carry_out(record, sources, remove, merges)
            except CoreError as exc:
                self._log.warning("deployment %s cannot be made: %s", record.identifier, exc)

        task = asyncio.create_task(carry_out())
        self._scheduled.add(task)
        task.add_done_callback(self._scheduled.discard)
        return record

    async def wait_for(self, identifier: str, seconds: float) -> Deployment:
        """Wait until a deployment has succeeded or failed.

        Raises UnknownDeploymentError, and ComponentStateError if it is still under way after `seconds`.
        """
        record = self.get(identifier)
        try:
            async with asyncio.timeout(seconds):
                await record.ended.wait()
        except TimeoutError:
            message = f"deployment {identifier} is still under way after {seconds:g} s"
            raise ComponentStateError(message) from None
        return record

    def get(self, identifier: str) -> Deployment:
        """A deployment of the last ones. Raises UnknownDeploymentError."""
        for record in self._records:
            if record.identifier == identifier:
                return record
        message = f"there is no deployment {identifier!r} among the last {REMEMBERED}"
        raise UnknownDeploymentError(message)

    async def stop(self) -> None:
        """Stop watching. What is deployed stays as it is."""
        tasks = [*self._watches.values(), *self._scheduled]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(
        self,
        record: Deployment,
        sources: Sequence[ComponentSource],
        remove: Sequence[str],
        merges: Mapping[str, Mapping[str, object]],
    ) -> None:
        steps = (
            *(partial(self._changes.remove, name) for name in remove),
            *(partial(self._changes.replace, source) for source in sources),
            *(partial(self._changes.configure, name, merge) for name, merge in merges.items()),
        )
        changes: list[Change] = []
        async with self._turn:
            await self._updates.wait_for_components(record.identifier)
            try:
                for step in steps:
                    changes.append(await step())  # noqa: PERF401 - what was done has to be known if one fails
            except BaseException as exc:
                await self._changes.undo(changes)
                record.fail(DeploymentOutcome.NO_STATE_CHANGE, str(exc))
                raise
        self._updates.report_done(record.identifier)
        self._watch(record, changes)

    def _record(self) -> Deployment:
        record = Deployment()
        self._records.append(record)
        return record

    def _watch(self, record: Deployment, changes: Sequence[Change]) -> None:
        record.components = [change.name for change in changes]
        task = asyncio.create_task(self._see_through(record, changes))
        self._watches[record] = task
        task.add_done_callback(lambda _: self._watches.pop(record, None))

    def _supersede(self, name: str) -> None:
        """What becomes of a component from now on is no longer the outcome of an earlier deployment."""
        for record, watch in list(self._watches.items()):
            if name in record.components:
                watch.cancel()
                record.cancel(f"{name} was deployed anew before it had come to rest")

    async def _see_through(self, record: Deployment, changes: Sequence[Change]) -> None:
        names = [change.new.name for change in changes if change.new]
        try:
            for name in names:
                await self._registry.settle(name, self.settle_seconds, COMPONENT_SECONDS)
        except CoreError as exc:
            async with self._turn:
                await self._give_up(record, changes, str(exc))
            return
        async with self._turn:
            await self._changes.settle(changes)
        record.succeed()

    async def _give_up(self, record: Deployment, changes: Sequence[Change], reason: str) -> None:
        """Go back, unless there is nothing to go back to: then the component stays, given up."""
        if not any(change.old for change in changes):
            record.fail(DeploymentOutcome.ROLLBACK_NOT_REQUESTED, reason)
            return
        self._log.error("deployment %s failed and is rolled back: %s", record.identifier, reason)
        await self._changes.undo(changes)
        record.fail(DeploymentOutcome.ROLLBACK_COMPLETE, reason)
