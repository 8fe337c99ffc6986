"""What the process of a ServerApp holds while 4 devices reply with 20 MB each, over S3."""

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fedgrass.console.flower.fleet_grid import FleetGrid
from fedgrass.console.flower.flower_api import identify, to_parts
from fedgrass.console.runs.streamed_bucket import StreamedBucket
from fedgrass.federation import object_keys
from fedgrass.federation.task_messages.message_content import content_arrays
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import write
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.flower_fleet import FlowerFleet, StreamedMemory
from tests.fakes.small_fleet import RUN

MEGA = 1024**2
SIZE, DEVICES = 20, 4  # MB of the model, and devices


class SplitBucket(StreamedMemory):
    """Lists of messages are in memory, where the cloud functions of the test read them; the rest is in S3."""

    def __init__(self, bucket: Any, remote: StreamedBucket) -> None:
        super().__init__(bucket, lambda _: None)
        self.exists, self.stream = remote.exists, remote.stream  # type: ignore[method-assign]
        self.write_pieces = remote.write_pieces  # type: ignore[method-assign]


def model() -> ArrayRecord:
    """Return two arrays, of 15 MB and of 5 MB."""
    rng = np.random.default_rng(1)
    parts = {"large": SIZE * 3 // 4, "small": SIZE // 4}
    return ArrayRecord({name: Array(rng.random(size * MEGA // 8)) for name, size in parts.items()})


def test_the_process_holds_the_replies_once(embedded_cloud: EmbeddedCloud) -> None:
    client = embedded_cloud.client("s3")
    client.create_bucket(Bucket="memory")
    fleet = FlowerFleet(DEVICES, lambda *_: None)
    fleet.bucket = SplitBucket(fleet.fleet.bucket, StreamedBucket(client, "memory"))
    reply = RecordDict({"arrays": model(), "metrics": MetricRecord({"num-examples": 1})})
    parts, file = to_parts(reply), io.BytesIO()
    data = [each for part in parts for each in part.data]
    written = write(content_arrays([part.record for part in parts], data), file)
    for device in fleet.fleet.names:
        client.put_object(Bucket="memory", Key=object_keys.update(device, RUN, 1, 1), Body=file.getvalue())
    fields = {"bytes": written.bytes, "checksum": written.checksum, "metrics": {}}
    answered: list[str] = []

    def pause(_seconds: float) -> bool:
        for device in fleet.fleet.names if not answered else ():
            answered.append(device)
            of = fleet.fleet.sent(1)
            fleet.fleet.say(device, Kind.COMPLETE, fleet.fleet.completion(of, b"", device, **fields))
        return False

    fleet.pause = pause  # type: ignore[method-assign,assignment]
    del file, reply, parts, data
    identify(RUN)
    grid = FleetGrid(fleet.exchange(), RUN)
    sent = RecordDict({"arrays": model()})
    tracemalloc.start()
    try:
        messages = [Message(sent, node, "train") for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(len(each.content["arrays"]["large"].data) > 15 * MEGA for each in replies) == DEVICES
    print(f"peak {peak / MEGA:.1f} MB for {DEVICES} replies of {SIZE} MB")  # noqa: T201 - docs/flower.md has it
    assert peak < (DEVICES * SIZE + 12) * MEGA
