"""The action ``send``: open a round for the messages that a ServerApp has put into the bucket.

The list of the messages, and their content, are in the bucket before; the action names the number of the
round and the SHA-256 of the list. It can be repeated: a number always belongs to one list.
"""

from collections.abc import Mapping

import msgspec

from cloud_functions.recovery import manifests
from cloud_functions.rounds import announce, driver
from cloud_functions.rounds.open_round import deadline_of
from cloud_functions.server_apps.message_list import new_round, read_messages
from cloud_functions.services import Services
from fedgrass.federation.conversion import shown
from fedgrass.federation.errors import LostRace, RunBehind, SettingsError
from fedgrass.federation.messages.message_fields import LARGEST_NUMBER, Sha256
from fedgrass.federation.rounds import ENDED, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.task_messages.round_messages import (
    LONGEST_BACKLOG,
    MOST_OPEN,
    TOO_MANY_OPEN,
)


def send(services: Services, run: Run, event: Mapping[str, object]) -> Run:
    """Open the round that an event names, for its messages, and announce it to their devices.

    Args:
        services: the ports.
        run: the run, with a ServerApp.
        event: ``{"number": of the round, "sha256": of the list of its messages, ...}``.

    Returns:
        The run as it is then.

    Raises:
        SettingsError: the run is not RUNNING, has too many open rounds or another list under that number, or
            the list cannot be used.
        RunBehind: the bucket has the result of the round, whose row was lost; or the table has the round, and
            the run's row is older.
    """
    number, sha256 = _number(event), _sha256(event)
    while True:
        if number <= run.round:
            return _sent_before(services, run, number, sha256)
        _check(services, run, number)
        try:
            return _open(services, run, number, sha256)
        except LostRace:  # a copy of the action opened it, or the run was paused or cancelled
            before = services.rounds.round(run.name, number, 1)
            run = services.rounds.run(run.name) or run
            if before and run.round < number:  # read in this order: the round and the run change in one write
                raise RunBehind(_behind(run, number)) from None


def _behind(run: Run, number: int) -> str:
    return (
        f"the row of run {run.name} is at round {run.round}, and the table has round {number}:"
        f" `fedgrass run repair {run.name}` compares table and bucket"
    )


def _number(event: Mapping[str, object]) -> int:
    found = event.get("number")
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= LARGEST_NUMBER:
        message = f"the action's number is {shown(found)}; it takes the number of the round to open, from 1"
        raise SettingsError(message)
    return found


def _sha256(event: Mapping[str, object]) -> str:
    found = event.get("sha256")
    try:
        return msgspec.convert(found, Sha256)
    except msgspec.ValidationError as error:
        message = (
            f"the action's sha256 is {shown(found)}; it takes the SHA-256 of the list of messages, as 64"
            " hexadecimal digits in lower case"
        )
        raise SettingsError(message) from error


def _sent_before(services: Services, run: Run, number: int, sha256: str) -> Run:
    """Return a run whose round ``number`` was opened before; continue what a crash may have left undone.

    Raises:
        SettingsError: it was opened for other messages, or its row is lost.
    """
    found = services.rounds.round(run.name, number, 1)
    if found is None:
        message = f"the row of round {number} is lost; `fedgrass run repair {run.name}` rebuilds it"
        raise SettingsError(message)
    if found.base_sha256 != sha256:
        message = (
            f"round {number} of run {run.name!r} was opened for other messages: another ServerApp drives this"
            " run; stop one of them, or start yours as another run"
        )
        raise SettingsError(message)
    if not found.announced and found.state is State.OPEN:
        driver.advance(services, run.name, number=number)
    return services.rounds.run(run.name) or run


def _check(services: Services, run: Run, number: int) -> None:
    """Check that a run may open round ``number``. Raises SettingsError or RunBehind."""
    if run.state is not RunState.RUNNING:
        reason = f" ({run.reason})" if run.reason else ""
        way_out = f": `fedgrass run resume {run.name}` continues it" if run.state is RunState.PAUSED else ""
        message = f"run {run.name!r} is {run.state}{reason}, and sends no messages{way_out}"
        raise SettingsError(message)
    if number != run.round + 1:
        message = (
            f"the action's number is {number}, but the next round of run {run.name!r} is {run.round + 1}"
        )
        raise SettingsError(message)
    if run.round - run.published >= MOST_OPEN:
        _check_open(services, run)
    if behind := manifests.why_behind(services, run.name, number, has_model=False):
        raise RunBehind(behind)


def _check_open(services: Services, run: Run) -> None:
    """Check that not too many rounds of a run are open. Raises SettingsError."""
    waiting = list(services.unpublished(run))
    count = sum(round_.state not in ENDED for round_ in waiting)
    if count >= MOST_OPEN:
        message = (
            f"{TOO_MANY_OPEN}: run {run.name!r} has {count} open rounds of messages, and {MOST_OPEN} are"
            " allowed: wait for replies, or send the messages of many devices in one round"
        )
        raise SettingsError(message)
    if len(waiting) >= LONGEST_BACKLOG:
        message = (
            f"{TOO_MANY_OPEN}: round {waiting[0].number} of run {run.name!r} is still open, and"
            f" {len(waiting) - 1} were sent since: wait until it ends, or lower the messages' time to live"
        )
        raise SettingsError(message)


def _open(services: Services, run: Run, number: int, sha256: str) -> Run:
    """Store a round for its messages, and announce it.

    Raises:
        SettingsError: the list of the messages cannot be used.
        LostRace: the run has moved on.
    """
    began = services.now()
    listed = read_messages(services, run.name, number, sha256)
    made = msgspec.structs.replace(new_round(run, number, listed, sha256, services.now()), choosing_at=began)
    services.rounds.ask(made, listed.devices())
    # The alarm comes before the round: a round without an alarm could wait indefinitely.
    services.alarms.set(deadline_of(made))
    services.rounds.open_round(run, made, run.progress)
    services.report(made, f"opened: {made.aim} sent to {_devices(made.asked)}")
    opened = msgspec.structs.replace(run, round=number, attempt=1)
    if announce.is_left_to_another(services, made, None):
        return opened
    try:
        announce.announce_all(services, opened, made, listed)
    except LostRace:  # a copy of the action has announced it
        return services.rounds.run(run.name) or opened
    return opened


def _devices(count: int) -> str:
    return f"{count} device{'s' if count > 1 else ''}"
