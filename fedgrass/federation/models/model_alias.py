"""The record of an alias, such as ``production``: the model that it names, and how it came to name it.

It is one object in the bucket, replaced by conditional writes: ``models/<task>/aliases/<alias>.json``.
Devices read the model that it names; operators read its history as well.
"""

import hashlib

import msgspec
from msgspec import Struct

from fedgrass.federation.errors import MessageError, SettingsError
from fedgrass.federation.messages import ModelAlias, NewModel
from fedgrass.federation.messages.message_fields import LONGEST_CALLER, TextEnum, checked_name, shorten

LATEST = "latest"  # what the console calls the newest model of a task, so no alias has this name
LARGEST_RECORD = 128 * 1024  # bytes
MOST_CHANGES = 50  # in the history


class AliasAction(TextEnum):
    """What moved an alias."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


class AliasChange(Struct, frozen=True, kw_only=True):
    """One change of an alias: who moved it when from which model to which.

    Attributes:
        at: milliseconds since the epoch, by the cloud's clock.
        action: what moved it.
        by: ARN of the caller; empty if it is not known.
        run: of the model that it names since then.
        round: of that model.
        from_run: of the model that it named before; empty: it was new.
        from_round: of that model.
        id: fingerprint of the action's id, so that an action delivered twice moves it once.
    """

    at: int
    action: AliasAction
    by: str = ""
    run: str
    round: int
    from_run: str = ""
    from_round: int = 0
    id: str = ""


class AliasRecord(ModelAlias, frozen=True, kw_only=True):
    """The object of an alias: the message that devices get, with the last changes, the oldest first."""

    history: tuple[AliasChange, ...] = ()

    def message(self) -> ModelAlias:
        """Return the message for devices, without the history."""
        return ModelAlias(alias=self.alias, serial=self.serial, model=self.model)

    def has_done(self, action_id: str) -> bool:
        """Return whether the action of this id has moved it; always False without an id."""
        return bool(action_id) and any(change.id == _fingerprint(action_id) for change in self.history)


# Created at import, not on first use: see messages/message_codec.py.
_RECORD = msgspec.json.Decoder(AliasRecord)


def checked_alias(name: str) -> str:
    """Return the name of an alias. Raises SettingsError if it is not one that can be moved."""
    if checked_name("alias", name) == LATEST:
        message = f"{LATEST!r} always names the newest model of a task: choose another name for an alias"
        raise SettingsError(message)
    return name


def decode_record(data: bytes, key: str) -> AliasRecord:
    """Return the record in the object ``key``. Raises MessageError if it is damaged."""
    try:
        return _RECORD.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"object {key} is damaged ({error}): remove it, or restore an earlier version of it"
        raise MessageError(message) from error


def encode_record(record: AliasRecord) -> bytes:
    """Return the object of an alias."""
    return msgspec.json.encode(record)


def moved(  # noqa: PLR0913 - the parts of a change
    record: AliasRecord | None,
    alias: str,
    model: NewModel,
    action: AliasAction,
    *,
    at: int,
    by: str,
    action_id: str = "",
) -> AliasRecord:
    """Return the record of an alias after a change.

    Args:
        record: the record before; None: the alias is new.
        alias: its name.
        model: the model that it shall name.
        action: what moves it.
        at: the time, in milliseconds.
        by: the caller.
        action_id: by which the change is made once.
    """
    change = AliasChange(
        at=at,
        action=action,
        by=shorten(by, LONGEST_CALLER),
        run=model.run,
        round=model.round,
        from_run=record.model.run if record else "",
        from_round=record.model.round if record else 0,
        id=_fingerprint(action_id) if action_id else "",
    )
    history = (*(record.history if record else ()), change)[-MOST_CHANGES:]
    return AliasRecord(alias=alias, serial=record.serial + 1 if record else 1, model=model, history=history)


def model_before(record: AliasRecord) -> tuple[str, int] | None:
    """Return run and round of the model to which a rollback leads; None if none is known.

    Each rollback undoes one more promotion: what it has left is not reached again.
    """
    stack: list[tuple[str, int]] = []
    for change in record.history:
        target = (change.run, change.round)
        if change.action is AliasAction.PROMOTE:
            if not stack and change.from_run:  # earlier changes are forgotten
                stack.append((change.from_run, change.from_round))
            stack.append(target)
            continue
        stack = stack[:-1]
        if not stack or stack[-1] != target:
            stack = [target]
    return stack[-2] if len(stack) > 1 else None


def _fingerprint(action_id: str) -> str:
    """Return 16 characters that identify an id of any length."""
    return hashlib.sha256(action_id.encode()).hexdigest()[:16]
