"""The coordinator: drives a run from whatever state it is in to the next that needs somebody else.

``advance`` is the whole of it. It may be called by anyone, at any time, any number of times, at the same
moment as another: each step is a conditional write, and what follows a write is repeated until the next one,
so that a crash between two steps is mended by the next call.
"""

import contextlib
from typing import NamedTuple

from cloud_functions import averaging, opening
from cloud_functions.cloud import Cloud
from fedgrass.federation import object_keys
from fedgrass.federation.errors import LostRace, NotYet, SettingsError
from fedgrass.federation.rounds import Event, Round, State, explain, next_event
from fedgrass.federation.runs import End, Open, Run, RunState, next_step
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.weights import check_finite, decode, sha256

LARGEST_MODEL = 4 * 1024**3  # bytes; a Lambda function has 10 GB


class Overdue(NamedTuple):
    """Which alarm has rung: that of this attempt at a round, as long as this is its deadline."""

    round: int
    attempt: int
    deadline_at: int


def start(cloud: Cloud, name: str, settings: RunSettings) -> Run:
    """Start a run whose initial model lies in the bucket, and open its first round.

    Starting the same run with the same settings again changes nothing.

    Raises:
        SettingsError: there is no initial model, no device for the task, or another run of that name.
        UpdateRefused: the initial model is no file of finite weights.
    """
    key = object_keys.model(name, 0)
    try:
        model = cloud.bucket.read(key, LARGEST_MODEL)
    except KeyError as error:
        message = f"run {name!r} has no initial model: upload one to {key} first"
        raise SettingsError(message) from error
    check_finite(decode(model))
    _check_candidates(cloud, settings)
    run = Run(
        name=name,
        state=RunState.RUNNING,
        settings=settings,
        started_at=cloud.now(),
        initial_sha256=sha256(model),
        initial_bytes=len(model),
    )
    try:
        cloud.rounds.create_run(run)
    except LostRace as error:
        stored = cloud.rounds.run(name)
        if stored is None or stored.settings != settings:
            message = f"there is a run {name!r} with other settings already: choose another name"
            raise SettingsError(message) from error
    with contextlib.suppress(NotYet):  # of a run that was started before and is at work: nothing to do
        advance(cloud, name)
    return cloud.rounds.run(name) or run


def _check_candidates(cloud: Cloud, settings: RunSettings) -> None:
    found = len(opening.candidates(cloud, settings))
    if not found:
        raise SettingsError(opening.nobody(cloud, settings))
    asked = settings.cohort(found)
    if asked < settings.minimum_replies:
        message = (
            f"the run's minimum_replies is {settings.minimum_replies}, but a round would ask {asked} of the "
            f"{found} devices that can do {settings.task!r}: lower it, or connect more devices"
        )
        raise SettingsError(message)


def advance(cloud: Cloud, name: str, overdue: Overdue | None = None) -> None:
    """Drive a run as far as it goes without anybody else.

    Args:
        cloud: the ports.
        name: the run.
        overdue: the alarm that has rung, if that is why this is called.

    Raises:
        NotYet: another worker is averaging; call again when its lease may have expired.
    """
    going = True
    while going:
        run = cloud.rounds.run(name)
        if run is None or run.state is not RunState.RUNNING:
            return
        newest = cloud.rounds.round(name, run.round, run.attempt) if run.round else None
        try:
            going = _step(cloud, run, newest, overdue)
        except LostRace:
            going = True  # somebody else took the step: look where the run stands now


def _step(cloud: Cloud, run: Run, newest: Round | None, overdue: Overdue | None) -> bool:
    """Take one step; return whether there may be another."""
    if newest and newest.state is State.CLOSED:
        averaging.publish_model(cloud, run, newest)
    match next_step(run, newest):
        case Open(number, attempt):
            return _open(cloud, run, newest, number, attempt)
        case End(state, reason):
            _end(cloud, run, newest, state, reason)
            return False
    return newest is not None and _drive(cloud, run, newest, overdue)


def _open(cloud: Cloud, run: Run, newest: Round | None, number: int, attempt: int) -> bool:
    if opening.open_round(cloud, run, newest, number, attempt):
        return True
    _end(cloud, run, newest, RunState.FAILED, opening.nobody(cloud, run.settings))
    return False


def _drive(cloud: Cloud, run: Run, newest: Round, overdue: Overdue | None) -> bool:
    """Take one step within a round that is OPEN or AGGREGATING."""
    if newest.state is State.OPEN and not newest.announced:
        opening.announce_all(cloud, run, newest)
    rung = overdue == (newest.number, newest.attempt, newest.deadline_at)
    event = next_event(newest, cloud.now(), overdue=rung)
    if event is None:
        if newest.state is State.AGGREGATING:
            message = f"another averager holds the lease of round {newest.number} of run {run.name}"
            raise NotYet(message)
        return False
    if event in {Event.DEADLINE_TOO_FEW, Event.MINIMUM_OUT_OF_REACH}:
        reason = explain(newest, event)
        abandoned = cloud.rounds.move(newest, event, reason=reason, closed_at=cloud.now())
        cloud.alarms.cancel(abandoned)
        cloud.tell(abandoned, f"abandoned: {reason}")
    else:
        averaging.aggregate(cloud, run, newest, event, overdue=rung)
    return True


def _end(cloud: Cloud, run: Run, newest: Round | None, state: RunState, reason: str) -> None:
    cloud.rounds.end_run(run, state, reason, cloud.now())
    cloud.log(f"{run.name} {state}: {reason}")
    if newest:
        cloud.tell(newest, f"run {state}: {reason}")
