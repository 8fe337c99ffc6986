"""The IAM action and resource that each recorded call needs, by the documentation of AWS.

https://docs.aws.amazon.com/service-authorization/latest/reference/ has a page for each service.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

ACCOUNT, REGION = "000000000000", "us-east-1"  # the embedded cloud's
NOT_FOUND = 404


class Need(NamedTuple):
    """An action on a resource, with the values of its condition keys."""

    action: str
    resource: str
    keys: tuple[tuple[str, str | tuple[str, ...]], ...] = ()


class Call(NamedTuple):
    """A recorded call."""

    who: str  # function:<name> or thing:<name>
    service: str
    operation: str
    parameters: Mapping[str, Any]
    status: int

    @property
    def name(self) -> str:
        return f"{self.service}.{self.operation}"


def read_calls(folder: Path) -> list[Call]:
    """Return all recorded calls."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [Call(**json.loads(line)) for line in lines]


def needs_of(call: Call) -> set[Need]:
    """Return the needs of a call. Raises KeyError for an unknown call, which has to be added here."""
    return set(_RULES[call.name](call.parameters, call.status))


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


def _object(action: str) -> Callable[[Mapping[str, Any], int], Iterator[Need]]:
    def rule(asked: Mapping[str, Any], status: int) -> Iterator[Need]:
        yield Need(f"s3:{action}", f"arn:aws:s3:::{asked['Bucket']}/{asked['Key']}")
        if status == NOT_FOUND:  # without it, S3 responds with "forbidden" for a missing object
            yield Need("s3:ListBucket", f"arn:aws:s3:::{asked['Bucket']}")

    return rule


def _copy(asked: Mapping[str, Any], status: int) -> Iterator[Need]:
    yield from _object("PutObject")({"Bucket": asked["Bucket"], "Key": asked["Key"]}, 0)
    bucket, _, key = asked["CopySource"].partition("/")  # as botocore writes it
    yield from _object("GetObject")({"Bucket": bucket, "Key": unquote(key)}, status)


def _table(action: str) -> Callable[[Mapping[str, Any], int], Iterator[Need]]:
    def rule(asked: Mapping[str, Any], _status: int) -> Iterator[Need]:
        table = _arn("dynamodb", f"table/{asked['TableName']}")
        keys = tuple(next(iter(value.values())) for value in list(asked.get("Key", {}).values())[:1])
        leading = (("dynamodb:leadingkeys", keys),) if keys and action == "DeleteItem" else ()
        yield Need(
            f"dynamodb:{action}",
            f"{table}/index/{asked['IndexName']}" if "IndexName" in asked else table,
            leading,
        )

    return rule


def _transaction(asked: Mapping[str, Any], status: int) -> Iterator[Need]:
    words = {
        "Put": "PutItem",
        "Update": "UpdateItem",
        "Delete": "DeleteItem",
        "ConditionCheck": "ConditionCheckItem",
    }
    for item in asked["TransactItems"]:
        for word, inner in item.items():
            yield from _table(words[word])(inner, status)


def _batch_get(asked: Mapping[str, Any], _status: int) -> Iterator[Need]:
    for table in asked["RequestItems"]:
        yield Need("dynamodb:BatchGetItem", _arn("dynamodb", f"table/{table}"))


def _queue(action: str) -> Callable[[Mapping[str, Any], int], Iterator[Need]]:
    def rule(asked: Mapping[str, Any], _status: int) -> Iterator[Need]:
        yield Need(f"sqs:{action}", _arn("sqs", asked["QueueUrl"].rsplit("/", 1)[-1]))

    return rule


def _make_schedule(asked: Mapping[str, Any], _status: int) -> Iterator[Need]:
    yield Need(
        "scheduler:CreateSchedule", _arn("scheduler", f"schedule/{asked['GroupName']}/{asked['Name']}")
    )
    passed = (("iam:passedtoservice", "scheduler.amazonaws.com"),)
    yield Need("iam:PassRole", asked["Target"]["RoleArn"], passed)


def _mqtt(action: str, kind: str) -> Callable[[Mapping[str, Any], int], Iterator[Need]]:
    def rule(asked: Mapping[str, Any], _status: int) -> Iterator[Need]:
        yield Need(f"iot:{action}", _arn("iot", f"{kind}/{asked['topic']}"))
        if action == "Subscribe":
            # Subscribed messages are received on the same topics; '+' and '#' match any.
            topic = asked["topic"].replace("+", "any").replace("#", "any")
            yield Need("iot:Receive", _arn("iot", f"topic/{topic}"))

    return rule


_RULES: Mapping[str, Callable[[Mapping[str, Any], int], Iterator[Need]]] = {
    "s3.GetObject": _object("GetObject"),
    "s3.HeadObject": _object("GetObject"),
    "s3.PutObject": _object("PutObject"),
    "s3.CreateMultipartUpload": _object("PutObject"),
    "s3.UploadPart": _object("PutObject"),
    "s3.CompleteMultipartUpload": _object("PutObject"),
    "s3.AbortMultipartUpload": _object("AbortMultipartUpload"),
    "s3.ListParts": _object("ListMultipartUploadParts"),
    "s3.CopyObject": _copy,
    # Of ServerApps in containers.
    "cloudformation.DescribeStacks": lambda asked, _: iter(
        [Need("cloudformation:DescribeStacks", _arn("cloudformation", f"stack/{asked['StackName']}/any"))]
    ),
    "lambda.Invoke": lambda asked, _: iter(
        [Need("lambda:InvokeFunction", _arn("lambda", f"function:{asked['FunctionName']}"))]
    ),
    "sts.GetCallerIdentity": lambda *_: iter(()),  # needs no permission, and cannot be denied
    "dynamodb.BatchGetItem": _batch_get,
    "dynamodb.DeleteItem": _table("DeleteItem"),
    "dynamodb.GetItem": _table("GetItem"),
    "dynamodb.Query": _table("Query"),
    "dynamodb.Scan": _table("Scan"),
    "dynamodb.PutItem": _table("PutItem"),
    "dynamodb.UpdateItem": _table("UpdateItem"),
    "dynamodb.TransactWriteItems": _transaction,
    "sqs.ChangeMessageVisibility": _queue("ChangeMessageVisibility"),
    "sqs.SendMessage": _queue("SendMessage"),
    "scheduler.CreateSchedule": _make_schedule,
    "scheduler.DeleteSchedule": lambda asked, _: iter(
        [
            Need(
                "scheduler:DeleteSchedule",
                _arn("scheduler", f"schedule/{asked['GroupName']}/{asked['Name']}"),
            )
        ]
    ),
    "iot.ListThingsInThingGroup": lambda asked, _: iter(
        [Need("iot:ListThingsInThingGroup", _arn("iot", f"thinggroup/{asked['thingGroupName']}"))]
    ),
    "iot-data-plane.Publish": lambda asked, _: iter(
        [Need("iot:Publish", _arn("iot", f"topic/{asked['topic']}"))]
    ),
    "mqtt.Publish": _mqtt("Publish", "topic"),
    "mqtt.Subscribe": _mqtt("Subscribe", "topicfilter"),
    "mqtt.Connect": lambda asked, _: iter([Need("iot:Connect", _arn("iot", f"client/{asked['client']}"))]),
}


def needs_of_rules(iot: Any, role: str) -> set[Need]:
    """Return the needs of the actions of all deployed topic rules, which use a role."""
    found: set[Need] = set()
    for listed in iot.list_topic_rules()["rules"]:
        rule = iot.get_topic_rule(ruleName=listed["ruleName"])["rule"]
        for action in [*rule["actions"], *([rule["errorAction"]] if "errorAction" in rule else [])]:
            ((kind, does),) = action.items()
            if not does["roleArn"].endswith(role):
                continue
            if kind == "dynamoDBv2":
                found |= set(_table("PutItem")({"TableName": does["putItem"]["tableName"]}, 0))
            else:
                found |= set(_queue("SendMessage")({"QueueUrl": {"sqs": does}[kind]["queueUrl"]}, 0))
    return found
