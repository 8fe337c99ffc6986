"""Deployments to one core: new components, new versions, configuration merges, removals, rollback.

A deployment has succeeded when each of its components has finished, or has run for a while without failing.
If one becomes BROKEN before that, the classic nucleus restores the previous version, artifacts and
configuration. Nucleus Lite has no rollback, and every later deployment repeats what earlier ones have merged,
since that stays in the thing group's configuration.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from greengrass_emulator.core.json_limits import check_job_document, job_document
from greengrass_emulator.core.profiles import Profile
from greengrass_emulator.deployment.component_changes import Change, ComponentChanges
from greengrass_emulator.deployment.component_updates import ComponentUpdates
from greengrass_emulator.deployment.deployment_records import ComponentSource, Deployment, DeploymentOutcome
from greengrass_emulator.emulator_errors import ComponentStateError, CoreError, UnknownDeploymentError
from greengrass_emulator.faults.fault_state import Faults
from greengrass_emulator.lifecycle.component_registry import ComponentRegistry
from greengrass_emulator.lifecycle.configuration_tree import merge_trees

_SETTLE_SECONDS = 5.0
"""How long a component must run without failing for its deployment to succeed."""
_COMPONENT_SECONDS = 3_600.0
"""How long a component may take until it runs, has finished or is BROKEN."""
_KEPT_RECORDS = 100
"""The number of deployments whose records are kept."""


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
        self._profile = profile
        self._log = log
        self._merged: dict[str, Mapping[str, object]] = {}
        """The configuration merges of all deployments so far, by component name."""
        self._turn = asyncio.Lock()
        self._scheduled: set[asyncio.Task[None]] = set()
        self._watches: dict[Deployment, asyncio.Task[None]] = {}
        self._records: deque[Deployment] = deque(maxlen=_KEPT_RECORDS)
        self.settle_seconds = _SETTLE_SECONDS
        self.configuration_restart_seconds = profile.configuration_restart_seconds or 0.0

    @property
    def records(self) -> Sequence[Deployment]:
        """The records of the last deployments, the oldest first."""
        return list(self._records)

    async def deploy(self, sources: Sequence[ComponentSource], remove: Sequence[str] = ()) -> Deployment:
        """Install and start components, or new versions of them, in this order; remove others.

        Returns when all lifecycles have begun; ``wait_for`` waits for the outcome.

        Raises:
            CoreError: a component cannot be installed or removed; all changes are undone.
        """
        record = self._record()
        await self._carry_out(record, sources, remove, {})
        return record

    async def update_configuration(self, name: str, merge: Mapping[str, object]) -> Deployment:
        """Merge into a component's configuration.

        The classic nucleus restarts the component if its run step reads what changed, and undoes the merge if
        it fails then. Nucleus Lite restarts it after any change, and undoes nothing.
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
        """Schedule a local deployment and return its record; ``merges`` are by component name."""
        record = self._record()

        async def carry_out() -> None:
            try:
                await self._carry_out(record, sources, remove, merges, is_local=True)
            except CoreError as error:
                self._log.warning("deployment %s failed: %s", record.identifier, error)

        task = asyncio.create_task(carry_out())
        self._scheduled.add(task)
        task.add_done_callback(self._scheduled.discard)
        return record

    async def wait_for(self, identifier: str, seconds: float) -> Deployment:
        """Wait until a deployment has succeeded or failed.

        Raises:
            UnknownDeploymentError: no deployment has this identifier, or it is too long ago.
            ComponentStateError: it is still in progress after ``seconds``.
        """
        record = self.get(identifier)
        try:
            async with asyncio.timeout(seconds):
                await record.ended.wait()
        except TimeoutError:
            message = f"deployment {identifier} is still in progress after {seconds:g} s"
            raise ComponentStateError(message) from None
        return record

    def get(self, identifier: str) -> Deployment:
        """Return the record of a recent deployment. Raises UnknownDeploymentError."""
        for record in self._records:
            if record.identifier == identifier:
                return record
        message = f"there is no deployment {identifier!r} among the last {_KEPT_RECORDS}"
        raise UnknownDeploymentError(message)

    async def stop(self) -> None:
        """Stop watching deployments. The components stay as they are."""
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
        *,
        is_local: bool = False,
    ) -> None:
        changes: list[Change] = []
        asked = {*remove, *merges}
        async with self._turn:
            await self._updates.wait_for_components(record.identifier)
            try:
                if not self._profile.rolls_back and not is_local:
                    sources, merges = await self._as_the_group_has_it(sources, remove, merges)
                steps = (
                    *(partial(self._changes.remove, name) for name in remove),
                    *(partial(self._changes.replace, source) for source in sources),
                    *(partial(self._changes.configure, name, merge) for name, merge in merges.items()),
                )
                for step in steps:
                    changes.append(await step())  # noqa: PERF401 - what was done must be known if one fails
                asked |= {change.name for change in changes if change.new is not change.old}
            except BaseException as error:
                if self._profile.rolls_back:
                    await self._changes.undo(changes)
                    record.fail(DeploymentOutcome.NO_STATE_CHANGE, str(error))
                else:
                    record.fail(DeploymentOutcome.ROLLBACK_NOT_REQUESTED, str(error))
                raise
            await self._registry.dependencies.release()
        self._updates.report_done(record.identifier)
        # What earlier deployments have merged into other components changes them rarely.
        self._watch(record, [change for change in changes if change.name in asked or change.restart_is_due])

    async def _as_the_group_has_it(
        self,
        sources: Sequence[ComponentSource],
        remove: Sequence[str],
        merges: Mapping[str, Mapping[str, object]],
    ) -> tuple[list[ComponentSource], dict[str, Mapping[str, object]]]:
        """Return the deployment with all that the cloud has merged before, also into other components.

        Raises CoreError if its document is too large.
        """
        recipes = [await self._changes.read(source) for source in sources]
        added = {recipe.component_name: source for recipe, source in zip(recipes, sources, strict=True)}
        new = {**{name: source.configuration for name, source in added.items()}, **merges}
        merged = {name: merge for name, merge in self._merged.items() if name not in remove}
        merged |= {name: merge_trees(merged.get(name, {}), merge) for name, merge in new.items()}
        deployed = self._registry.components
        versions = {
            name: one.recipe.component_version for name, one in deployed.items() if name not in remove
        }
        versions |= {recipe.component_name: recipe.component_version for recipe in recipes}
        check_job_document(job_document(versions, merged), self._profile.job_document_parts)
        for name in merges:
            self._registry.get(name)  # an unknown component leaves nothing in the group's configuration
        self._merged = merged
        return (
            [replace(source, configuration=merged[name]) for name, source in added.items()],
            {name: merge for name, merge in merged.items() if name not in added and name in deployed},
        )

    def _record(self) -> Deployment:
        record = Deployment()
        self._records.append(record)
        return record

    def _watch(self, record: Deployment, changes: Sequence[Change]) -> None:
        record.components = [change.name for change in changes]
        task = asyncio.create_task(self._await_outcome(record, changes))
        self._watches[record] = task
        task.add_done_callback(lambda _: self._watches.pop(record, None))

    def _supersede(self, name: str) -> None:
        """Cancel earlier deployments of a component: its further fate is not their outcome."""
        for record, watch in list(self._watches.items()):
            if name in record.components:
                watch.cancel()
                record.cancel(f"{name} was deployed again before this deployment had an outcome")

    async def _await_outcome(self, record: Deployment, changes: Sequence[Change]) -> None:
        names = [change.new.name for change in changes if change.new]
        if any(change.restart_is_due for change in changes):
            await asyncio.sleep(self.configuration_restart_seconds)
            await self._changes.restart(changes)
        try:
            for name in names:
                await self._registry.settle(name, self.settle_seconds, _COMPONENT_SECONDS)
        except CoreError as error:
            async with self._turn:
                await self._roll_back(record, changes, str(error))
            return
        async with self._turn:
            await self._changes.settle(changes)
        record.succeed()

    async def _roll_back(self, record: Deployment, changes: Sequence[Change], reason: str) -> None:
        """Undo the changes, unless nothing was replaced: then the component stays BROKEN."""
        if not self._profile.rolls_back or not any(change.old for change in changes):
            record.fail(DeploymentOutcome.ROLLBACK_NOT_REQUESTED, reason)
            return
        self._log.error("deployment %s failed and is rolled back: %s", record.identifier, reason)
        await self._changes.undo(changes)
        record.fail(DeploymentOutcome.ROLLBACK_COMPLETE, reason)
