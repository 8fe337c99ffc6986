"""The run: a series of rounds, and what has to happen next in it.

RUNNING    rounds are opened one after the other, as scheduled
PAUSED     the open round continues; no further one is opened until the run is resumed
SUCCEEDED  all rounds closed, the target was reached, or the metric stopped improving
FAILED     a round of training was abandoned too often; ``retry`` continues the run
CANCELLED  the operator ended it
"""

import hashlib
from collections.abc import Collection

import msgspec
from msgspec import Struct

from fedgrass.federation.messages.message_fields import Options, TextEnum
from fedgrass.federation.messages.message_types import CarriedFile
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.settings import RunSettings


class RunState(TextEnum):
    """The state of a run."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


LIVING = frozenset({RunState.RUNNING, RunState.PAUSED})

# Each run remembers this many action ids, 17 bytes each. At one action a minute that covers the last 100
# minutes; Lambda and EventBridge redeliver within minutes, and give up after a day.
MOST_ACTIONS = 100
MOST_HISTORY = 50  # actions of which a run remembers who requested them: the start, and the last 49


class RunAction(Struct, frozen=True, kw_only=True):
    """An action that was performed on a run, and who requested it."""

    at: int  # milliseconds since the epoch
    action: str  # such as ``start`` or ``pause``
    # What the caller states of itself, such as the ARN of its credentials. It is not checked: CloudTrail has
    # the real caller of the function. Empty: not stated.
    by: str = ""


class Progress(Struct, frozen=True, kw_only=True):
    """What a run remembers of its closed rounds."""

    best: float | None = None  # of the target metric
    best_model: int = 0  # number of the global model that reached it
    rounds_since_best: int = 0
    usual_seconds: float = 0.0  # duration of a round, as a moving average
    model: int = 0  # number of the latest global model: that of the round that made it
    evaluations: int = 0  # evaluation-only rounds, closed or skipped


class Run(Struct, frozen=True, kw_only=True):
    """A run. ``round`` and ``attempt`` are those of its latest round, 0 until the first one is opened."""

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
    carries: tuple[str, ...] = ()  # auxiliary state in updates, by strategy: see weights/array_roles.py
    needs: Options = {}  # training settings required by a custom strategy
    continued_from: str = ""  # key of the model that became the initial one
    frozen: CarriedFile | None = None  # the file with the frozen arrays, if devices have to download it
    wanted: int = 0  # rounds up to this number may open, whatever the schedule: set by the action ``next``
    granted_attempts: int = 0  # attempts at ``granted_round`` granted by ``retry``, beyond the settings'
    granted_round: int = 0
    published: int = 0  # the latest round whose end was processed: its model is its task's latest
    forgotten: int = 0  # of a ServerApp's run that has ended: up to which round small replies were removed
    waiting_since: int = 0  # since then the next round has found no device to ask; 0: not waiting
    look_at: int = 0  # when the reminder of a waiting run is due
    progress: Progress = Progress()
    actions: int = 0  # number of applied actions, without the start
    done: tuple[str, ...] = ()  # fingerprints of the last MOST_ACTIONS action ids
    history: tuple[RunAction, ...] = ()  # the start and the last actions, at most MOST_HISTORY, oldest first

    def has_done(self, action: str) -> bool:
        """Return whether the action with this id was applied already; always False without an id."""
        return bool(action) and _fingerprint(action) in self.done

    def with_action(self, action: str, performed: RunAction | None = None) -> dict[str, object]:
        """Return the changes to the run that record an action; empty without an id and ``performed``.

        Args:
            action: its id; empty: it has none.
            performed: its entry in the history.
        """
        changes: dict[str, object] = {}
        if action:
            changes["done"] = (*self.done, _fingerprint(action))[-MOST_ACTIONS:]
        if performed:
            changes["history"] = bounded_history((*self.history, performed))
        # The counter makes concurrent changes of the two lists exclude each other.
        return {"actions": self.actions + 1, **changes} if changes else {}

    def has_given_up(self, round_: Round) -> bool:
        """Return whether the operator replaced this attempt by another one, with ``retry``."""
        return round_.number == self.granted_round and round_.attempt <= self.granted_attempts


def bounded_history(history: Collection[RunAction]) -> tuple[RunAction, ...]:
    """Return the start and the last actions, oldest first. The start stays, whatever a timer adds later."""
    ordered = tuple(sorted(dict.fromkeys(history), key=lambda entry: entry.at))
    if len(ordered) <= MOST_HISTORY:
        return ordered
    start = ordered[:1] if ordered[0].action == "start" else ()
    return (*start, *ordered[len(start) - MOST_HISTORY :])


def _fingerprint(action: str) -> str:
    """Return 16 characters that identify an id of any length."""
    return hashlib.sha256(action.encode()).hexdigest()[:16]


class Open(Struct, frozen=True):
    """Open this attempt at this round."""

    number: int
    attempt: int
    work: Work = Work.TRAIN


class Wait(Struct, frozen=True):
    """Open this round at ``until`` (milliseconds); None: as the operator or the ServerApp asks."""

    number: int
    until: int | None


class End(Struct, frozen=True):
    """End the run in this state, for this reason."""

    state: RunState
    reason: str


def next_step(run: Run, latest: Round | None, now: int) -> Open | Wait | End | None:
    """Return what a run does once its latest round has ended, or None while that round continues.

    A closed round is followed by the next, an abandoned one by another attempt or by the end of the run,
    depending on the settings. An evaluation that was abandoned too often is skipped. A run with a ServerApp
    always waits for it.
    """
    if run.state is not RunState.RUNNING:
        return None
    if run.settings.has_server_app:  # also while rounds are open: several may be at the same time
        return Wait(run.round + 1, None)
    if latest is None:
        return Open(1, 1, _usual_work(run.settings))
    if latest.state is State.CLOSED or skipped(run, latest):
        return _finished(run, latest) or _due(run, latest, now)
    if latest.state is State.ABANDONED:
        if _may_retry(run, latest):
            return Open(latest.number, latest.attempt + 1, latest.work)
        reason = f"round {latest.number} was abandoned at attempt {latest.attempt}: {latest.reason}"
        return End(RunState.FAILED, reason)
    return None


def skipped(run: Run, latest: Round) -> bool:
    """Return whether a round is an evaluation that was abandoned too often: the run continues without it."""
    over = latest.state is State.ABANDONED and latest.work is Work.EVALUATE
    return over and not _may_retry(run, latest)


def _may_retry(run: Run, abandoned: Round) -> bool:
    """Return whether the run has an attempt left for a round."""
    attempts = run.settings.attempts if run.settings.on_abandoned == "retry" else 1
    granted = run.granted_attempts if run.granted_round == abandoned.number else 0
    return abandoned.attempt < attempts + granted


def _finished(run: Run, closed_round: Round) -> End | None:
    """Return the end of a run that has reached its goal, or None.

    Devices measure the model that a round starts from, so the metrics are those of model ``base``.
    """
    settings, progress = run.settings, progress_after(run, closed_round)
    metric, found = settings.target_metric, _target_value(settings, closed_round)
    if settings.target_value is not None and found is not None:
        sign = -1 if settings.lower_is_better else 1
        if (found - settings.target_value) * sign >= 0:
            reason = f"model {closed_round.base} reached the target: {metric} {found:.4g}"
            return End(RunState.SUCCEEDED, reason)
    if settings.patience and progress.best is not None and progress.rounds_since_best >= settings.patience:
        best = f"{progress.best:.4g} of model {progress.best_model}"
        reason = f"{metric} did not improve on {best} for {progress.rounds_since_best} rounds"
        return End(RunState.SUCCEEDED, reason)
    trained = _trained_rounds(closed_round, progress)
    if closed_round.full and not _wants_evaluation(settings, closed_round, progress):
        return End(
            RunState.SUCCEEDED, f"{trained} rounds closed, and no further one fits: {closed_round.full}"
        )
    if trained >= settings.rounds and not _wants_evaluation(settings, closed_round, progress):
        return End(RunState.SUCCEEDED, f"all {settings.rounds} rounds closed")
    return None


def _due(run: Run, closed_round: Round, now: int) -> Open | Wait:
    """Return the next round, now or when it is scheduled."""
    number, settings = closed_round.number + 1, run.settings
    if _wants_evaluation(settings, closed_round, progress_after(run, closed_round)):
        return Open(number, 1, Work.EVALUATE)
    work = _usual_work(settings)
    if settings.schedule == "by_hand":
        return Open(number, 1, work) if run.wanted >= number else Wait(number, None)
    seconds = settings.every_minutes * 60 if settings.schedule in {"every", "adaptive"} else 0.0
    if settings.schedule == "adaptive":
        seconds = max(seconds, progress_after(run, closed_round).usual_seconds)
    due = closed_round.opened_at + round(seconds * 1000)
    return Open(number, 1, work) if seconds == 0 or now >= due or run.wanted >= number else Wait(number, due)


def _usual_work(settings: RunSettings) -> Work:
    """Return what the rounds of a run ask of the devices, except for those that evaluate."""
    return Work.TRAIN if settings.statistics is None else Work.STATISTICS


def _trained_rounds(closed_round: Round, progress: Progress) -> int:
    """Return how many rounds of training have closed, up to and including ``closed_round``."""
    return closed_round.number - progress.evaluations


def _wants_evaluation(settings: RunSettings, closed_round: Round, progress: Progress) -> bool:
    """Return whether the model of a round that has just closed is evaluated before the run continues.

    The last model is evaluated by default: the metrics of a training round are those of the model before it.
    If no device reported a metric, an evaluation could not report one either.
    """
    if closed_round.work is not Work.TRAIN:
        return False
    trained, every = _trained_rounds(closed_round, progress), settings.evaluate_every
    ends = trained >= settings.rounds or bool(closed_round.full)
    is_last = ends and settings.evaluate_last and bool(closed_round.metrics)
    return is_last or (bool(every) and trained % every == 0)


def _target_value(settings: RunSettings, closed_round: Round) -> float | None:
    """Return the value of the target metric that decides on the run's end, or None if none was reported.

    If the run has held-out devices, only their evaluations count, not those of training rounds.
    """
    metric = settings.target_metric
    if settings.held_out and closed_round.work is Work.TRAIN:
        return None
    # Averagers of older versions stored no ``judged``: they judged by the mean.
    return closed_round.judged.get(metric, closed_round.metrics.get(metric))


def progress_after(run: Run, ended_round: Round) -> Progress:
    """Return a run's progress with ``ended_round``, which ``run`` has not counted yet.

    A skipped evaluation round measured nothing, and its length is not representative.
    """
    before, settings = run.progress, run.settings
    length = (ended_round.closed_at - ended_round.opened_at) / 1000
    usual = (before.usual_seconds + length) / 2 if before.usual_seconds else length
    if ended_round.state is State.ABANDONED:
        usual = before.usual_seconds
    evaluated = ended_round.work is Work.EVALUATE
    counted = msgspec.structs.replace(
        before,
        usual_seconds=usual,
        model=ended_round.base if evaluated else ended_round.number,
        evaluations=before.evaluations + evaluated,
    )
    found = _target_value(settings, ended_round)
    if found is None:
        return counted
    sign = -1 if settings.lower_is_better else 1
    if before.best is None or (found - before.best) * sign > settings.smallest_improvement:
        return msgspec.structs.replace(counted, best=found, best_model=ended_round.base, rounds_since_best=0)
    return msgspec.structs.replace(counted, rounds_since_best=before.rounds_since_best + 1)
