"""Step one of a round: choose the cohort, store the round, announce it to each device."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from cloud_functions.aggregation import guarded_strategy
from cloud_functions.recovery import manifests
from cloud_functions.rounds import reminders
from cloud_functions.selection import candidate_search, cohorts
from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.aggregation import sharding_plan
from fedgrass.federation.errors import LostRace, RunBehind, SettingsError
from fedgrass.federation.messages import Announcement, Carried, message_fields
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.messages.encoding_settings import Encoding
from fedgrass.federation.rounds import Participant, Participation, Round, State, Work, announced_at
from fedgrass.federation.runs import Open, Progress, Run, progress_after


def open_and_announce(services: Services, run: Run, newest: Round | None, step: Open) -> bool:
    """Store a new round with its cohort and its alarm; return False if there is no device to ask yet.

    The announcements are the next step. An attempt for which nobody came is stored as abandoned.

    Raises:
        LostRace: somebody else opened it, or the run has moved on.
        RunBehind: there is such a round already.
    """
    began = services.now()
    manifests.check_not_behind(services, run.name, step.number)
    cohort = cohorts.choose_once(services, run, step) or reminders.for_devices(services, run, step)
    if cohort is None:
        return False
    opened = _round(services, run, newest, step, cohort)
    progress = _progress(run, newest, step)
    if not cohort.devices:
        _store_unopened(services, run, opened, progress)
        return True
    opened = msgspec.structs.replace(opened, choosing_at=began)
    services.rounds.ask(opened, cohort.devices)
    # The alarm stands before the round does: a round without an alarm could wait for ever.
    services.alarms.set(deadline_of(opened))
    _store(services, run, opened, progress)
    aim = f" to evaluate model {opened.base}" if opened.work is Work.EVALUATE else ""
    services.tell(opened, f"opened: {opened.asked} devices asked{aim}, {opened.needed} replies needed")
    return True


def _store(services: Services, run: Run, opened: Round, progress: Progress) -> None:
    """Store a new round as the run's newest.

    Where somebody else has opened it, the run's row has moved on with it. If that has not, the rows are of
    different times, and whoever tried again would find that for ever.
    """
    try:
        services.rounds.open_round(run, opened, progress)
    except LostRace as lost:
        if services.rounds.round(opened.run, opened.number, opened.attempt) is None:
            raise
        row = f"the row of round {opened.number} attempt {opened.attempt}"
        raise RunBehind(manifests.behind(run.name, row)) from lost


def _store_unopened(services: Services, run: Run, nobody: Round, progress: Progress) -> None:
    seconds = run.settings.deadline_seconds
    reason = message_fields.shorten(
        f"nobody was asked in {seconds} s: {candidate_search.nobody(services, run.settings, nobody.work)}"
    )
    abandoned = msgspec.structs.replace(
        nobody,
        state=State.ABANDONED,
        opened_at=run.waiting_since or nobody.opened_at,
        deadline_at=nobody.opened_at,
        closed_at=nobody.opened_at,
        announced_batches=1,
        reason=reason,
    )
    _store(services, run, abandoned, progress)
    services.tell_end(abandoned, f"abandoned: {reason}")


def _round(services: Services, run: Run, newest: Round | None, step: Open, cohort: cohorts.Cohort) -> Round:
    """Return the round that a step opens now."""
    base = _base(run, newest)
    minimum = 1 if step.work is Work.EVALUATE else run.settings.minimum_replies
    now = services.now()
    return Round(
        run=run.name,
        number=step.number,
        attempt=step.attempt,
        work=step.work,
        base=_progress(run, newest, step).model,
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
        group_size=_group_size(services, run, step.work, len(cohort.devices), base.bytes),
    )


def _group_size(services: Services, run: Run, work: Work, asked: int, model_bytes: int) -> int:
    if work is not Work.TRAIN:
        return 0
    try:
        strategy = guarded_strategy.load(run.settings)
    except SettingsError:  # one's own was deployed away: whoever closes the round says so
        return 0
    return sharding_plan.group_size(services.scale, strategy, asked, model_bytes)


def _progress(run: Run, newest: Round | None, step: Open) -> Progress:
    """Return the run's progress at a step: with the round before it, unless that is only tried again."""
    return progress_after(run, newest) if newest and step.number > newest.number else run.progress


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
    """The model that a round starts from: its file, that which devices download, and what lies beside it."""

    sha256: str
    bytes: int
    download_sha256: str
    download_bytes: int
    carried: Carried


def _base(run: Run, newest: Round | None) -> _Base:
    """Return the model that the next round starts from."""
    if newest is None:
        return _Base(
            run.initial_sha256,
            run.initial_bytes,
            run.initial_download_sha256,
            run.initial_download_bytes,
            dict.fromkeys(run.carries),
        )
    if newest.state is State.CLOSED and newest.work is Work.TRAIN:
        return _Base(
            newest.model_sha256,
            newest.model_bytes,
            newest.download_sha256,
            newest.download_bytes,
            newest.carried,
        )
    return _Base(
        newest.base_sha256,
        newest.base_bytes,
        newest.base_download_sha256,
        newest.base_download_bytes,
        newest.base_carried,
    )


def announce_all(services: Services, run: Run, opened: Round) -> None:
    """Announce a round to the devices of the batches that were not announced yet, then note that."""
    unaccepted: dict[int, list[Participant]] = {
        batch: [] for batch in range(opened.announced_batches + 1, opened.batches + 1)
    }
    for part in services.rounds.participants(opened):
        if part.state is Participation.ASKED and part.batch in unaccepted:
            unaccepted[part.batch].append(part)
    for batch, parts in unaccepted.items():
        announce(services, run, opened, parts)
        remind_of_unaccepted(services, run, opened, batch=batch, turn=1)
    services.rounds.mark_announced(opened, services.now())


def remind_of_unaccepted(services: Services, run: Run, current: Round, *, batch: int, turn: int) -> None:
    """Have those of a batch looked at who have not accepted the announcement that they were just sent."""
    if run.settings.accept_seconds:
        reminder = Reminder(
            run=run.name, round=current.number, attempt=current.attempt, turn=turn, batch=batch
        )
        services.alarms.remind(reminder, run.settings.accept_seconds)


def announce(services: Services, run: Run, opened: Round, parts: Iterable[Participant]) -> None:
    """Announce a round to some of its devices, to each with its own time."""
    texts: dict[tuple[int, int], bytes] = {}
    pairs = []
    for part in parts:
        at, version = announced_at(opened, part), services.version_for(part.device)
        if (at, version) not in texts:
            texts[at, version] = _announcement(services, run, opened, at, version)
        pairs.append(
            (topics.of_device(services.fleet, part.device, topics.Kind.ANNOUNCE), texts[at, version])
        )
    services.publisher.publish(pairs)


def _announcement(services: Services, run: Run, opened: Round, at: int, version: int) -> bytes:
    download, key = Encoding(), object_keys.model(run.name, opened.base)
    if opened.base_download_sha256:  # without one, as of a round that was rebuilt, the model itself is there
        download = run.settings.download
        key = object_keys.encoded_model(run.name, opened.base, download.kind)
    return messages.encode(
        Announcement(
            version=version,
            run=run.name,
            round=opened.number,
            attempt=opened.attempt,
            work=opened.work.value,
            task=run.settings.task,
            announced_at=at,
            deadline_seconds=max(0.0, (opened.deadline_at - services.now()) / 1000),
            bucket=services.bucket.name,
            model_key=key,
            model_sha256=opened.base_download_sha256 or opened.base_sha256,
            model_bytes=opened.bytes_to_download,
            settings=run.settings.training_of(opened.number, run.needs),
            download=download,
            upload=run.settings.upload,
            allow_partial=run.settings.allow_partial,
            carried=opened.base_carried if opened.work is Work.TRAIN else {},
        )
    )
