"""The averager: counts replies, and when they are enough makes the next global model.

Reads three queues: that of the replies, which the rules fill with devices' completions and statuses; that
of the alarms (deadlines, reminders, the sweep over all living runs, the count of devices), which no
device can fill; and that of the jobs, parts of large averages (sums of groups, shards of a model) that
other averagers hand over.
"""

import base64
import contextlib
import json
from functools import partial
from typing import Any

import msgspec

from cloud_functions import wiring
from cloud_functions.aggregation import partial_sums
from cloud_functions.aws.sqs_batch import each_record
from cloud_functions.rounds import aggregate_round, driver, replies, shards, sweep
from cloud_functions.rounds.replies import DeviceMessage
from cloud_functions.selection import candidate_search
from cloud_functions.services import Services
from cloud_functions.wiring import LambdaContext
from fedgrass.federation.aggregation.sharding_plan import Job
from fedgrass.federation.errors import LostRace, NotYet
from fedgrass.federation.messages.alarms import Alarm, Reminder
from fedgrass.federation.messages.message_fields import Count, RunName
from fedgrass.federation.rounds import State
from fedgrass.federation.topics import Kind


class _Named(msgspec.Struct):
    """The run and the round that a message claims to be about, for the log alone."""

    run: RunName = ""
    round: Count = 0


# Made here and not at its first use: see messages.py.
_NAMED = msgspec.json.Decoder(_Named)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Take a batch of replies and alarms; drive the runs on once, when all its replies are counted."""
    services = wiring.services(context)
    return each_record(
        event, services.log, partial(take, services), partial(drive, services), wiring.postpone
    )


def take(services: Services, body: str) -> str | None:
    """Take a message; return the run that may go on because of it, if that is not done yet."""
    said = json.loads(body)
    if "alarm" in said:
        alarm = msgspec.convert(said["alarm"], Alarm)
        with services.log.about(alarm.run, alarm.round):
            driver.advance(services, alarm.run, alarm)
    elif "reminder" in said:
        reminder = msgspec.convert(said["reminder"], Reminder)
        with services.log.about(reminder.run, reminder.round):
            driver.look_after(services, reminder)
    elif "sweep" in said:
        sweep.sweep(services)
    elif "census" in said:
        candidate_search.count(services)
    elif "job" in said:
        job = msgspec.convert(said["job"], Job)
        with services.log.about(job.run, job.round):
            do_job(services, job)
    else:
        return _reply(services, said)
    return None


def drive(services: Services, run: str) -> None:
    """Drive a run on as far as it goes."""
    with services.log.about(run):
        driver.advance(services, run)


def _reply(services: Services, said: dict[str, Any]) -> str | None:
    message = DeviceMessage(
        kind=Kind(said["kind"]),
        device=said["device"],
        client=said["client"],
        received_at=int(said["received_at"]),
        payload=base64.b64decode(said["payload"]),
    )
    named = _named(message.payload)
    with services.log.about(named.run, named.round, message.device):
        services.log(f"{message.device}: {message.kind} of {len(message.payload)} bytes")
        return replies.process(services, message)


def _named(payload: bytes) -> _Named:
    """Return what a device's message names, nothing if it cannot be read: whether it is good comes later."""
    try:
        return _NAMED.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Named()


_TRIES_OF_A_JOB = 5  # at a job while others move its round


def do_job(services: Services, job: Job) -> None:
    """Do a job, and drive the run on if it ended the round.

    Raises:
        NotYet: the round is being moved by others all the time; the message has to come back.
    """
    for _ in range(_TRIES_OF_A_JOB):
        try:
            (partial_sums.add_up if job.kind == "group" else shards.make)(services, job)
        except LostRace:
            continue
        except NotYet:
            raise
        except Exception as error:
            _note_failure_of_job(services, job, error)
            raise
        break
    else:
        message = f"{job.kind} {job.number} of round {job.round} of run {job.run}: others move the round"
        raise NotYet(message)
    if job.kind == "shard":
        with contextlib.suppress(NotYet):  # other shards are still being made
            driver.advance(services, job.run)


def _note_failure_of_job(services: Services, job: Job, error: Exception) -> None:
    """Note why a shard cannot be made; of a group that is not summed, the updates are read later."""
    current = services.rounds.round(job.run, job.round, job.attempt)
    if current and current.state is State.AGGREGATING and job.kind == "shard":
        aggregate_round.note_failure(services, current, error)
