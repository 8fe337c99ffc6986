"""The averager: counts replies, and when they are enough makes the next global model.

Reads the reply queue: what the reply rule wrote of devices' completions and statuses, the alarms of rounds
whose deadline has passed, and the sweep over all living runs; and the queue of jobs, parts of large averages
that others hand over.
"""

import base64
import json
from functools import partial
from typing import Any

import msgspec

from cloud_functions import coordinator, division, replies, sweeping, wiring
from cloud_functions.cloud import Cloud
from cloud_functions.queue import each_record
from cloud_functions.replies import DeviceMessage
from cloud_functions.wiring import LambdaContext
from fedgrass.federation.alarms import Alarm, Reminder
from fedgrass.federation.division import Job
from fedgrass.federation.topics import Kind


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Take a batch of replies and alarms; drive the runs on once, when all its replies are counted."""
    cloud = wiring.cloud(context)
    return each_record(event, cloud.log, partial(take, cloud), partial(coordinator.advance, cloud))


def take(cloud: Cloud, body: str) -> str | None:
    """Take a message; return the run that may go on because of it, if that is not done yet."""
    said = json.loads(body)
    if "alarm" in said:
        alarm = msgspec.convert(said["alarm"], Alarm)
        coordinator.advance(cloud, alarm.run, alarm)
        return None
    if "reminder" in said:
        coordinator.look_after(cloud, msgspec.convert(said["reminder"], Reminder))
        return None
    if "sweep" in said:
        sweeping.sweep(cloud)
        return None
    if "job" in said:
        division.work(cloud, msgspec.convert(said["job"], Job))
        return None
    message = DeviceMessage(
        kind=Kind(said["kind"]),
        device=said["device"],
        client=said["client"],
        received_at=int(said["received_at"]),
        payload=base64.b64decode(said["payload"]),
    )
    cloud.log(f"{message.device}: {message.kind} of {len(message.payload)} bytes")
    return replies.take(cloud, message)
