"""The run: a series of rounds, and what is to be done next in it.

RUNNING    rounds are opened one after the other, as the schedule says
PAUSED     the open round goes on; no other is opened until the run is resumed
SUCCEEDED  it has its rounds, reached its target, or stopped getting better
FAILED     a round of training was abandoned too often; ``retry`` sets it going again
CANCELLED  the operator ended it
"""

import hashlib

import msgspec
from msgspec import Struct

from fedgrass.federation.messages.message_fields import Options, TextEnum
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.settings import RunSettings


class RunState(TextEnum):
    """Where a run is."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


LIVING = frozenset({RunState.RUNNING, RunState.PAUSED})

# Remembered by each run, 17 bytes each. A run that is asked once a minute knows its last 100 minutes of
# actions; Lambda and EventBridge repeat a delivery within minutes, and give up after a day.
MOST_ACTIONS = 100


class Progress(Struct, frozen=True, kw_only=True):
    """What a run remembers of its closed rounds."""

    best: float | None = None  # of the target metric
    best_model: int = 0  # the number of the global model that had it
    rounds_since_best: int = 0
    usual_seconds: float = 0.0  # of a round, as a moving average
    model: int = 0  # the number of the newest global model: that of the round that made it
    evaluations: int = 0  # rounds that only evaluated, closed or skipped


class Run(Struct, frozen=True, kw_only=True):
    """A run and its newest round. ``round`` is 0 until the first one is opened."""

    name: str
    state: RunState
    settings: RunSettings
    started_at: int
    initial_sha256: str
    initial_bytes: int
    initial_download_sha256: str = ""  # of the initial model in the download_encoding; empty: float32
    initial_download_bytes: int = 0
    round: int = 0
    attempt: int = 0
    ended_at: int = 0
    reason: str = ""
    carries: tuple[str, ...] = ()  # what updates carry beside the model, by the strategy: see carried.py
    needs: Options = {}  # that one's own strategy has of the devices' training
    continued_from: str = ""  # the key of the model that became the initial one
    wanted: int = 0  # with the schedule by hand: rounds up to this number may be opened
    granted_attempts: int = 0  # at round ``granted_round``, beyond the settings' attempts, by ``retry``
    granted_round: int = 0
    published: int = 0  # the newest round whose end was dealt with: its model is its task's newest
    waiting_since: int = 0  # the next round finds no device to ask, since then; 0: it does not wait
    look_at: int = 0  # when the reminder comes that looks after a run which waits
    progress: Progress = Progress()
    actions: int = 0  # done so far, of those that carry an id
    done: tuple[str, ...] = ()  # the fingerprints of the last MOST_ACTIONS of their ids

    def has_done(self, action: str) -> bool:
        """Return whether the action with this id was done already; one without an id never was."""
        return bool(action) and _fingerprint(action) in self.done

    def with_action(self, action: str) -> dict[str, object]:
        """Return the changes to the run that remember an action's id; none if it has no id."""
        if not action:
            return {}
        done = (*self.done, _fingerprint(action))[-MOST_ACTIONS:]
        return {"actions": self.actions + 1, "done": done}

    def has_given_up(self, of: Round) -> bool:
        """Return whether the operator asked for another attempt in place of this one, with ``retry``."""
        return of.number == self.granted_round and of.attempt <= self.granted_attempts


def _fingerprint(action: str) -> str:
    """Return an id in 16 characters, however long it is."""
    return hashlib.sha256(action.encode()).hexdigest()[:16]


class Open(Struct, frozen=True):
    """Open this attempt at this round."""

    number: int
    attempt: int
    work: Work = Work.TRAIN


class Wait(Struct, frozen=True):
    """Open this round at ``until``; by hand if that is None."""

    number: int
    until: int | None


class End(Struct, frozen=True):
    """End the run, in this state and for this reason."""

    state: RunState
    reason: str


def next_step(run: Run, newest: Round | None, now: int) -> Open | Wait | End | None:
    """Return what a run does once its newest round has ended; None while that goes on.

    A closed round is followed by the next, an abandoned one by another attempt or by the run's end, as the
    settings say. An evaluation that was abandoned too often is left out.
    """
    if run.state is not RunState.RUNNING:
        return None
    if newest is None:
        return Open(1, 1)
    if newest.state is State.CLOSED or skipped(run, newest):
        return _finished(run, newest) or _due(run, newest, now)
    if newest.state is State.ABANDONED:
        if _may_retry(run, newest):
            return Open(newest.number, newest.attempt + 1, newest.work)
        reason = f"round {newest.number} was abandoned at attempt {newest.attempt}: {newest.reason}"
        return End(RunState.FAILED, reason)
    return None


def skipped(run: Run, newest: Round) -> bool:
    """Return whether a round is an evaluation that was abandoned too often: the run goes on without it."""
    over = newest.state is State.ABANDONED and newest.work is Work.EVALUATE
    return over and not _may_retry(run, newest)


def _may_retry(run: Run, abandoned: Round) -> bool:
    """Return whether the run has an attempt left at a round."""
    attempts = run.settings.attempts if run.settings.on_abandoned == "retry" else 1
    granted = run.granted_attempts if run.granted_round == abandoned.number else 0
    return abandoned.attempt < attempts + granted


def _finished(run: Run, newest: Round) -> End | None:
    """Return the end of a run that has all it wants. Devices measure the model that a round starts from."""
    settings, progress = run.settings, progress_after(run, newest)
    metric, found = settings.target_metric, _found(settings, newest)
    if settings.target_value is not None and found is not None:
        sign = -1 if settings.lower_is_better else 1
        if (found - settings.target_value) * sign >= 0:
            reason = f"model {newest.base} reached the target: {metric} {found:.4g}"
            return End(RunState.SUCCEEDED, reason)
    if settings.patience and progress.best is not None and progress.rounds_since_best >= settings.patience:
        best = f"{progress.best:.4g} of model {progress.best_model}"
        reason = f"{metric} did not get better than {best} for {progress.rounds_since_best} rounds"
        return End(RunState.SUCCEEDED, reason)
    if _trained(newest, progress) >= settings.rounds and not _wants_evaluation(settings, newest, progress):
        return End(RunState.SUCCEEDED, f"all {settings.rounds} rounds closed")
    return None


def _due(run: Run, newest: Round, now: int) -> Open | Wait:
    """Return the next round, now or when the schedule says."""
    number, settings = newest.number + 1, run.settings
    if _wants_evaluation(settings, newest, progress_after(run, newest)):
        return Open(number, 1, Work.EVALUATE)
    if settings.schedule == "by_hand":
        return Open(number, 1) if run.wanted >= number else Wait(number, None)
    seconds = settings.every_minutes * 60 if settings.schedule in {"every", "adaptive"} else 0.0
    if settings.schedule == "adaptive":
        seconds = max(seconds, progress_after(run, newest).usual_seconds)
    due = newest.opened_at + round(seconds * 1000)
    return Open(number, 1) if seconds == 0 or now >= due or run.wanted >= number else Wait(number, due)


def _trained(closed: Round, progress: Progress) -> int:
    """Return how many rounds of training have closed, ``closed`` being the newest round."""
    return closed.number - progress.evaluations


def _wants_evaluation(settings: RunSettings, closed: Round, progress: Progress) -> bool:
    """Return whether the model of a round that has just closed is evaluated before the run continues.

    The last model is evaluated by default: the metrics of a training round are those of the model before it.
    If no device reported a metric, an evaluation could not report one either.
    """
    if closed.work is not Work.TRAIN:
        return False
    trained, every = _trained(closed, progress), settings.evaluate_every
    is_last = trained >= settings.rounds and settings.evaluate_last and bool(closed.metrics)
    return is_last or (bool(every) and trained % every == 0)


def _found(settings: RunSettings, closed: Round) -> float | None:
    """Return the value of the target metric by which the run's end is judged, None if nobody reported it.

    Where the run has devices that are held out, they alone are believed: rounds of training judge nothing.
    """
    metric = settings.target_metric
    if settings.held_out and closed.work is Work.TRAIN:
        return None
    return closed.judged.get(metric, closed.metrics.get(metric))  # an older averager judged by the mean


def progress_after(run: Run, closed: Round) -> Progress:
    """Return what a run knows once ``closed`` is counted in; ``run`` has not counted it yet.

    A round of evaluation that was skipped measured nothing, and says nothing of how long one takes.
    """
    before, settings = run.progress, run.settings
    length = (closed.closed_at - closed.opened_at) / 1000
    usual = (before.usual_seconds + length) / 2 if before.usual_seconds else length
    if closed.state is State.ABANDONED:
        usual = before.usual_seconds
    evaluated = closed.work is Work.EVALUATE
    counted = msgspec.structs.replace(
        before,
        usual_seconds=usual,
        model=closed.base if evaluated else closed.number,
        evaluations=before.evaluations + evaluated,
    )
    found = _found(settings, closed)
    if found is None:
        return counted
    sign = -1 if settings.lower_is_better else 1
    if before.best is None or (found - before.best) * sign > settings.smallest_improvement:
        return msgspec.structs.replace(counted, best=found, best_model=closed.base, rounds_since_best=0)
    return msgspec.structs.replace(counted, rounds_since_best=before.rounds_since_best + 1)
