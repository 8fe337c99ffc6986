"""The averager: counts replies, and when they are enough makes the next global model.

Reads three queues: that of the replies, which the rules fill with devices' completions and statuses; that of
the alarms (deadlines, reminders, the sweep over all living runs, the count of devices), which no device can
fill; and that of the jobs, parts of large averages that other averagers hand over.
"""

import base64
import json
from functools import partial
from typing import Any

import msgspec

from cloud_functions import census, coordinator, division, replies, sweeping, wiring
from cloud_functions.cloud import Cloud
from cloud_functions.queue import each_record
from cloud_functions.replies import DeviceMessage
from cloud_functions.wiring import LambdaContext
from fedgrass.federation.alarms import Alarm, Reminder
from fedgrass.federation.division import Job
from fedgrass.federation.message_fields import Count, RunName
from fedgrass.federation.topics import Kind


class _Named(msgspec.Struct):
    """The run and the round that a message claims to be about, for the log alone."""

    run: RunName = ""
    round: Count = 0


# Made here and not at its first use: see messages.py.
_NAMED = msgspec.json.Decoder(_Named)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Take a batch of replies and alarms; drive the runs on once, when all its replies are counted."""
    cloud = wiring.cloud(context)
    return each_record(event, cloud.log, partial(take, cloud), partial(drive, cloud), wiring.postpone)


def take(cloud: Cloud, body: str) -> str | None:
    """Take a message; return the run that may go on because of it, if that is not done yet."""
    said = json.loads(body)
    if "alarm" in said:
        alarm = msgspec.convert(said["alarm"], Alarm)
        with cloud.log.about(alarm.run, alarm.round):
            coordinator.advance(cloud, alarm.run, alarm)
    elif "reminder" in said:
        reminder = msgspec.convert(said["reminder"], Reminder)
        with cloud.log.about(reminder.run, reminder.round):
            coordinator.look_after(cloud, reminder)
    elif "sweep" in said:
        sweeping.sweep(cloud)
    elif "census" in said:
        census.count(cloud)
    elif "job" in said:
        job = msgspec.convert(said["job"], Job)
        with cloud.log.about(job.run, job.round):
            division.work(cloud, job)
    else:
        return _reply(cloud, said)
    return None


def drive(cloud: Cloud, run: str) -> None:
    """Drive a run on as far as it goes."""
    with cloud.log.about(run):
        coordinator.advance(cloud, run)


def _reply(cloud: Cloud, said: dict[str, Any]) -> str | None:
    message = DeviceMessage(
        kind=Kind(said["kind"]),
        device=said["device"],
        client=said["client"],
        received_at=int(said["received_at"]),
        payload=base64.b64decode(said["payload"]),
    )
    named = _named(message.payload)
    with cloud.log.about(named.run, named.round, message.device):
        cloud.log(f"{message.device}: {message.kind} of {len(message.payload)} bytes")
        return replies.take(cloud, message)


def _named(payload: bytes) -> _Named:
    """Return what a device's message names, nothing if it cannot be read: whether it is good comes later."""
    try:
        return _NAMED.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Named()
