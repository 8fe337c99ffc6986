"""Function time from logs, requests from CloudWatch and the embedded cloud, processes by command."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psutil

from fedgrass.swarm.swarm_measures import (
    CLIENT,
    CLOUD,
    COMMAND,
    FUNCTIONS,
    OPERATIONS,
    FunctionTime,
    RequestMeter,
    function_time,
    processor_times,
    requests_in_cloudwatch,
)


class Paged:
    """A client whose paginators return the pages of ``answer``."""

    def __init__(self, answer: Callable[..., list[Any]]) -> None:
        self._answer = answer

    def get_paginator(self, _: str) -> Any:
        return SimpleNamespace(paginate=self._answer)


def test_the_billed_time_of_a_function_is_that_of_its_report_lines() -> None:
    def answer(**asked: Any) -> list[Any]:
        assert (asked["startTime"], asked["filterPattern"]) == (5000, "REPORT")
        if asked["logGroupName"] != "/fedgrass/press/averager":
            return [{"events": []}]
        line = "REPORT RequestId: 1\tDuration: 12 ms\tBilled Duration: {} ms\tMemory Size: 128 MB"
        other = {"message": "REPORT of something else"}
        return [
            {"events": [{"message": line.format(1500)}, other]},
            {"events": [{"message": line.format("250.5")}]},
        ]

    found = function_time(Paged(answer), "press", 5.0)
    assert found == {"averager": FunctionTime(calls=2, billed_seconds=1.75), "initiator": FunctionTime()}


def test_cloudwatch_is_asked_for_each_operation_of_each_table() -> None:
    def answer(**asked: Any) -> list[Any]:
        queries = asked["MetricDataQueries"]
        assert len({query["Id"] for query in queries}) == 3 * len(OPERATIONS)
        assert (asked["StartTime"].timestamp(), asked["EndTime"].timestamp()) == (60, 190)
        return [
            {
                "MetricDataResults": [
                    {"Label": "GetItem", "Values": [1.0, 2.0]},
                    {"Label": "Query", "Values": []},
                ]
            },
            {"MetricDataResults": [{"Label": "GetItem", "Values": [4.0]}]},
        ]

    outputs = {"RoundsTableName": "r", "DevicesTableName": "d", "TurnaroundsTableName": "t"}
    assert requests_in_cloudwatch(Paged(answer), outputs, 119.0, 130.0) == {"GetItem": 7}


def test_the_meter_subtracts_the_requests_of_this_process() -> None:
    counts = {"DynamoDB_20120810.GetItem": 5, "AWSEvents.PutEvents": 9}
    hooks: list[Callable[..., None]] = []
    events = SimpleNamespace(register=lambda _, hook: hooks.append(hook))
    client: Any = SimpleNamespace(meta=SimpleNamespace(events=events))
    meter = RequestMeter(lambda: counts, client)
    meter.begin()
    counts["DynamoDB_20120810.GetItem"] = 12
    counts["DynamoDB_20120810.Query"] = 1
    for _ in range(2):
        hooks[0](SimpleNamespace(headers={"X-Amz-Target": b"DynamoDB_20120810.GetItem"}))
    assert meter.read() == {"GetItem": 5, "Query": 1}


class Child:
    """A process with a command, some seconds and children."""

    def __init__(self, pid: int, command: str, seconds: float, *children: "Child") -> None:
        self.pid, self._command, self._seconds, self._children = pid, command, seconds, children

    def cmdline(self) -> list[str]:
        if not self._command:
            raise psutil.NoSuchProcess(self.pid)
        return self._command.split()

    def cpu_times(self) -> Any:
        return SimpleNamespace(user=self._seconds, system=0.0)

    def children(self, *, recursive: bool = False) -> Iterator["Child"]:  # noqa: ARG002 - psutil's
        return iter(self._children)


def test_processes_are_grouped_by_their_command(monkeypatch: Any) -> None:
    cloud = Child(2, "python -m fedgrass.local.aws.ministack_process", 7.0, Child(3, "python bootstrap", 4.0))
    swarm = Child(4, "python -m fedgrass.swarm.devices.swarm_process", 2.0)
    own = Child(1, "fedgrass swarm", 1.0, cloud, swarm, Child(5, "", 1.0), Child(6, "git", 1.0))
    monkeypatch.setattr(psutil, "Process", lambda: own)
    assert processor_times() == {1: (COMMAND, 1.0), 2: (CLOUD, 7.0), 3: (FUNCTIONS, 4.0), 4: (CLIENT, 2.0)}
