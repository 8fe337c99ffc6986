"""Step one of a round: choose the cohort, store the round, announce it to each device."""

from collections.abc import Iterable
from typing import NamedTuple

from cloud_functions import cohorts
from cloud_functions.cloud import Cloud
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.alarms import Alarm, Reminder
from fedgrass.federation.encoding import Encoding
from fedgrass.federation.messages import Announcement
from fedgrass.federation.rounds import Participation, Round, State, Work
from fedgrass.federation.runs import Open, Run, progress_after

MOST_REPLACED = 49  # in one write: a transaction of DynamoDB has 100 items


def open_round(cloud: Cloud, run: Run, newest: Round | None, step: Open) -> bool:
    """Store a new round with its cohort and its alarm; return False if there is nobody to ask.

    The announcements are the next step: the round says whether they were all made.
    """
    cohort = cohorts.choose_once(cloud, run, step)
    if not cohort.devices:
        return False
    base = _base(run, newest)
    closed = newest is not None and newest.state is State.CLOSED
    progress = progress_after(run, newest) if newest and closed else run.progress
    minimum = 1 if step.work is Work.EVALUATE else run.settings.minimum_replies
    now = cloud.now()
    opened = Round(
        run=run.name,
        number=step.number,
        attempt=step.attempt,
        work=step.work,
        base=progress.model,
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
    )
    cloud.rounds.ask(opened, cohort.devices)
    # The alarm stands before the round does: a round without an alarm could wait for ever.
    cloud.alarms.set(deadline_of(opened))
    cloud.rounds.open_round(run, opened, progress)
    aim = f" to evaluate model {opened.base}" if opened.work is Work.EVALUATE else ""
    cloud.tell(opened, f"opened: {opened.asked} devices asked{aim}, {opened.needed} replies needed")
    return True


def deadline_of(opened: Round) -> Alarm:
    """Return the alarm that rings when a round is overdue."""
    return Alarm(
        run=opened.run,
        round=opened.number,
        attempt=opened.attempt,
        at=opened.deadline_at,
        kind="deadline",
    )


class _Base(NamedTuple):
    """The model that a round starts from: its file, and the file that devices download in its place."""

    sha256: str
    bytes: int
    download_sha256: str
    download_bytes: int


def _base(run: Run, newest: Round | None) -> _Base:
    """Return the model that the next round starts from."""
    if newest is None:
        return _Base(
            run.initial_sha256, run.initial_bytes, run.initial_download_sha256, run.initial_download_bytes
        )
    if newest.state is State.CLOSED and newest.work is Work.TRAIN:
        return _Base(newest.model_sha256, newest.model_bytes, newest.download_sha256, newest.download_bytes)
    return _Base(
        newest.base_sha256, newest.base_bytes, newest.base_download_sha256, newest.base_download_bytes
    )


def replace_gone(cloud: Cloud, run: Run, current: Round, silent: list[str]) -> bool:
    """Ask other devices in place of those that are gone, and of those in ``silent`` that never accepted.

    Silent devices keep their place where nobody is left to take it. Return whether there was something to do;
    the new ones are announced to by the next step.
    """
    missing = current.gone - current.replaced
    known = {participant.device for participant in cloud.rounds.participants(current)}
    wanted = min(missing + len(silent), MOST_REPLACED)
    chosen = cohorts.choose_others(cloud, run, current, known, wanted)
    given_up = silent[: max(0, len(chosen) - missing)]
    if not missing and not given_up:
        return False
    cloud.rounds.replace(current, given_up, chosen)
    if chosen:
        names = ", ".join(chosen)
        cloud.tell(
            current, f"{len(chosen)} other devices asked in place of {missing + len(given_up)}: {names}"
        )
    return True


def repeat_unaccepted(cloud: Cloud, run: Run, reminder: Reminder) -> None:
    """Announce again to devices that have not accepted; at the second turn give their work to others."""
    current = cloud.rounds.round(reminder.run, reminder.round, reminder.attempt)
    if current is None or current.state is not State.OPEN or cloud.now() >= current.deadline_at:
        return
    if reminder.turn > 1 and reminder.asked != current.asked:
        return  # others were asked since: they have had no time yet, and a reminder of their own
    silent = [p.device for p in cloud.rounds.participants(current) if p.state is Participation.ASKED]
    if not silent:
        return
    if reminder.turn > 1 and replace_gone(cloud, run, current, silent):
        again = cloud.rounds.round(reminder.run, reminder.round, reminder.attempt)
        if again is None or again.asked != current.asked:
            return  # the next step announces to the new devices, with a reminder
    _announce(cloud, run, current, silent)
    cloud.tell(current, f"announced again to {len(silent)} devices that have not accepted")
    _remind_of_unaccepted(cloud, run, current, reminder.turn + 1)


def _remind_of_unaccepted(cloud: Cloud, run: Run, current: Round, turn: int) -> None:
    if run.settings.accept_seconds:
        reminder = Reminder(
            run=run.name, round=current.number, attempt=current.attempt, turn=turn, asked=current.asked
        )
        cloud.alarms.remind(reminder, run.settings.accept_seconds)


def announce_all(cloud: Cloud, run: Run, opened: Round) -> None:
    """Announce a round to every device that has not answered yet, then note that this was done."""
    waiting = (p.device for p in cloud.rounds.participants(opened) if p.state is Participation.ASKED)
    _announce(cloud, run, opened, waiting)
    _remind_of_unaccepted(cloud, run, opened, turn=1)
    cloud.rounds.mark_announced(opened)


def announce_again(cloud: Cloud, device: str) -> None:
    """Announce to a device that came (back) the open work that it was asked for and has not done."""
    for run, newest in cloud.open_rounds():
        participant = cloud.rounds.participant(newest, device)
        if participant and participant.state in {Participation.ASKED, Participation.ACCEPTED}:
            _announce(cloud, run, newest, [device])
            cloud.tell(newest, "announced again after its hello", device=device)


def _announce(cloud: Cloud, run: Run, opened: Round, devices: Iterable[str]) -> None:
    download, key = Encoding(), object_keys.model(run.name, opened.base)
    if opened.base_download_sha256:  # without one, as of a round that was rebuilt, the model itself is there
        download = run.settings.download
        key = object_keys.encoded_model(run.name, opened.base, download.kind)
    announcement = messages.encode(
        Announcement(
            run=run.name,
            round=opened.number,
            attempt=opened.attempt,
            work=opened.work.value,
            task=run.settings.task,
            announced_at=opened.opened_at,
            deadline_seconds=max(0.0, (opened.deadline_at - cloud.now()) / 1000),
            bucket=cloud.bucket.name,
            model_key=key,
            model_sha256=opened.base_download_sha256 or opened.base_sha256,
            model_bytes=opened.bytes_to_download,
            settings=run.settings.training_of(opened.number),
            download=download,
            upload=run.settings.upload,
        )
    )
    cloud.publisher.publish(
        (topics.of_device(cloud.fleet, device, topics.Kind.ANNOUNCE), announcement) for device in devices
    )
