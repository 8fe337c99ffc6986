"""The list of the messages of a round: read from the bucket, and made into announcements."""

from collections.abc import Callable

from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys
from fedgrass.federation.errors import SettingsError, UpdateRefused
from fedgrass.federation.messages import Announcement
from fedgrass.federation.rounds import Round, State, Work
from fedgrass.federation.runs import Run
from fedgrass.federation.task_messages.round_messages import (
    LARGEST_LIST,
    MessageGroup,
    RoundMessages,
    decode_messages,
)
from fedgrass.federation.weights import sha256


def read_messages(services: Services, run: str, number: int, expected: str) -> RoundMessages:
    """Return the messages of round ``number``.

    Args:
        services: the ports.
        run: name of the run.
        number: of the round.
        expected: SHA-256 of the list.

    Raises:
        SettingsError: the list is missing, damaged, or another one.
    """
    listed, found = load_messages(services, run, number)
    if found != expected:
        message = (
            f"the SHA-256 of the list of messages {object_keys.messages(run, number)} is {found}, and should"
            f" be {expected}: another ServerApp has written it, or it was replaced"
        )
        raise SettingsError(message)
    return listed


def load_messages(services: Services, run: str, number: int) -> tuple[RoundMessages, str]:
    """Return the messages of round ``number`` as they are in the bucket, and the SHA-256 of their list.

    Raises:
        SettingsError: the list is missing or damaged.
    """
    key = object_keys.messages(run, number)
    try:
        data = services.bucket.read(key, LARGEST_LIST)
    except KeyError as error:
        message = f"the bucket has no list of messages {key}: upload it first, as the ServerApp's Grid does"
        raise SettingsError(message) from error
    except UpdateRefused as error:
        message = f"the list of messages {key} cannot be read: {error}"
        raise SettingsError(message) from error
    return decode_messages(data), sha256(data)


def new_round(run: Run, number: int, listed: RoundMessages, list_sha256: str, now: int) -> Round:
    """Return the round that is opened for some messages at ``now`` (milliseconds, by the cloud's clock)."""
    asked = len(listed.devices())
    seconds = min(listed.longest_ttl, run.settings.deadline_seconds)
    return Round(
        run=run.name,
        number=number,
        attempt=1,
        work=Work.MESSAGE,
        state=State.OPEN,
        asked=asked,
        needed=asked,
        minimum=1,
        opened_at=now,
        deadline_at=now + round(seconds * 1000),
        base_sha256=list_sha256,
        base_bytes=round(listed.bytes / asked),  # that a device downloads, on average
        aim=listed.aim,
    )


def announcer(
    services: Services, run: Run, open_round: Round, listed: RoundMessages | None = None
) -> Callable[[str, int, int], bytes]:
    """Return a function that makes the announcement of a device's message.

    The function takes the thing name, the time of the announcement and the version of messages; devices with
    the same message share the same bytes.

    Args:
        services: the ports.
        run: the run.
        open_round: the round.
        listed: its messages, if the caller has read them.

    Raises:
        SettingsError: the list cannot be read.
    """
    if listed is None:
        listed = read_messages(services, run.name, open_round.number, open_round.base_sha256)
    groups, made = listed.by_device(), dict[tuple[int, int, int], bytes]()

    def announcement(device: str, at: int, version: int) -> bytes:
        group = groups[device]
        shared = (id(group), at, version)
        if shared not in made:
            made[shared] = _announcement(services, run, open_round, group, at, version)
        return made[shared]

    return announcement


def _announcement(  # noqa: PLR0913, PLR0917 - what it says, to whom and when
    services: Services, run: Run, open_round: Round, group: MessageGroup, at: int, version: int
) -> bytes:
    left = open_round.deadline_at - services.now()
    own = open_round.opened_at + round(group.header.ttl * 1000) - services.now()
    return messages.encode(
        Announcement(
            version=version,
            run=run.name,
            round=open_round.number,
            attempt=open_round.attempt,
            work="message",
            task=run.settings.task,
            announced_at=at,
            deadline_seconds=max(0.0, min(left, own) / 1000),
            bucket=services.bucket.name,
            model_key=object_keys.content(run.name, group.sha256),
            model_sha256=group.sha256,
            model_bytes=group.bytes,
            settings=run.settings.training,  # overrides of the app's configuration, as its ServerApp has them
            message=group.header,
            message_bytes=group.holds,
            trace=services.trace_of(run, open_round),
        )
    )
