"""Announce a round to its devices, and check later which of them have accepted.

A round is announced in batches: the cohort is the first, each group of replacements another. The round's row
counts the batches that were announced, so a crash in between repeats only the last one.
"""

from collections.abc import Iterable

from cloud_functions.services import Services
from fedgrass.federation import messages, object_keys, topics
from fedgrass.federation.messages import Announcement
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.messages.encoding_settings import Encoding
from fedgrass.federation.rounds import Participant, Participation, Round, Work, announced_at
from fedgrass.federation.runs import Run


def announce_all(services: Services, run: Run, open_round: Round) -> None:
    """Announce a round to the devices of all batches that were not announced yet, then note that."""
    unaccepted: dict[int, list[Participant]] = {
        batch: [] for batch in range(open_round.announced_batches + 1, open_round.batches + 1)
    }
    for participant in services.rounds.participants(open_round):
        if participant.state is Participation.ASKED and participant.batch in unaccepted:
            unaccepted[participant.batch].append(participant)
    for batch, participants in unaccepted.items():
        announce(services, run, open_round, participants)
        remind_of_unaccepted(services, run, open_round, batch=batch, turn=1)
    services.rounds.mark_announced(open_round, services.now())


def announce(services: Services, run: Run, open_round: Round, participants: Iterable[Participant]) -> None:
    """Publish the announcement of a round to some of its devices, to each with the time of its batch."""
    payloads: dict[tuple[int, int], bytes] = {}
    pairs = []
    for participant in participants:
        at, version = announced_at(open_round, participant), services.version_for(participant.device)
        if (at, version) not in payloads:
            payloads[at, version] = _announcement(services, run, open_round, at, version)
        topic = topics.of_device(services.fleet, participant.device, topics.Kind.ANNOUNCE)
        pairs.append((topic, payloads[at, version]))
    services.publisher.publish(pairs)


def remind_of_unaccepted(services: Services, run: Run, open_round: Round, *, batch: int, turn: int) -> None:
    """Send the reminder to look for devices of a batch that have not accepted the announcement just sent."""
    if run.settings.accept_seconds:
        reminder = Reminder(
            run=run.name, round=open_round.number, attempt=open_round.attempt, turn=turn, batch=batch
        )
        services.alarms.remind(reminder, run.settings.accept_seconds)


def _announcement(services: Services, run: Run, open_round: Round, at: int, version: int) -> bytes:
    """Return the announcement of a round in one version of the messages; ``at`` is the time of the batch."""
    download, key = Encoding(), object_keys.model(run.name, open_round.base)
    if open_round.base_download_sha256:  # a round that was rebuilt has none: devices download the model
        download = run.settings.download
        key = object_keys.encoded_model(run.name, open_round.base, download.kind)
    return messages.encode(
        Announcement(
            version=version,
            run=run.name,
            round=open_round.number,
            attempt=open_round.attempt,
            work=open_round.work.value,
            task=run.settings.task,
            announced_at=at,
            deadline_seconds=max(0.0, (open_round.deadline_at - services.now()) / 1000),
            bucket=services.bucket.name,
            model_key=key,
            model_sha256=open_round.base_download_sha256 or open_round.base_sha256,
            model_bytes=open_round.bytes_to_download,
            settings=run.settings.training_of(open_round.number, run.needs),
            download=download,
            upload=run.settings.upload,
            allow_partial=run.settings.allow_partial,
            carried=open_round.base_carried if open_round.work is Work.TRAIN else {},
        )
    )
