"""What an operator, a timer or a program may ask of a run, by name."""

import contextlib
from collections.abc import Callable, Mapping

from cloud_functions import coordinator, manifests
from cloud_functions.cloud import Cloud
from cloud_functions.initial_models import copy_to_initial
from cloud_functions.waiting import LOOK_AGAIN_SECONDS
from fedgrass.federation import object_keys
from fedgrass.federation.alarms import Reminder
from fedgrass.federation.errors import LostRace, NotYet, SettingsError
from fedgrass.federation.names import checked_name
from fedgrass.federation.rounds import Event, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.settings import parse_settings


def start(cloud: Cloud, name: str, event: Mapping[str, object]) -> Run:
    """Start a run; with ``continue_from: {"run": ..., "round": n}`` from a model of another run."""
    settings = parse_settings(event.get("settings", {}))
    continued_from = _continued_from(cloud, name, event, settings.task)
    return coordinator.start(cloud, name, settings, continued_from)


def _continued_from(cloud: Cloud, name: str, event: Mapping[str, object], task: str) -> str:
    """Copy the model that a run is to continue from to its initial model; return its key."""
    source = event.get("continue_from")
    if source is None:
        return ""
    match source:
        case {"run": str(old), "round": int(number)} if not isinstance(number, bool) and number >= 0:
            key = object_keys.model(old, number)
        case _:
            message = f'continue_from is {source!r}; it takes {{"run": name, "round": number}}'
            raise SettingsError(message)
    _check_task(cloud, old, name, task)
    try:
        copy_to_initial(cloud, key, name)
    except KeyError as error:
        message = f"there is no model {key} to continue from"
        raise SettingsError(message) from error
    return key


def _check_task(cloud: Cloud, old: str, name: str, task: str) -> None:
    """Refuse to continue from a model of another task, as the other run's row or manifest says."""
    source = cloud.rounds.run(old) or manifests.run_of(cloud, old)
    if source is None:
        cloud.log(f"{name} continues from run {old!r}, of which nothing says what task it was for")
    elif source.settings.task != task:
        message = (
            f"run {old!r} trained the task {source.settings.task!r}, and {name!r} is to train {task!r}: "
            "continue from a run of the same task, or set the task to that one"
        )
        raise SettingsError(message)


def pause(cloud: Cloud, name: str, _event: Mapping[str, object]) -> Run:
    """Open no more rounds; the open one goes on."""
    return _change(cloud, name, {RunState.RUNNING}, state=RunState.PAUSED, waiting_since=0)


def resume(cloud: Cloud, name: str, _event: Mapping[str, object]) -> Run:
    """Go on with a paused run."""
    return _change(cloud, name, {RunState.PAUSED}, state=RunState.RUNNING)


def cancel(cloud: Cloud, name: str, _event: Mapping[str, object]) -> Run:
    """End a run; its open round is abandoned, its models stay."""
    reason = "cancelled by the operator"
    return _change(
        cloud,
        name,
        {RunState.RUNNING, RunState.PAUSED},
        state=RunState.CANCELLED,
        reason=reason,
        ended_at=cloud.now(),
    )


def retry(cloud: Cloud, name: str, event: Mapping[str, object]) -> Run:
    """Try the newest round again, with as many attempts as at first; an open attempt is given up."""
    run, allowed = _known(cloud, name), {RunState.RUNNING, RunState.FAILED}
    _check_state(run, allowed)
    newest = cloud.rounds.round(name, run.round, run.attempt) if run.round else None
    going: dict[str, object] = {"state": RunState.RUNNING, "reason": "", "ended_at": 0}
    if newest and newest.state in {State.OPEN, State.ABANDONED}:
        going |= {"granted_attempts": newest.attempt, "granted_round": newest.number}
    elif run.state is RunState.RUNNING:  # a run can also fail between two rounds, for want of devices
        state = newest.state if newest else "not there"
        message = f"the newest round of run {name!r} is {state}: retry is for open and abandoned ones"
        raise SettingsError(message)
    if newest and newest.state is State.OPEN:
        _look_again(cloud, name)
        try:
            coordinator.abandon(cloud, newest, Event.GIVEN_UP)
        except LostRace:
            return retry(cloud, name, event)  # it moved on at that moment: look at it again
    return _change(cloud, name, allowed, **going)


def open_next(cloud: Cloud, name: str, _event: Mapping[str, object]) -> Run:
    """Open the next round now, whatever the schedule says."""
    run = _known(cloud, name)
    return _change(cloud, name, {RunState.RUNNING}, wanted=run.round + 1)


def status(cloud: Cloud, name: str, _event: Mapping[str, object]) -> Run:
    """Return the run as it is."""
    return _known(cloud, name)


ACTIONS: Mapping[str, Callable[[Cloud, str, Mapping[str, object]], Run]] = {
    "start": start,
    "pause": pause,
    "resume": resume,
    "cancel": cancel,
    "retry": retry,
    "next": open_next,
    "status": status,
}


def act(cloud: Cloud, event: Mapping[str, object]) -> Run:
    """Do what an event asks: ``{"action": "start", "run": name, ...}``; without action it means start.

    Raises:
        SettingsError: the action, the run or a setting cannot be used; the text names it and what may be.
    """
    action = event.get("action", "start")
    if not isinstance(action, str) or action not in ACTIONS:
        message = f"the event's action is {action!r}; it may be one of: {', '.join(ACTIONS)}, repair"
        raise SettingsError(message)
    return ACTIONS[action](cloud, named_run(event), event)


def named_run(event: Mapping[str, object]) -> str:
    """Return the name of the run that an event names. Raises SettingsError."""
    name = event.get("run")
    if not isinstance(name, str):
        message = f"the event names no run: {sorted(event)}; it takes {{'action': ..., 'run': name}}"
        raise SettingsError(message)
    return checked_name("run", name)


def _known(cloud: Cloud, name: str) -> Run:
    run = cloud.rounds.run(name)
    if run is None:
        message = f"there is no run {name!r}"
        raise SettingsError(message)
    return run


def _change(cloud: Cloud, name: str, allowed: set[RunState], **changes: object) -> Run:
    """Change a run that is in one of the ``allowed`` states, and drive it on."""
    while True:
        run = _known(cloud, name)
        _check_state(run, allowed)
        _look_again(cloud, name)
        try:
            changed = cloud.rounds.change_run(run, **changes)
        except LostRace:
            continue  # it moved on at that moment: ask again
        with contextlib.suppress(NotYet):  # a round is being averaged: whoever does that goes on
            coordinator.advance(cloud, name)
        return cloud.rounds.run(name) or changed


def _look_again(cloud: Cloud, name: str) -> None:
    """Have a run looked after: whoever changes it may die before it is driven on."""
    cloud.alarms.remind(Reminder(run=name), LOOK_AGAIN_SECONDS)


def _check_state(run: Run, allowed: set[RunState]) -> None:
    if run.state not in allowed:
        states = " or ".join(sorted(allowed))
        message = f"run {run.name!r} is {run.state}; only one that is {states} can be asked that"
        raise SettingsError(message)
