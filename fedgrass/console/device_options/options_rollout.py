"""Create the deployments of a plan one after the other, at a limited rate, and follow their progress.

An interrupted roll-out is continued by the same command: deployments that exist already change nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from botocore.exceptions import ClientError
from msgspec import Struct

from fedgrass.console.device_options.options_plan import Revision
from fedgrass.console.greengrass_cloud import DeploymentError, GreengrassCloud, code_of

PER_MINUTE = 60  # deployments that are created, unless the operator chooses another rate
WATCH_SECONDS = 10.0  # between two reads of the progress
_THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException", "LimitExceededException"})
_ATTEMPTS = 6
_PAUSE_SECONDS = 2.0  # doubled at each attempt
_REPORTED_EVERY = 100  # things
_REASONS = 5  # failed things whose reason is read
_FEW = 20  # deployments that are requested one by one


class States(Struct, frozen=True):
    """How many deployments to things are in which state."""

    succeeded: int = 0
    in_progress: int = 0
    failed: Sequence[str] = ()  # things

    def __str__(self) -> str:
        return f"{self.succeeded:,} succeeded, {len(self.failed):,} failed, {self.in_progress:,} in progress"


class Rollout:
    """Creates deployments and reads their states.

    Args:
        cloud: Greengrass in the account.
        report: called with a line per step.
        per_minute: the largest number of deployments to create in a minute.
        at_once: the largest number of unfinished deployments to things; 0: no limit.
        abort_percent: of failed things among the finished ones, above which the roll-out ends; 0: never.
        sleep: waits for a number of seconds.
        clock: seconds, monotonic.
    """

    def __init__(  # noqa: PLR0913 - the limits, and two functions for tests
        self,
        cloud: GreengrassCloud,
        report: Callable[[str], None],
        *,
        per_minute: int = PER_MINUTE,
        at_once: int = 0,
        abort_percent: float = 0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = cloud
        self._report = report
        self._interval = 60 / per_minute
        self._at_once = at_once
        self._abort_percent = abort_percent
        self._sleep = sleep
        self._clock = clock
        self._created: dict[str, str] = {}  # id of the deployment, by thing
        self._failed: dict[str, bool] = {}  # whether it failed, by id; only of finished deployments
        self._unfinished = 0  # at most so many of the created ones

    def run(self, revisions: Sequence[Revision]) -> None:
        """Create each deployment.

        Raises:
            DeploymentError: some were refused, AWS limits the requests, or too many failed on their devices;
                the message says how many exist.
        """
        refused: dict[str, str] = {}
        next_at = self._clock()
        for number, one in enumerate(revisions, 1):
            self._wait_for_room(len(revisions))
            self._sleep(max(0.0, next_at - self._clock()))
            next_at = self._clock() + self._interval
            try:
                self._created[one.name] = self._create(one)
            except DeploymentError as error:
                refused[one.name] = str(error)
                continue
            self._unfinished += 1
            if number % _REPORTED_EVERY == 0 and number < len(revisions):
                self._report(f"created {number:,} of {len(revisions):,} deployments")
        if refused:
            thing, reason = next(iter(refused.items()))
            message = (
                f"{len(refused):,} of {len(revisions):,} deployments were refused, among them that of"
                f" {thing}: {reason}"
            )
            raise DeploymentError(message)

    def watch(self, seconds: float) -> States:
        """Report the progress until all deployments are finished or time is up; return the states."""
        deadline, printed = self._clock() + seconds, ""
        while True:
            states = self._states()
            if str(states) != printed:
                printed = str(states)
                self._report(printed)
            if not states.in_progress:
                return states
            if self._clock() + WATCH_SECONDS > deadline:
                self._report("devices that are offline receive their options when they reconnect")
                return states
            self._sleep(WATCH_SECONDS)

    def reasons(self, states: States) -> Iterator[str]:
        """Yield the first failed things, each with the reason that its device reported."""
        for thing in states.failed[:_REASONS]:
            for state in self._cloud.states(self._created[thing]):
                yield str(state)

    def _create(self, one: Revision) -> str:
        for attempt in range(_ATTEMPTS):
            try:
                return self._cloud.deploy(one.arguments)
            except ClientError as error:
                if code_of(error) not in _THROTTLED:
                    raise
                limit = error
            self._sleep(_PAUSE_SECONDS * 2**attempt)
        message = (
            f"AWS refused more deployments for now ({code_of(limit)}); {len(self._created):,} were created:"
            " repeat the command to continue"
        )
        raise DeploymentError(message) from limit

    def _wait_for_room(self, count: int) -> None:
        """Wait until fewer deployments than allowed are unfinished, and not too many have failed."""
        if not self._at_once or self._unfinished < self._at_once:
            return
        printed = ""
        while True:
            states = self._states()
            self._unfinished = states.in_progress
            finished = states.succeeded + len(states.failed)
            if self._abort_percent and len(states.failed) * 100 > self._abort_percent * finished:
                message = (
                    f"{len(states.failed):,} of {finished:,} finished deployments failed, among them that of"
                    f" {states.failed[0]}: stopped after {len(self._created):,} of {count:,}"
                )
                raise DeploymentError(message)
            if self._unfinished < self._at_once:
                return
            if str(states) != printed:
                printed = str(states)
                self._report(
                    f"waiting, with {len(self._created):,} of {count:,} deployments created: {states}"
                )
            self._sleep(WATCH_SECONDS)

    def _states(self) -> States:
        for deployment in self._newly_finished():
            # A deployment is COMPLETED whether it succeeded or failed on its device; its job has the outcome.
            progress = self._cloud.progress(deployment)
            self._failed[deployment] = progress.failed > 0 or progress.status in {"FAILED", "CANCELED"}
        failed = [thing for thing, deployment in self._created.items() if self._failed.get(deployment)]
        return States(
            succeeded=len(self._failed) - len(failed),
            in_progress=len(self._created) - len(self._failed),
            failed=failed,
        )

    def _newly_finished(self) -> list[str]:
        wanted = set(self._created.values()) - self._failed.keys()
        if len(wanted) <= _FEW:
            found = {one: self._cloud.deployment(one)["deploymentStatus"] for one in sorted(wanted)}
            return [one for one, status in found.items() if status != "ACTIVE"]
        # A deployment that another one has replaced since is not listed: it counts as finished.
        active = {
            summary["deploymentId"]
            for summary in self._cloud.latest_deployments()
            if summary["deploymentStatus"] == "ACTIVE"
        }
        return sorted(wanted - active)
