"""The comparison behind tests/e2e/test_permissions.py finds missing and excessive permissions."""

import pytest

from tests.permissions.grants import Statement, allows, grants, missing, unused
from tests.permissions.needs import Call, Need, needs_of

TABLE = "arn:aws:dynamodb:us-east-1:000000000000:table/rounds"
BUCKET = "arn:aws:s3:::models-and-updates"
STATEMENTS: list[Statement] = [
    {"Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:Query"], "Resource": TABLE},
    {"Effect": "Allow", "Action": "s3:GetObject", "Resource": [f"{BUCKET}/models/*", f"{BUCKET}/updates/*"]},
    {
        "Effect": "Allow",
        "Action": "dynamodb:DeleteItem",
        "Resource": TABLE,
        "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["#living"]}},
    },
]


def call(service: str, operation: str, status: int = 200, **parameters: object) -> Call:
    return Call("function:one", service, operation, parameters, status)


def test_what_is_asked_and_not_allowed_is_missing() -> None:
    asked = {
        Need("dynamodb:GetItem", TABLE),
        Need("dynamodb:PutItem", TABLE),
        Need("s3:GetObject", f"{BUCKET}/x"),
    }
    assert missing(STATEMENTS, asked) == [
        Need("dynamodb:PutItem", TABLE),
        Need("s3:GetObject", f"{BUCKET}/x"),
    ]


def test_each_action_on_each_resource_that_nobody_used_is_too_much() -> None:
    asked = {Need("dynamodb:Query", TABLE), Need("s3:GetObject", f"{BUCKET}/models/run-1/1.safetensors")}
    found = {(grant.action, grant.resource) for grant in unused(grants(STATEMENTS), asked)}
    assert found == {
        ("dynamodb:GetItem", TABLE),
        ("dynamodb:DeleteItem", TABLE),
        ("s3:GetObject", f"{BUCKET}/updates/*"),
    }


@pytest.mark.parametrize(("key", "allowed"), [("#living", True), ("run-1", False)])
def test_a_condition_counts(key: str, allowed: bool) -> None:  # noqa: FBT001 - a parametrized case
    deletion = {"Delete": {"TableName": "rounds", "Key": {"run": {"S": key}, "item": {"S": "run-1"}}}}
    (need,) = needs_of(call("dynamodb", "TransactWriteItems", TransactItems=[deletion]))
    assert allows(STATEMENTS, need) is allowed


def test_a_copy_needs_its_source_and_its_target() -> None:
    copy = call("s3", "CopyObject", Bucket="b", Key="models/1", CopySource="b/drafts/a%20b")
    assert needs_of(copy) == {
        Need("s3:PutObject", "arn:aws:s3:::b/models/1"),
        Need("s3:GetObject", "arn:aws:s3:::b/drafts/a b"),
    }


def test_an_object_that_is_missing_needs_the_right_to_know_that() -> None:
    assert needs_of(call("s3", "HeadObject", 404, Bucket="b", Key="k")) == {
        Need("s3:GetObject", "arn:aws:s3:::b/k"),
        Need("s3:ListBucket", "arn:aws:s3:::b"),
    }


def test_a_schedule_passes_its_role_on() -> None:
    role = "arn:aws:iam::000000000000:role/ring"
    made = call("scheduler", "CreateSchedule", Name="n", GroupName="g", Target={"RoleArn": role})
    assert Need("iam:PassRole", role, (("iam:passedtoservice", "scheduler.amazonaws.com"),)) in needs_of(made)


def test_a_call_that_is_not_known_is_no_silent_one() -> None:
    with pytest.raises(KeyError, match=r"s3\.DeleteObject"):
        needs_of(call("s3", "DeleteObject", Bucket="b", Key="k"))
