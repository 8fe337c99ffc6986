"""The bucket's policy: a device cannot store its update in a way that the averager cannot read."""

from typing import Any

import pytest
from ministack.core.iam_evaluator import EvalContext, evaluate, parse_policy_document

from tests.guards.cloud_files import template

ARN = "arn:aws:s3:::bucket"
LOG = f"{ARN}/logs/thing-1/0123456789abcdef0123456789abcdef.txt"
UPDATE = f"{ARN}/updates/thing-1/run-1/1-1.safetensors"
ANYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


def statements() -> list[dict[str, Any]]:
    """Return the policy's statements, as CloudFormation creates them for one bucket."""
    found: list[dict[str, Any]] = template()["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"][
        "Statement"
    ]
    for statement in found:
        named = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        statement["Resource"] = [arn(one) for one in named]
    return found


def arn(value: dict[str, Any]) -> str:
    if "Fn::GetAtt" in value:
        return ARN
    return str(value["Fn::Sub"]).replace("${Bucket.Arn}", ARN)


def may(action: str, resource: str = UPDATE, **headers: str) -> bool:
    """Return whether a device may make a request that its role allows; ``x_amz_acl`` is a header."""
    keys: dict[str, Any] = {f"s3:{name.replace('_', '-')}": value for name, value in headers.items()}
    context = EvalContext(
        principal_arn="arn:aws:sts::000000000000:assumed-role/device/thing-1",
        principal_type="AssumedRole",
        principal_account="000000000000",
        action=f"s3:{action}",
        resource_arn=resource,
        region="us-east-1",
        source_ip="127.0.0.1",
        service_context=keys,
    )
    # Whether a request used TLS is a property of the connection, which does not exist here.
    others = [statement for statement in statements() if statement["Sid"] != "NothingWithoutTls"]
    document = {"Version": "2012-10-17", "Statement": [ANYTHING, *others]}
    return bool(evaluate(context, [parse_policy_document(document)]).decision == "Allow")


def test_an_update_is_stored_as_the_trainers_do_it() -> None:
    assert may("PutObject")
    assert may("PutObject", x_amz_storage_class="STANDARD")
    assert may("PutObject", x_amz_server_side_encryption="AES256")
    assert may("AbortMultipartUpload")
    assert may("GetObject")


STORAGE_CLASSES = [
    "GLACIER", "DEEP_ARCHIVE", "GLACIER_IR", "INTELLIGENT_TIERING", "STANDARD_IA", "ONEZONE_IA",
    "REDUCED_REDUNDANCY", "EXPRESS_ONEZONE", "SNOW", "OUTPOSTS", "standard",
]  # fmt: skip


@pytest.mark.parametrize("name", STORAGE_CLASSES)
def test_no_update_is_stored_in_another_storage_class(name: str) -> None:
    assert not may("PutObject", x_amz_storage_class=name)


def test_no_update_is_encrypted_with_a_key_of_its_writer() -> None:
    assert not may("PutObject", x_amz_server_side_encryption_customer_algorithm="AES256")
    assert not may(
        "PutObject",
        x_amz_server_side_encryption="aws:kms",
        x_amz_server_side_encryption_aws_kms_key_id="arn:aws:kms:us-east-1:666666666666:key/1",
    )


ACTIONS = [
    "PutObjectTagging", "PutObjectVersionTagging", "DeleteObjectTagging", "PutObjectAcl",
    "PutObjectVersionAcl", "PutObjectRetention", "PutObjectLegalHold", "RestoreObject",
]  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_no_update_gets_tags_access_lists_or_locks(action: str) -> None:
    assert not may(action)


def test_log_lines_are_stored_so_that_the_operator_can_read_them() -> None:
    assert may("PutObject", LOG)
    assert not may("PutObject", LOG, x_amz_storage_class="GLACIER")
    assert not may("PutObject", LOG, x_amz_server_side_encryption_customer_algorithm="AES256")
    key = "arn:aws:kms:us-east-1:666666666666:key/1"
    assert not may("PutObject", LOG, x_amz_server_side_encryption_aws_kms_key_id=key)
    assert not any(may(action, LOG) for action in ACTIONS)


def test_operators_are_not_restricted_elsewhere_in_the_bucket() -> None:
    model = f"{ARN}/models/run-1/1.safetensors"
    assert may("PutObject", model, x_amz_storage_class="STANDARD_IA")
    assert may("PutObjectTagging", model)


def test_no_statement_allows_anything() -> None:
    assert {statement["Effect"] for statement in statements()} == {"Deny"}


def test_the_device_role_needs_none_of_what_is_denied() -> None:
    (policy,) = template()["Resources"]["DeviceRole"]["Properties"]["Policies"]
    granted = {
        action
        for statement in policy["PolicyDocument"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert granted
    assert not granted & {f"s3:{action}" for action in ACTIONS}
