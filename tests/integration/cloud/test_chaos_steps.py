"""The steps at which the campaign kills functions match their actual requests to AWS."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytest

from cloud_functions.aws.dynamodb_rounds import DynamoRounds
from cloud_functions.aws.messaging import IotPublisher
from cloud_functions.aws.s3 import S3Bucket
from fedgrass.federation import object_keys
from fedgrass.federation.aggregation.sharding_plan import Scale
from fedgrass.federation.rounds import State
from fedgrass.federation.runs import RunState
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import encode
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.chaos.steps import STEPS, Request, step_of
from tests.contracts.conftest import make_table
from tests.contracts.test_alarms import aws_alarms
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet, update_full_of

SERVICES = ("dynamodb", "s3", "scheduler", "sqs", "iot-data")
IN_GROUPS, IN_SHARDS = Scale(group=2, grouped_bytes=0), Scale(sharded_bytes=0)
NOT_FINITE = {**update_full_of(1.0), "weight": np.full((2, 3), np.nan, dtype=np.float32)}


class Witness:
    """Records the steps in requests of boto3 clients, by the running function."""

    def __init__(self) -> None:
        self.function = ""  # empty: requests of the test itself
        self.seen: defaultdict[str, set[str]] = defaultdict(set)

    def see(self, request: Any, **_: object) -> None:
        """Record a request before it is sent; None lets it pass."""
        body = request.body or b""
        whole = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else b""
        headers = {name: _text(value) for name, value in request.headers.items()}
        target = "/" + request.url.partition("://")[2].partition("/")[2]
        step = step_of(Request(request.method, target, headers, whole))
        if step and self.function:
            self.seen[self.function].add(step)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.fixture
def witness(embedded_cloud: EmbeddedCloud) -> Iterator[Witness]:
    made = Witness()
    clients = [embedded_cloud.client(service) for service in SERVICES]
    for client in clients:
        client.meta.events.register("before-send", made.see)
    yield made
    for client in clients:
        client.meta.events.unregister("before-send", made.see)


class CloudFleet(SmallFleet):
    """A small fleet with the AWS adapters on MiniStack."""

    def __init__(self, cloud: EmbeddedCloud, witness: Witness, scale: Scale, **settings: Any) -> None:
        super().__init__(devices=4, scale=scale, **settings)
        witness.function = ""
        table, s3 = make_table(cloud, "run", "item"), cloud.client("s3")
        s3.create_bucket(Bucket=f"steps-{table}")
        self.rounds = cast(Any, DynamoRounds(cloud.client("dynamodb"), table, time.sleep))
        self.bucket = cast(Any, S3Bucket(s3, f"steps-{table}"))
        self.publisher = cast(Any, IotPublisher(cloud.client("iot-data")))
        made = aws_alarms(cloud)
        self.sqs, self.queue = cloud.client("sqs"), made.jobs_url
        self.alarms = cast(Any, made.port)
        self.cloud = self._worker()
        self.bucket.write(object_keys.model(RUN, 0), encode(INITIAL))
        witness.function = "initiator"
        self.start()
        witness.function = "averager"

    def answer(self, *numbers: int, update: Mapping[str, Any] | None = None) -> None:
        """Let devices reply to the latest round, with valid updates by default."""
        of = self.newest()
        for number in numbers:
            device = self.names[number]
            if update is None:
                self.reply(device, of, value=float(number))
            else:
                data = self.upload(device, of, encode(update))
                self.say(device, Kind.COMPLETE, self.completion(of, data, device))

    def do_jobs(self) -> int:
        """Process the jobs in the queue; return their number."""
        done = 0
        while found := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
                body = json.loads(message["Body"])
                if "job" in body:
                    self.deliver(body)
                    done += 1
        return done


def test_every_step_of_the_campaign_is_one_that_its_function_takes(
    embedded_cloud: EmbeddedCloud, witness: Witness
) -> None:
    in_groups = CloudFleet(
        embedded_cloud, witness, IN_GROUPS,
        rounds=2, attempts=1, aggregation="fedadam", download_encoding="bfloat16", threshold=0.75,
    )  # fmt: skip
    in_groups.answer(0, 1)
    assert in_groups.do_jobs() == 1
    in_groups.answer(2, update=NOT_FINITE)  # refused: the round waits for another reply
    assert in_groups.newest().state is State.OPEN
    in_groups.answer(3)
    assert in_groups.newest().number == 2
    for device in in_groups.names:
        in_groups.status(device, "failed", reason="a reason")
    assert in_groups.run().state is RunState.FAILED

    in_shards = CloudFleet(embedded_cloud, witness, IN_SHARDS, rounds=1)
    in_shards.answer(0, 1, 2, 3)
    assert in_shards.do_jobs() > 1
    assert in_shards.run().state is RunState.SUCCEEDED

    taken = {function: sorted(steps) for function, steps in witness.seen.items()}
    # Those of a ServerApp's process are taken in the campaign itself.
    functions = {
        function: sorted(set(steps)) for function, steps in STEPS.items() if function != "server_app"
    }
    assert taken == functions
