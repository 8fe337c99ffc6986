"""Step one of a round: choose the cohort, store the round, announce it to each device."""

import random
from collections.abc import Iterable

import msgspec

from cloud_functions.cloud import Cloud
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.messages import Announcement
from fedgrass.federation.rounds import Participation, Round, State
from fedgrass.federation.runs import Run, RunState
from fedgrass.federation.selection import SELECTIONS, Candidate
from fedgrass.federation.settings import RunSettings


def open_round(cloud: Cloud, run: Run, newest: Round | None, number: int, attempt: int) -> bool:
    """Store a new round with its cohort and its alarm; return False if there is nobody to ask.

    The announcements are the next step: the round says whether they were all made.
    """
    devices = _cohort(cloud, run, number, attempt)
    if not devices:
        return False
    base_sha256, base_bytes = _base(run, newest)
    now = cloud.now()
    opened = Round(
        run=run.name,
        number=number,
        attempt=attempt,
        state=State.OPEN,
        asked=len(devices),
        needed=run.settings.replies_needed(len(devices)),
        minimum=run.settings.minimum_replies,
        opened_at=now,
        deadline_at=now + run.settings.deadline_seconds * 1000,
        base_sha256=base_sha256,
        base_bytes=base_bytes,
    )
    cloud.rounds.ask(opened, devices)
    # The alarm stands before the round does: a round without an alarm could wait for ever.
    cloud.alarms.set(opened)
    cloud.rounds.open_round(run, opened)
    cloud.tell(opened, f"opened: {len(devices)} devices asked, {opened.needed} replies needed")
    return True


def _base(run: Run, newest: Round | None) -> tuple[str, int]:
    """Return the SHA-256 and the size of the model that the next round starts from."""
    if newest is None:
        return run.initial_sha256, run.initial_bytes
    if newest.state is State.CLOSED:
        return newest.model_sha256, newest.model_bytes
    return newest.base_sha256, newest.base_bytes


def _cohort(cloud: Cloud, run: Run, number: int, attempt: int) -> list[str]:
    """Choose the devices of a round, once: whoever comes second takes the first one's choice."""
    found = candidates(cloud, run.settings)
    # The seed makes a choice repeatable; it is no secret.
    rng = random.Random(messages.round_id(run.name, number, attempt))  # noqa: S311
    choose = SELECTIONS[run.settings.selection]
    chosen = choose(found, run.settings.cohort(len(found)), rng)
    if not chosen:
        return []
    key = object_keys.cohort(run.name, number, attempt)
    return msgspec.json.decode(cloud.bucket.write_once(key, msgspec.json.encode(chosen)), type=list[str])


def candidates(cloud: Cloud, settings: RunSettings) -> list[Candidate]:
    """Return the devices that a round of these settings could ask now."""
    return [device for device in _seen(cloud, settings) if settings.task in device.tasks]


def nobody(cloud: Cloud, settings: RunSettings) -> str:
    """Return why there is no candidate, in words that say what to do."""
    seen = _seen(cloud, settings)
    tasks = ", ".join(sorted({task for device in seen for task in device.tasks})) or "none"
    return (
        f"no device with the task {settings.task!r} was seen in the last {settings.seen_within_seconds} s; "
        f"{len(seen)} devices were, with the tasks: {tasks}. Name one of those, or configure the task in "
        "the trainer component's `tasks`"
    )


def _seen(cloud: Cloud, settings: RunSettings) -> list[Candidate]:
    return cloud.devices.seen_since(cloud.now() - settings.seen_within_seconds * 1000)


def announce_all(cloud: Cloud, run: Run, opened: Round) -> None:
    """Announce a round to every device that has not answered yet, then note that this was done."""
    waiting = (p.device for p in cloud.rounds.participants(opened) if p.state is Participation.ASKED)
    _announce(cloud, run, opened, waiting)
    cloud.rounds.mark_announced(opened)


def announce_again(cloud: Cloud, device: str) -> None:
    """Announce to a device that came (back) the open work that it was asked for and has not done."""
    for name in cloud.rounds.running():
        run = cloud.rounds.run(name)
        if run is None or run.state is not RunState.RUNNING or not run.round:
            continue
        newest = cloud.rounds.round(name, run.round, run.attempt)
        if newest is None or newest.state is not State.OPEN:
            continue
        participant = cloud.rounds.participant(newest, device)
        if participant and participant.state in {Participation.ASKED, Participation.ACCEPTED}:
            _announce(cloud, run, newest, [device])
            cloud.tell(newest, "announced again after its hello", device=device)


def _announce(cloud: Cloud, run: Run, opened: Round, devices: Iterable[str]) -> None:
    announcement = messages.encode(
        Announcement(
            run=run.name,
            round=opened.number,
            attempt=opened.attempt,
            work="train",
            task=run.settings.task,
            announced_at=opened.opened_at,
            deadline_seconds=max(0.0, (opened.deadline_at - cloud.now()) / 1000),
            bucket=cloud.bucket.name,
            model_key=object_keys.model(run.name, opened.number - 1),
            model_sha256=opened.base_sha256,
            model_bytes=opened.base_bytes,
            settings=run.settings.training,
        )
    )
    cloud.publisher.publish(
        (topics.of_device(cloud.fleet, device, topics.Kind.ANNOUNCE), announcement) for device in devices
    )
