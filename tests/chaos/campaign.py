"""The campaign: concurrent runs with random settings, until a number of rounds is closed."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from components.trainer.tasks.noise import Noise
from fedgrass.federation.errors import FedgrassError, SettingsError
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import Run, RunState
from tests.chaos.audit import Findings, audit
from tests.chaos.drawing import Drawing, Drawn
from tests.chaos.evidence import gather
from tests.chaos.pace import measured_stretch
from tests.chaos.world import TASK, World

RUNS_AT_ONCE = 3  # in one world
SHORTEST_RUN, LONGEST_RUN = 3, 8  # rounds
# Without a step after the faults have ended: longer than a deadline, a lease or a redelivery.
STUCK_SECONDS = 60.0
CALM_SECONDS = 40.0  # of the time, for runs to end once the faults have ended
KILL_AVERAGER_EVERY = 4.0  # seconds on an idle machine
KILL_INITIATOR = 0.9  # of the starts
_POLL_SECONDS = 0.5
_START_TRIES = 30


@dataclass
class Course:
    """A run in progress: its position, and since when it has been there."""

    name: str
    rounds: int
    stands: tuple[int, int] = (0, 0)  # round and attempt
    since: float = 0.0


class Quota:
    """The number of rounds still to be closed, shared by parallel campaigns.

    Args:
        rounds: the number.
        campaigns: how many share it: no run takes more than an equal share, so that few rounds are not one
            run, one after the other, while the other worlds are idle.
    """

    def __init__(self, rounds: int, campaigns: int = 1) -> None:
        self._left = rounds
        self._share = max(1, rounds // campaigns)
        self._lock = threading.Lock()

    def take(self, most: int) -> int:
        """Take up to ``most`` rounds; 0 if there are none left."""
        with self._lock:
            taken = min(self._left, self._share, most)
            self._left -= taken
            return taken

    def give_back(self, rounds: int) -> None:
        """Return rounds that a run did not close."""
        with self._lock:
            self._left += rounds


class Campaign:
    """Keeps runs going in one world, kills its functions, and audits each run that has ended."""

    def __init__(self, world: World, quota: Quota, ends_at: float, say: Callable[[str], None]) -> None:
        self._world = world
        self._quota = quota
        self._ends_at = ends_at
        self._say = say
        self._dice: random.Random = world.faults.dice(f"runs of {world.name}")
        self._drawing = Drawing(self._dice, TASK, world.pace.stretch)
        self._courses: list[Course] = []
        self._started = 0
        self._next_kill = 0.0
        self.findings = Findings()
        self.ended: list[Run] = []

    def play(self) -> Findings:
        """Run until all rounds are closed, or the time is over and the last run has ended."""
        while (self._start_runs() or self._courses) and not self._world.faults.stopped:
            if time.monotonic() > self._ends_at:
                self._world.faults.end()
            if self._world.gateway.errors:
                message = f"the gateway itself failed: {self._world.gateway.errors}"
                raise RuntimeError(message)
            self._arm()
            self._look()
            time.sleep(_POLL_SECONDS)
        return self.findings

    def _start_runs(self) -> bool:
        """Start runs up to the limit of concurrent ones; return whether one was started."""
        started = False
        while len(self._courses) < RUNS_AT_ONCE and self._world.faults.active:
            rounds = self._quota.take(self._dice.randint(SHORTEST_RUN, LONGEST_RUN))
            if not rounds:
                break
            self._started += 1
            course = Course(f"{self._world.name}-{self._started}", rounds)
            self._courses.append(course)
            self._start(course.name, self._drawing.run(rounds))
            started = True
        return started

    def _start(self, name: str, drawn: Drawn) -> None:
        """Start a run, and retry while the initiator is killed, as an operator or a timer would."""
        if self._dice.random() < KILL_INITIATOR:
            self._world.kills.arm("initiator")
        initial = Noise(megabytes=drawn.megabytes).initial_weights(seed=self._started)
        for tries_left in reversed(range(_START_TRIES)):
            try:
                self._world.operator.start(name, drawn.settings, initial)
            except SettingsError:
                raise  # injected by the campaign
            except FedgrassError as error:
                if not tries_left:
                    raise
                self._say(f"  {name}: {error}; started again")
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _arm(self) -> None:
        if self._world.faults.active and time.monotonic() >= self._next_kill:
            self._next_kill = time.monotonic() + KILL_AVERAGER_EVERY * self._world.pace.stretch
            self._world.kills.arm("averager")

    def _look(self) -> None:
        """Record runs that have ended, or that are stuck although the faults have ended."""
        now = time.monotonic()
        for course in list(self._courses):
            run = self._world.operator.run(course.name)
            if self._is_over(run):
                self._examine(course, run)
                continue
            stands = (run.round, run.attempt)
            # While there are faults, the time of a step depends more on the machine than on the run.
            if self._world.faults.active:
                course.stands, course.since = stands, now
            elif stands != course.stands:
                course.stands, course.since = stands, now
                if now > self._ends_at:
                    self._cancel(course)  # it continues without faults: nothing more to check
            if now - course.since > STUCK_SECONDS * self._world.pace.stretch and self._had_time(course):
                newest = list(self._world.operator.rounds(run))[-1:]
                self.findings.stuck.append(f"{run.name}: no step for {STUCK_SECONDS:.0f} s; {newest}")
                self._examine(course, run)

    def _is_over(self, run: Run) -> bool:
        """Return whether a run is at rest: a cancelled one may still have a round to end."""
        if run.state is RunState.RUNNING:
            return False
        newest = list(self._world.operator.rounds(run))[-1:]
        return all(
            of.round.state is State.ABANDONED
            or (of.round.state is State.CLOSED and run.published >= of.round.number)
            for of in newest
        )

    def _cancel(self, course: Course) -> None:
        """Cancel a run for which no time is left; the next message of the run takes effect on that."""
        try:
            self._world.operator.act("cancel", course.name)
        except FedgrassError as error:
            self._say(f"  {course.name}: {error}; not cancelled")

    def _had_time(self, course: Course) -> bool:
        """Return whether a run has had enough time for a step at the current speed of the machine."""
        return time.monotonic() - course.since > STUCK_SECONDS * measured_stretch()

    def _examine(self, course: Course, run: Run) -> None:
        before = self.findings.closed
        self._courses.remove(course)
        audit(gather(self._world, run), self.findings)
        self._quota.give_back(course.rounds - (self.findings.closed - before))
        self.ended.append(run)
        how = f"{run.settings.aggregation} of {run.settings.upload_encoding}"
        self._say(
            f"{run.name}: {self.findings.closed - before} rounds closed, {how}, {run.state} {run.reason}"
        )
