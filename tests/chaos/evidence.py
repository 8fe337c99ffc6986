"""Reads the rows and objects of a run after its end."""

import time
from collections.abc import Mapping

from fedgrass.console.runs.fleet_operator import RoundRecord
from fedgrass.federation import object_keys
from fedgrass.federation.runs import Run
from tests.chaos.audit import Evidence
from tests.chaos.world import World

_READS, _BETWEEN_SECONDS = 50, 0.2


def gather(world: World, run: Run) -> Evidence:
    """Return the rows and objects of a run, read without faults."""
    records = settled(world, run)
    bucket, s3 = world.stack["BucketName"], world.cloud.client("s3")
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"models/{run.name}/").get("Contents", [])
    devices = {part.device for record in records for part in record.participants}
    updates = [
        entry["Key"]
        for device in sorted(devices)
        for entry in s3.list_objects_v2(Bucket=bucket, Prefix=f"updates/{device}/{run.name}/").get(
            "Contents", []
        )
    ]
    objects: Mapping[str, bytes] = {
        key: s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in [entry["Key"] for entry in listed] + updates
    }
    prefix = f"/{bucket}/"
    written = world.gateway.models_written
    contents = {path.removeprefix(prefix): len(tags) for path, tags in written.items()}
    starts = {
        object_keys.update(device, name, number, attempt): model
        for (device, name, number, attempt), model in world.gateway.announced.items()
        if name == run.name
    }
    return Evidence(run, records, objects, contents, starts)


def settled(world: World, run: Run) -> list[RoundRecord]:
    """Return a run's rounds once two reads agree, since late replies are counted after its end.

    A read is not a snapshot: it reads the round first, then its participants.
    """
    records = list(world.operator.rounds(run))
    for _ in range(_READS):
        time.sleep(_BETWEEN_SECONDS)
        before, records = records, list(world.operator.rounds(run))
        if records == before:
            break
    return records
