"""Opens a round: choose the cohort, store its devices, set the deadline's alarm, store the round.

The cohort is asked by the next step (announce.py).
"""

from typing import NamedTuple

import msgspec

from cloud_functions.aggregation import guarded_strategy
from cloud_functions.buffers import flight
from cloud_functions.recovery import manifests
from cloud_functions.rounds import reminders
from cloud_functions.selection import candidate_search, cohorts
from cloud_functions.services import Services
from fedgrass.federation.aggregation import sharding_plan
from fedgrass.federation.errors import LostRace, RunBehind, SettingsError
from fedgrass.federation.messages import Carried, message_fields
from fedgrass.federation.messages.alarms import Alarm
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Open, Progress, Run, progress_after


def open_next(services: Services, run: Run, previous: Round | None, step: Open) -> bool:
    """Store a run's next round, with its cohort and its alarm; return False while no device can be asked.

    An attempt that found no device in time is stored as abandoned.

    Args:
        services: the ports.
        run: the run.
        previous: the run's newest round so far, if any.
        step: which round and attempt to open, and for which work.

    Raises:
        LostRace: another worker opened the round, or the run has moved on.
        RunBehind: table or bucket have that round already, although the run's row does not.
    """
    began = services.now()
    if behind := manifests.why_behind(services, run.name, step.number):
        raise RunBehind(behind)
    buffered = run.settings.is_buffered and step.work is Work.TRAIN
    training = flight.in_flight(services, run, step.number) if buffered else []
    if buffered:
        cohort = flight.begin_once(services, run, step, training)
    else:
        cohort = cohorts.choose_once(services, run, step)
    cohort = cohort or reminders.wait_for_devices(services, run, step)
    if cohort is None:
        return False
    new_round = _new_round(services, run, previous, step, cohort)
    progress = _progress(run, previous, step)
    if not cohort.wanted:
        _store_abandoned(services, run, new_round, progress)
        return True
    new_round = msgspec.structs.replace(new_round, choosing_at=began)
    if buffered:  # its devices are chosen once it is open: see buffers/flight.py
        new_round = _as_buffer(run, new_round, training)
    else:
        services.rounds.ask(new_round, cohort.devices)
    # The alarm comes before the round: a round without an alarm could wait indefinitely.
    services.alarms.set(deadline_of(new_round))
    _store(services, run, new_round, progress)
    if buffered:
        services.report(
            new_round, f"opened: {len(training)} devices in flight, {new_round.needed} replies needed"
        )
        return True
    aim = {Work.EVALUATE: f" to evaluate model {new_round.base}", Work.STATISTICS: " for statistics"}.get(
        new_round.work, ""
    )
    services.report(
        new_round, f"opened: {new_round.asked} devices asked{aim}, {new_round.needed} replies needed"
    )
    return True


def _store(services: Services, run: Run, new_round: Round, progress: Progress) -> None:
    """Store a new round as the run's newest.

    Raises:
        LostRace: another worker opened it, and moved the run's row with it.
        RunBehind: the round is there, but the run's row has not moved: the rows are of different times, and
            every retry would find the same.
    """
    try:
        services.rounds.open_round(run, new_round, progress)
    except LostRace as error:
        if services.rounds.round(new_round.run, new_round.number, new_round.attempt) is None:
            raise
        row = f"the row of round {new_round.number} attempt {new_round.attempt}"
        raise RunBehind(manifests.behind(run.name, row)) from error


def _store_abandoned(services: Services, run: Run, new_round: Round, progress: Progress) -> None:
    """Store an attempt for which no device was found in time."""
    seconds = run.settings.deadline_seconds
    reason = message_fields.shorten(
        f"no device was asked in {seconds} s: "
        f"{candidate_search.why_none(services, run.settings, new_round.work)}"
    )
    abandoned = msgspec.structs.replace(
        new_round,
        state=State.ABANDONED,
        opened_at=run.waiting_since or new_round.opened_at,
        deadline_at=new_round.opened_at,
        closed_at=new_round.opened_at,
        announced_batches=1,
        reason=reason,
    )
    _store(services, run, abandoned, progress)
    services.report_end(abandoned, f"abandoned: {reason}")


def _new_round(
    services: Services, run: Run, previous: Round | None, step: Open, cohort: cohorts.Cohort
) -> Round:
    """Return the round that a step opens now."""
    base = _base(run, previous)
    minimum = 1 if step.work is Work.EVALUATE else run.settings.minimum_replies
    now = services.now()
    return Round(
        run=run.name,
        number=step.number,
        attempt=step.attempt,
        work=step.work,
        base=_progress(run, previous, step).model,
        state=State.OPEN,
        asked=len(cohort.devices),
        needed=max(run.settings.replies_needed(cohort.wanted), minimum),
        minimum=minimum,
        opened_at=now,
        deadline_at=now + run.settings.deadline_seconds * 1000,
        base_sha256=base.sha256,
        base_bytes=base.bytes,
        base_download_sha256=base.download_sha256,
        base_download_bytes=base.download_bytes,
        base_carried=base.carried,
        full=previous.full if previous and step.work is Work.EVALUATE else "",
        group_size=_group_size(services, run, step.work, len(cohort.devices), base.bytes),
    )


def _as_buffer(run: Run, new_round: Round, training: list[flight.Assigned]) -> Round:
    """Return a round that opens as the buffer of a buffered run, with the devices that train already."""
    return msgspec.structs.replace(
        new_round,
        needed=run.settings.buffer,
        in_flight=run.settings.most_in_flight,
        in_flight_before=len(training),
        origins=tuple(sorted({f"{number}-{attempt}" for (number, attempt), _ in training})),
        group_size=0,  # a buffer is too small for partial sums to save time
    )


def _group_size(services: Services, run: Run, work: Work, asked: int, model_bytes: int) -> int:
    """Return how many updates make up one partial sum; 0 if the round is averaged without partial sums."""
    if work is not Work.TRAIN:
        return 0
    try:
        strategy = guarded_strategy.load(run.settings)
    except SettingsError:  # a custom strategy that is no longer deployed: closing the round reports that
        return 0
    return sharding_plan.group_size(services.scale, strategy, asked, model_bytes)


def _progress(run: Run, previous: Round | None, step: Open) -> Progress:
    """Return the run's progress at a step: it includes the previous round, unless that one is retried."""
    return progress_after(run, previous) if previous and step.number > previous.number else run.progress


def deadline_of(round_: Round) -> Alarm:
    """Return the alarm that fires when a round is overdue."""
    return Alarm(
        run=round_.run,
        round=round_.number,
        attempt=round_.attempt,
        at=round_.deadline_at,
        kind="deadline",
    )


class _Base(NamedTuple):
    """The model that a round starts from, the file that devices download, and the auxiliary state."""

    sha256: str
    bytes: int
    download_sha256: str
    download_bytes: int
    carried: Carried


def _base(run: Run, previous: Round | None) -> _Base:
    """Return the model that the round after ``previous`` starts from."""
    if previous is None:
        return _Base(
            run.initial_sha256,
            run.initial_bytes,
            run.initial_download_sha256,
            run.initial_download_bytes,
            dict.fromkeys(run.carries),
        )
    if previous.state is State.CLOSED and previous.work is not Work.EVALUATE:
        return _Base(
            previous.model_sha256,
            previous.model_bytes,
            previous.download_sha256,
            previous.download_bytes,
            previous.carried,
        )
    return _Base(
        previous.base_sha256,
        previous.base_bytes,
        previous.base_download_sha256,
        previous.base_download_bytes,
        previous.base_carried,
    )
