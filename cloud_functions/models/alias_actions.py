"""The actions ``promote`` and ``rollback``: an operator moves an alias of a task to another model.

An alias is one object, replaced only if it is still as it was read, so of two operators who act at once one
is refused. Then the devices whose predictor follows the alias get a message; those that miss it read the
object later.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cloud_functions.models.model_messages import known_model
from cloud_functions.rounds.run_actions import caller
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import NewModel
from fedgrass.federation.messages.message_fields import checked_name
from fedgrass.federation.models.model_alias import (
    LARGEST_RECORD,
    AliasAction,
    AliasRecord,
    checked_alias,
    decode_record,
    encode_record,
    model_before,
    moved,
)


def promote(services: Services, event: Mapping[str, object]) -> dict[str, Any]:
    """Let an alias name a model: ``{"run": ..., "round": n, "alias": ..., "task": ...}``.

    ``task`` may be left out; if it is given, the model must be of that task. ``serial`` is that of the alias
    as the operator saw it, 0 for a new one: if it was moved since, the action is refused.

    Returns:
        ``{"alias", "task", "run", "round", "serial", "changed"}``.

    Raises:
        SettingsError: there is no such model, it is of another task, or the alias was moved since.
    """
    number = _number(event, "round")
    if number is None:
        message = 'the event names no round: promote takes {"run": name, "round": n, "alias": name}'
        raise SettingsError(message)
    model = known_model(services, checked_name("run", _text(event, "run")), number)
    task = _text(event, "task") or model.task
    if task != model.task:
        message = f"{model.run}/{model.round} is a model of the task {model.task!r}, not of {task!r}"
        raise SettingsError(message)
    return _move(services, task, event, AliasAction.PROMOTE, lambda _record: model)


def rollback(services: Services, event: Mapping[str, object]) -> dict[str, Any]:
    """Let an alias name the model before the last promotion again: ``{"task": ..., "alias": ...}``.

    As ``promote``; raises SettingsError also if no earlier model is known.
    """
    task = checked_name("task", _text(event, "task"))

    def former(record: AliasRecord | None) -> NewModel:
        alias = _text(event, "alias")
        if record is None:
            message = f"there is no alias {alias!r} of the task {task!r}: `fedgrass model promote` makes one"
            raise SettingsError(message)
        before = model_before(record)
        if before is None:
            message = (
                f"alias {alias!r} of the task {task!r} has no model before {_model(record)}: promote another"
                " one"
            )
            raise SettingsError(message)
        return known_model(services, *before)

    return _move(services, task, event, AliasAction.ROLLBACK, former)


ALIAS_ACTIONS: Mapping[str, Callable[[Services, Mapping[str, object]], dict[str, Any]]] = {
    "promote": promote,
    "rollback": rollback,
}


def _move(
    services: Services,
    task: str,
    event: Mapping[str, object],
    action: AliasAction,
    choose: Callable[[AliasRecord | None], NewModel],
) -> dict[str, Any]:
    """Move an alias once, and publish what it names; without a change it is only published again."""
    alias, action_id, by = checked_alias(_text(event, "alias")), _text(event, "id"), caller(event)
    record, version = _read(services, task, alias)
    if record and record.has_done(action_id):
        return _published(services, task, record, changed=False)
    _check_unmoved(record, task, alias, event)
    model = choose(record)
    if record and (record.model.run, record.model.round) == (model.run, model.round):
        return _published(services, task, record, changed=False)
    after = moved(record, alias, model, action, at=services.now(), by=by, action_id=action_id)
    messages.encode(after.message())  # raises before anything is changed
    if not services.bucket.write_over(object_keys.model_alias(task, alias), encode_record(after), version):
        there, _ = _read(services, task, alias)
        if there is None or not there.has_done(action_id):  # otherwise this write itself succeeded
            raise SettingsError(_overtaken(there, task, alias))
        after = there
    services.log(f"alias {alias} of {task} names {_model(after)}: {action} by {by or 'an unknown caller'}")
    return _published(services, task, after, changed=True)


def _check_unmoved(record: AliasRecord | None, task: str, alias: str, event: Mapping[str, object]) -> None:
    seen = _number(event, "serial")
    if seen is not None and seen != (record.serial if record else 0):
        raise SettingsError(_overtaken(record, task, alias))


def _overtaken(record: AliasRecord | None, task: str, alias: str) -> str:
    """Return the message that someone else has moved an alias meanwhile: who, when and where to."""
    advice = f"look at `fedgrass model list --task {task}`, and repeat the command if it still applies"
    if record is None or not record.history:
        return f"alias {alias!r} of the task {task!r} was replaced since then: {advice}"
    last = record.history[-1]
    at = datetime.fromtimestamp(last.at / 1000, tz=UTC)
    return (
        f"alias {alias!r} of the task {task!r} was moved to {last.run}/{last.round} since then, by"
        f" {last.by or 'an unknown caller'} at {at:%Y-%m-%d %H:%M:%S} UTC ({last.action}): {advice}"
    )


def _published(services: Services, task: str, record: AliasRecord, *, changed: bool) -> dict[str, Any]:
    topic = topics.of_alias(services.fleet, task, record.alias)
    services.publisher.publish([(topic, messages.encode(record.message()))])
    return {
        "alias": record.alias,
        "task": task,
        "run": record.model.run,
        "round": record.model.round,
        "serial": record.serial,
        "changed": changed,
    }


def _read(services: Services, task: str, alias: str) -> tuple[AliasRecord | None, str | None]:
    """Return the record of an alias and its version; None for both if there is none."""
    key = object_keys.model_alias(task, alias)
    try:
        data, version = services.bucket.read_version(key, LARGEST_RECORD)
    except KeyError:
        return None, None
    return decode_record(data, key), version


def _model(record: AliasRecord) -> str:
    return f"{record.model.run}/{record.model.round}"


def _text(event: Mapping[str, object], field: str) -> str:
    """Return a text of the event; empty if it is missing. Raises SettingsError for anything else."""
    found = event.get(field, "")
    if not isinstance(found, str):
        message = f"the event's {field} is {shown(found)}; it takes a text"
        raise SettingsError(message)
    return found


def _number(event: Mapping[str, object], field: str) -> int | None:
    """Return a whole number of the event, or None if it is missing. Raises SettingsError."""
    found = event.get(field)
    if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < 0):
        message = f"the event's {field} is {shown(found)}; it takes a whole number from 0"
        raise SettingsError(message)
    return found
