"""The console states the identity of its credentials with each action, for the histories of runs."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation.errors import SettingsError

STACK = {
    "InitiatorName": "initiator",
    "RoundsTableName": "rounds",
    "DevicesTableName": "devices",
    "BucketName": "bucket",
}
ARN = "arn:aws:sts::123456789012:assumed-role/Operators/anna"


class Aws:
    """The clients of an initiator, which returns ``answer``, and of STS."""

    def __init__(self, arn: str = ARN) -> None:
        self.arn, self.answer = arn, {"forgotten": True}
        self.events: list[dict[str, Any]] = []
        self.asked = 0
        self.refused: Exception | None = None

    def __call__(self, _service: str) -> Any:
        return self

    def invoke(self, **call: Any) -> Mapping[str, Any]:
        self.events.append(json.loads(call["Payload"]))
        return {"Payload": io.BytesIO(json.dumps(self.answer).encode())}

    def get_caller_identity(self) -> Mapping[str, str]:
        self.asked += 1
        if self.refused:
            raise self.refused
        return {"Arn": self.arn, "Account": "123456789012"}


def operator(aws: Aws) -> Operator:
    return Operator(aws, STACK)


def test_each_action_has_the_arn_of_the_caller_who_is_asked_for_once() -> None:
    aws = Aws()
    by = operator(aws)
    assert by.forget("press-1", 5)
    by.send_messages("run-1", 1, "0" * 64)
    assert [event["by"] for event in aws.events] == [ARN, ARN]
    assert aws.asked == 1
    assert aws.events[0] | {"id": ""} == {
        "action": "forget", "run": "", "id": "", "device": "press-1", "last_seen": 5, "by": ARN
    }  # fmt: skip


def test_an_action_that_only_reads_needs_no_identity() -> None:
    aws = Aws()
    aws.answer = {"devices": []}  # type: ignore[dict-item]
    operator(aws).message_devices("run-1")
    assert "by" not in aws.events[0]
    assert aws.asked == 0


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="https://sts"),
        ClientError({"Error": {"Code": "AccessDenied"}}, "GetCallerIdentity"),
    ],
)
def test_without_access_to_sts_the_action_is_performed_without_an_identity(error: Exception) -> None:
    aws = Aws()
    aws.refused = error
    assert operator(aws).forget("press-1", 5)
    assert aws.events[0]["by"] == ""


def test_a_long_arn_is_cut_to_what_the_initiator_takes() -> None:
    aws = Aws("arn:" + "x" * 400)
    operator(aws).forget("press-1", 5)
    assert aws.events[0]["by"] == ("arn:" + "x" * 400)[:256]


def test_the_reason_of_a_refusal_is_raised() -> None:
    aws = Aws()
    aws.answer = {"refused": "press-1 takes part in the open round run-1/1/1"}  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match="takes part in the open round"):
        operator(aws).forget("press-1", 5)
