"""What a swarm measures next to its messages: processes, queues, function time, requests to DynamoDB."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import psutil
from botocore.exceptions import BotoCoreError, ClientError
from msgspec import Struct

from fedgrass.console.aws_clients import Clients

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

CLIENT, CLOUD, FUNCTIONS, COMMAND = "swarm", "embedded cloud", "functions", "command"
FUNCTION_NAMES: Final = ("averager", "initiator")
_LOOK_SECONDS: Final = 2.0
_BILLED: Final = re.compile(r"Billed Duration: ([0-9.]+) ms")
_TABLES: Final = ("RoundsTableName", "DevicesTableName", "TurnaroundsTableName")
_TARGET: Final = "DynamoDB_20120810."
# Operations of which CloudWatch counts requests.
OPERATIONS: Final = (
    "GetItem",
    "BatchGetItem",
    "Query",
    "Scan",
    "PutItem",
    "UpdateItem",
    "DeleteItem",
    "TransactWriteItems",
    "TransactGetItems",
    "BatchWriteItem",
)


class Look(Struct, frozen=True, kw_only=True):
    """What was measured at one moment."""

    at: float  # seconds since the epoch, by this machine's clock
    processor: dict[str, float]  # seconds used so far, by group of processes
    busy: float  # processor seconds used by the whole machine so far
    queued: int  # replies that wait in the queue, or are being counted


class FunctionTime(Struct, frozen=True, kw_only=True):
    """The invocations of a function since the start of the run."""

    calls: int = 0
    billed_seconds: float = 0.0


class Watch:
    """Measures processes and the replies queue on a thread, between ``start`` and ``stop``.

    Args:
        clients: returns the boto3 client of a service.
        queue: URL of the replies queue.
    """

    def __init__(self, clients: Clients, queue: str) -> None:
        self._sqs: SQSClient = clients("sqs")
        self._queue = queue
        self._used: dict[int, tuple[str, float]] = {}  # by process id, also of those that have ended
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
        self.looks: list[Look] = []

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def stop(self) -> None:
        """End measuring. May be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look_on(self) -> None:
        while not self._stop.is_set():
            self.looks.append(self.look())
            self._stop.wait(_LOOK_SECONDS)

    def look(self) -> Look:
        """Return the present measures."""
        self._used.update(processor_times())
        total: dict[str, float] = {}
        for group, seconds in self._used.values():
            total[group] = total.get(group, 0.0) + seconds
        machine = psutil.cpu_times()
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0)
        return Look(at=time.time(), processor=total, busy=busy, queued=self._queued())

    def _queued(self) -> int:
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        try:
            found = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=names)["Attributes"]
        except (ClientError, BotoCoreError):
            return 0  # the figure of one moment
        return sum(int(found.get(name, 0)) for name in names)


def processor_times() -> dict[int, tuple[str, float]]:
    """Return the group and the processor seconds of this process and of each descendant, by process id."""
    own = psutil.Process()
    found = {own.pid: (COMMAND, _seconds(own))}
    for child in own.children():
        command = _command(child)
        if "fedgrass.swarm.devices.swarm_process" in command:
            found[child.pid] = (CLIENT, _seconds(child))
        elif "fedgrass.local.aws.ministack_process" in command:
            found[child.pid] = (CLOUD, _seconds(child))
            for function in _children(child):
                found[function.pid] = (FUNCTIONS, _seconds(function))
    return found


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _seconds(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(used.user + used.system)


class RequestMeter:
    """Counts the requests that the functions of an embedded cloud send to DynamoDB.

    Args:
        counts: returns the number of requests to the cloud by operation.
        client: this process's client of DynamoDB, whose requests are subtracted.
    """

    def __init__(self, counts: Callable[[], Mapping[str, int]], client: "DynamoDBClient") -> None:
        self._counts, self._own = counts, Counter[str]()
        client.meta.events.register("before-send.dynamodb", self._count_own)
        self._before: Counter[str] = Counter()

    def begin(self) -> None:
        """Count from now on."""
        self._before = self._now()

    def read(self) -> dict[str, int]:
        """Return the requests since ``begin``, by operation."""
        found = self._now() - self._before
        return dict(sorted(found.items()))

    def _now(self) -> Counter[str]:
        own = self._own.copy()
        found = {
            name.removeprefix(_TARGET): count
            for name, count in self._counts().items()
            if name.startswith(_TARGET)
        }
        return Counter(found) - own

    def _count_own(self, request: Any, **_: object) -> None:
        target = request.headers.get("X-Amz-Target", b"")
        text = target.decode() if isinstance(target, bytes) else str(target)
        self._own[text.removeprefix(_TARGET)] += 1


def requests_in_cloudwatch(
    client: Any, outputs: Mapping[str, str], since: float, until: float
) -> dict[str, int]:
    """Return the requests to the stack's tables by operation, which CloudWatch shows after a few minutes.

    Args:
        client: of CloudWatch.
        outputs: of the stack.
        since: seconds since the epoch.
        until: seconds since the epoch.
    """
    period = 60
    start = datetime.fromtimestamp(since // period * period, UTC)
    end = datetime.fromtimestamp(until, UTC) + timedelta(seconds=period)
    queries = [
        {
            "Id": f"m{table}_{number}",
            "Label": operation,
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/DynamoDB",
                    "MetricName": "SuccessfulRequestLatency",
                    "Dimensions": [
                        {"Name": "TableName", "Value": outputs[name]},
                        {"Name": "Operation", "Value": operation},
                    ],
                },
                "Period": period,
                "Stat": "SampleCount",
            },
        }
        for table, name in enumerate(_TABLES)
        for number, operation in enumerate(OPERATIONS)
    ]
    pages = client.get_paginator("get_metric_data").paginate(
        MetricDataQueries=queries, StartTime=start, EndTime=end
    )
    found: Counter[str] = Counter()
    for page in pages:
        for series in page["MetricDataResults"]:
            found[series["Label"]] += round(sum(series["Values"]))
    return {name: count for name, count in sorted(found.items()) if count}


def function_time(client: Any, stack: str, since: float) -> dict[str, FunctionTime]:
    """Return the invocations and the billed time of the stack's functions, from their logs.

    Args:
        client: of CloudWatch Logs.
        stack: name of the stack.
        since: seconds since the epoch.
    """
    found = {}
    for name in FUNCTION_NAMES:
        pages = client.get_paginator("filter_log_events").paginate(
            logGroupName=f"/fedgrass/{stack}/{name}", startTime=int(since * 1000), filterPattern="REPORT"
        )
        lines = (event["message"] for page in pages for event in page["events"])
        billed = [float(match[1]) / 1000 for match in map(_BILLED.search, lines) if match]
        found[name] = FunctionTime(calls=len(billed), billed_seconds=round(sum(billed), 3))
    return found
