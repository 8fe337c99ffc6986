"""The averager: counts replies, and makes the next global model when there are enough.

It reads three queues:

- replies: devices' completions and statuses, as the reply rules write them
- alarms: deadlines, reminders, the sweep over all living runs, the device count; devices cannot write to it
- jobs: parts of large averages (partial sums, shards of a model) that other averagers hand over
"""

import base64
import contextlib
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from cloud_functions import wiring
from cloud_functions.aggregation import partial_sums
from cloud_functions.aws.sqs_batch import each_record
from cloud_functions.rounds import aggregate_round, driver, replies, reply_batches, shards, sweep
from cloud_functions.rounds.replies import Affected, DeviceMessage
from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from cloud_functions.wiring import LambdaContext
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import LostRace, NotYet
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.messages.message_fields import Count, RunName
from fedgrass.federation.rounds import State
from fedgrass.federation.topics import Kind

_JOB_ATTEMPTS = 5  # while other workers change its round


class _Named(msgspec.Struct):
    """The run and the round that a message claims to belong to, only for the log."""

    run: RunName = ""
    round: Count = 0


# Created at import, not on first use: see messages/message_codec.py.
_NAMED = msgspec.json.Decoder(_Named)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Process a batch of messages, then advance each run that received a reply, once."""
    services = wiring.services(context)
    return each_record(
        event,
        services.log,
        partial(take, services),
        partial(advance, services),
        wiring.postpone,
        together=partial(take_together, services),
    )


def take_together(services: Services, bodies: Sequence[str]) -> dict[int, Affected | None]:
    """Process those of a batch's messages that can be counted at once; return by position what to advance."""
    decoded = {position: json.loads(body) for position, body in enumerate(bodies)}
    found = {position: _device_message(body) for position, body in decoded.items() if "kind" in body}
    return reply_batches.process_together(services, found)


def take(services: Services, body: str) -> Affected | None:
    """Process a message; return what to advance afterwards, if anything."""
    message = json.loads(body)
    if "alarm" in message:
        alarm = msgspec.convert(message["alarm"], Alarm)
        with services.log.about(alarm.run, alarm.round):
            driver.advance(services, alarm.run, alarm)
    elif "reminder" in message:
        reminder = msgspec.convert(message["reminder"], Reminder)
        with services.log.about(reminder.run, reminder.round):
            driver.look_after(services, reminder)
    elif "sweep" in message:
        sweep.sweep(services)
    elif "census" in message:
        candidate_search.count_devices(services)
    elif "job" in message:
        job = msgspec.convert(message["job"], Job)
        with services.log.about(job.run, job.round):
            do_job(services, job)
    else:
        return _reply(services, message)
    return None


def advance(services: Services, affected: Affected) -> None:
    """Advance a run, or one of its rounds, until it has to wait."""
    with services.log.about(affected.run, affected.number):
        driver.advance(services, affected.run, number=affected.number)


def _device_message(body: dict[str, Any]) -> DeviceMessage:
    return DeviceMessage(
        kind=Kind(body["kind"]),
        device=body["device"],
        client=body["client"],
        received_at=int(body["received_at"]),
        payload=base64.b64decode(body["payload"]),
    )


def _reply(services: Services, body: dict[str, Any]) -> Affected | None:
    message = _device_message(body)
    named = _named(message.payload)
    with services.log.about(named.run, named.round, message.device):
        services.log(f"{message.kind} of {len(message.payload)} bytes")
        return replies.process(services, message)


def _named(payload: bytes) -> _Named:
    """Return what a device's message names, or nothing if it cannot be decoded; it is validated later."""
    try:
        return _NAMED.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Named()


def do_job(services: Services, job: Job) -> None:
    """Do a job, and advance the run if the job may have closed the round.

    Raises:
        NotYet: other workers keep changing the round; the message has to be delivered again.
    """
    for _ in range(_JOB_ATTEMPTS):
        try:
            (partial_sums.sum_group if job.kind == "group" else shards.make)(services, job)
        except LostRace:
            continue
        except NotYet:
            raise
        except Exception as error:
            _record_job_failure(services, job, error)
            raise
        break
    else:
        message = (
            f"{job.kind} {job.number} of round {job.round} of run {job.run}: gave up after"
            f" {_JOB_ATTEMPTS} attempts: other workers keep changing the round"
        )
        raise NotYet(message)
    if job.kind == "shard":
        with contextlib.suppress(NotYet):  # other shards are still being made
            driver.advance(services, job.run)


def _record_job_failure(services: Services, job: Job, error: Exception) -> None:
    """Store in the round why a shard cannot be made. The updates of a missing partial sum are read later."""
    round_ = services.rounds.round(job.run, job.round, job.attempt)
    if round_ and round_.state is State.AGGREGATING and job.kind == "shard":
        aggregate_round.note_failure(services, round_, error)
