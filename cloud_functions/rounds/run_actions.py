"""The actions that an operator, a timer or a program can request of a run, by name.

An action is one conditional write to the run's row; the driver then does what follows from it. An action with
an id is performed once, however often it is delivered.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import msgspec

from cloud_functions.models.model_messages import imported_model
from cloud_functions.recovery import manifests
from cloud_functions.rounds import driver, reminders
from cloud_functions.rounds.start import copy_to_initial, start_run
from cloud_functions.server_apps import send_messages
from cloud_functions.services import Services
from fedgrass.federation import object_keys
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import LostRace, NotYet, SettingsError
from fedgrass.federation.messages.message_fields import LONGEST_CALLER, checked_name, shorten
from fedgrass.federation.rounds import Round, State
from fedgrass.federation.runs import Run, RunAction, RunState
from fedgrass.federation.settings import RunSettings
from fedgrass.federation.settings_parser import parse_settings

_LONGEST_ID = 1024  # characters: an id may be the ARN of a schedule with its time


def start(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """Start a run, with ``continue_from: {"run": ..., "round": n}`` from a model of another run."""
    settings = parse_settings(event.get("settings", {}))
    continued_from, former = _continued_from(services, name, event, settings)
    if former and not settings.frozen_sha256:
        settings = msgspec.structs.replace(settings, frozen_sha256=former.settings.frozen_sha256)
    return start_run(services, name, settings, continued_from, former, by=caller(event))


def _continued_from(
    services: Services, name: str, event: Mapping[str, object], settings: RunSettings
) -> tuple[str, Run | None]:
    """Copy the model that a run continues from to its initial model.

    Returns:
        The model's key, or an empty string, and the run that made it, if it is known.
    """
    source = event.get("continue_from")
    if source is None:
        return "", None
    if settings.statistics:
        message = "a run of statistics has no model: leave continue_from out"
        raise SettingsError(message)
    if settings.has_server_app:
        message = "the model of a run with a ServerApp is in its ServerApp: leave continue_from out"
        raise SettingsError(message)
    match source:
        case {"run": str(old), "round": int(number)} if not isinstance(number, bool) and number >= 0:
            key = object_keys.model(old, number)
        case _:
            message = f'continue_from is {source!r}; it takes {{"run": name, "round": number}}'
            raise SettingsError(message)
    former = _former_run(services, old, name, settings.task)
    try:
        copy_to_initial(services, key, name)
    except KeyError as error:
        message = f"there is no model {key} to continue from"
        raise SettingsError(message) from error
    return key, former


def _former_run(services: Services, old: str, name: str, task: str) -> Run | None:
    """Return the run to continue, from its row or its manifest, checked to have trained the same task.

    Raises:
        SettingsError: it trained another task, or made no models.
    """
    source = services.rounds.run(old) or manifests.run_of(services, old)
    if source is None:
        imported = imported_model(services, old)
        if imported is None:
            services.log(f"continues from run {old!r}, whose task is not known")
        elif imported.task != task:
            message = (
                f"{old}/0 was imported as a model of the task {imported.task!r}, but {name!r} trains"
                f" {task!r}: set the task to that one, or import the model for this task"
            )
            raise SettingsError(message)
    elif source.settings.statistics:
        message = f"run {old!r} is one of statistics, which makes no model to continue from"
        raise SettingsError(message)
    elif source.settings.has_server_app:
        message = (
            f"run {old!r} has a ServerApp, and the models that it made are there: give the model as a file"
            " (--model)"
        )
        raise SettingsError(message)
    elif source.settings.task != task:
        message = (
            f"run {old!r} trained the task {source.settings.task!r}, but {name!r} trains {task!r}: "
            "continue from a run of the same task, or set the task to that one"
        )
        raise SettingsError(message)
    return source


def pause(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """Open no more rounds; the open one continues."""

    def paused(_run: Run) -> dict[str, object]:
        return {"state": RunState.PAUSED, "waiting_since": 0}

    return _change(services, name, event, {RunState.RUNNING}, paused)


def resume(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """Continue a paused run."""

    def resumed(_run: Run) -> dict[str, object]:
        return {"state": RunState.RUNNING, "reason": ""}

    return _change(services, name, event, {RunState.PAUSED}, resumed)


def cancel(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """End a run; its open round is abandoned, its models remain."""

    def cancelled(_run: Run) -> dict[str, object]:
        reason = "cancelled by the operator"
        return {"state": RunState.CANCELLED, "reason": reason, "ended_at": services.now()}

    return _change(services, name, event, {RunState.RUNNING, RunState.PAUSED}, cancelled)


def retry(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """Retry the newest round, with the initial number of attempts; an open attempt is given up.

    A FAILED run with a ServerApp only becomes RUNNING again, and waits for its ServerApp.

    Only the run's row is changed, in one write with the action's id: the driver then abandons the attempt.
    """

    def changes(run: Run) -> dict[str, object]:
        if run.settings.has_server_app:
            if run.state is RunState.RUNNING:
                message = (
                    f"run {name!r} is RUNNING, and its ServerApp sends each message once: nothing to retry"
                )
                raise SettingsError(message)
            return {"state": RunState.RUNNING, "reason": "", "ended_at": 0}
        round_ = services.rounds.round(name, run.round, run.attempt) if run.round else None
        running: dict[str, object] = {"state": RunState.RUNNING, "reason": "", "ended_at": 0}
        if round_ and round_.state in {State.OPEN, State.ABANDONED}:
            retried_rounds.append(round_)
            return running | {"granted_attempts": round_.attempt, "granted_round": round_.number}
        if run.state is RunState.RUNNING:  # a FAILED one may have failed between two rounds, without devices
            refuse(round_)
        return running

    def refuse(round_: Round | None) -> NoReturn:
        message = f"run {name!r} has no round to retry"
        if round_:
            message = (
                f"round {round_.number} of run {name!r} is {round_.state}: only OPEN and ABANDONED rounds can"
                " be retried"
            )
        raise SettingsError(message)

    retried_rounds: list[Round] = []
    run = _change(services, name, event, {RunState.RUNNING, RunState.FAILED}, changes)
    if retried_rounds:
        ended = services.rounds.round(name, retried_rounds[-1].number, retried_rounds[-1].attempt)
        if ended and ended.state is State.CLOSED:  # it closed at that moment: there is nothing to retry
            refuse(ended)
    return run


def allow_next(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """Let the next round open now, whatever the schedule."""

    def allowed(run: Run) -> dict[str, object]:
        if run.settings.has_server_app:
            message = f"the rounds of run {name!r} are opened by its ServerApp, whenever it sends messages"
            raise SettingsError(message)
        return {"wanted": run.round + 1}

    return _change(services, name, event, {RunState.RUNNING}, allowed)


def send(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """Open a round for the messages of the run's ServerApp: ``{"number": n, "sha256": of their list}``."""
    run = known_run(services, name)
    check_has_server_app(run)
    return send_messages.send(services, run, event)


def finish(services: Services, name: str, event: Mapping[str, object]) -> Run:
    """End a run whose ServerApp has ended, or failed for the reason in ``failed``; give up open rounds."""
    check_has_server_app(known_run(services, name))
    failed = event.get("failed", "")
    if not isinstance(failed, str):
        message = (
            f"the action's failed is {shown(failed)}; it takes the reason why the ServerApp failed, as a text"
        )
        raise SettingsError(message)

    def finished(_run: Run) -> dict[str, object]:
        state = RunState.FAILED if failed else RunState.SUCCEEDED
        reason = shorten(f"the ServerApp failed: {failed}" if failed else "the ServerApp has ended")
        return {"state": state, "reason": reason, "ended_at": services.now()}

    return _change(services, name, event, {RunState.RUNNING, RunState.PAUSED}, finished)


def status(services: Services, name: str, _event: Mapping[str, object]) -> Run:
    """Return the run as it is."""
    return known_run(services, name)


ACTIONS: Mapping[str, Callable[[Services, str, Mapping[str, object]], Run]] = {
    "start": start,
    "pause": pause,
    "resume": resume,
    "cancel": cancel,
    "retry": retry,
    "next": allow_next,
    "send": send,
    "finish": finish,
    "status": status,
}


def act(services: Services, event: Mapping[str, object], others: Iterable[str] = ()) -> Run:
    """Perform the action of an event: ``{"action": "start", "run": name, ...}``; the default is ``start``.

    An event with an ``id`` is performed once: the run stores the id, and a copy of the event has no effect.
    ``start`` needs no id, since a name is started only once. An event may have a ``by``, which the run's
    history keeps: what the caller states of itself.

    Args:
        services: the ports and limits of this worker.
        event: the action, with the name of its run.
        others: names of the actions that other modules perform, for the message on an unknown one.

    Raises:
        SettingsError: the action, the run or a setting cannot be used; the text names it and what is allowed.
    """
    action = event.get("action", "start")
    if not isinstance(action, str) or action not in ACTIONS:
        known = ", ".join([*ACTIONS, *sorted(others)])
        message = f"the event's action is {action!r}; it may be one of: {known}"
        raise SettingsError(message)
    return ACTIONS[action](services, named_run(event), event)


def named_run(event: Mapping[str, object]) -> str:
    """Return the name of the run in an event. Raises SettingsError."""
    name = event.get("run")
    if not isinstance(name, str):
        message = f"the event names no run: {sorted(event)}; it takes {{'action': ..., 'run': name}}"
        raise SettingsError(message)
    return checked_name("run", name)


def known_run(services: Services, name: str) -> Run:
    """Return a run. Raises SettingsError if there is none, or its row is lost."""
    run = services.rounds.run(name)
    if run is None:
        message = f"there is no run {name!r}: `fedgrass run list` lists those that there are"
        if manifests.is_kept(services, name):
            message = f"the row of run {name!r} is lost: `fedgrass run repair {name}` rebuilds it"
        raise SettingsError(message)
    return run


def check_has_server_app(run: Run) -> None:
    """Check that a run has a ServerApp. Raises SettingsError."""
    if not run.settings.has_server_app:
        message = (
            f"run {run.name!r} has the mode {run.settings.mode!r}; this action is for runs with a ServerApp"
            " (mode 'server_app'), which `fedgrass flower run` starts"
        )
        raise SettingsError(message)


def _action_id(event: Mapping[str, object]) -> str:
    """Return the id of an event's action; empty if it has none. Raises SettingsError."""
    found = event.get("id", "")
    if not isinstance(found, str) or len(found) > _LONGEST_ID:
        shown = shorten(repr(found), 100)
        message = f"the event's id is {shown}; it takes a text of at most {_LONGEST_ID} characters"
        raise SettingsError(message)
    return found


def caller(event: Mapping[str, object]) -> str:
    """Return who requests an event's action, as the event states it; empty if it does not.

    Raises:
        SettingsError: it is not a short printable text.
    """
    found = event.get("by", "")
    if not isinstance(found, str) or len(found) > LONGEST_CALLER or not found.isprintable():
        message = (
            f"the event's by is {shorten(repr(found), 100)}; it takes a printable text of at most"
            f" {LONGEST_CALLER} characters, such as the ARN of the caller"
        )
        raise SettingsError(message)
    return found


def _change(
    services: Services,
    name: str,
    event: Mapping[str, object],
    allowed: set[RunState],
    changes: Callable[[Run], dict[str, object]],
) -> Run:
    """Change a run that is in one of the ``allowed`` states, once per action, and advance it.

    A copy of an action that was performed still advances the run: the first worker may have crashed before it
    did so.
    """
    action = _action_id(event)
    performed = RunAction(at=services.now(), action=str(event.get("action", "")), by=caller(event))
    while True:
        run = known_run(services, name)
        if run.has_done(action):
            services.log(f"ignored action {action}: already performed")
            changed = run
            break
        _check_state(run, allowed)
        changing = changes(run)
        reminders.look_again_later(services, name)
        try:
            changed = services.rounds.change_run(run, **changing, **run.with_action(action, performed))
        except LostRace:
            continue  # it moved on at that moment, or this write itself succeeded: read it again
        break
    with contextlib.suppress(NotYet):  # a round is being averaged: its averager advances the run
        driver.advance(services, name)
    return services.rounds.run(name) or changed


def _check_state(run: Run, allowed: set[RunState]) -> None:
    if run.state not in allowed:
        states = " or ".join(sorted(allowed))
        message = f"run {run.name!r} is {run.state}; this action requires {states}"
        raise SettingsError(message)
