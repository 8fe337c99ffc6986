"""Defects of the replaced systems that can be seen in template.yaml.

tests/guards/replaced_systems/test_defects_of_replaced_systems.py has the list of all defects.
"""

from collections.abc import Iterator
from typing import Any

from tests.guards.cloud_files import template

DEVICE = "${iot:Connection.Thing.ThingName}"
# Actions for which AWS's reference defines no resource.
NO_FINER_RESOURCE = {"ecr:GetAuthorizationToken", "xray:PutTelemetryRecords", "xray:PutTraceSegments"}


def resources(kind: str = "") -> dict[str, Any]:
    """Return the template's resources, of one type or of all."""
    found = template()["Resources"]
    return {name: resource for name, resource in found.items() if kind in {"", resource["Type"]}}


def statements(node: object) -> Iterator[dict[str, Any]]:
    """Yield every policy statement below a node."""
    if isinstance(node, dict):
        if "Effect" in node and "Action" in node:
            yield node
        for value in node.values():
            yield from statements(value)
    elif isinstance(node, list):
        for value in node:
            yield from statements(value)


def many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def words(node: object) -> Iterator[str]:
    """Yield every text below a node."""
    if isinstance(node, dict):
        for value in node.values():
            yield from words(value)
    elif isinstance(node, list):
        for value in node:
            yield from words(value)
    else:
        yield str(node)


def test_no_bucket_and_no_table_has_a_fixed_name() -> None:
    named = {"BucketName", "TableName", "QueueName", "FunctionName", "RoleName", "PolicyName", "RuleName"}
    for name, resource in resources().items():
        assert not named & set(resource.get("Properties", {})), name


def test_no_role_may_do_everything_or_touch_everything() -> None:
    found = [statement for statement in statements(resources()) if statement["Effect"] == "Allow"]
    assert len(found) > 15
    for statement in found:
        assert not [action for action in many(statement["Action"]) if "*" in action], statement
        assert "NotAction" not in statement
        if set(many(statement["Action"])) <= NO_FINER_RESOURCE:
            continue
        # A statement without Resource defines who may assume a role.
        assert "*" not in many(statement.get("Resource")), statement


def test_nothing_reaches_the_bucket_without_tls() -> None:
    (policy,) = resources("AWS::S3::BucketPolicy").values()
    statement = policy["Properties"]["PolicyDocument"]["Statement"][0]
    assert statement["Sid"] == "NothingWithoutTls"
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert list(words(statement["Resource"])) == ["Bucket", "Arn", "${Bucket.Arn}/*"]


def test_what_is_stored_is_encrypted_can_be_recovered_and_outlives_the_stack() -> None:
    bucket = resources()["Bucket"]
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = bucket["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    kinds = rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"]
    assert kinds == {"Fn::If": ["HasKey", "aws:kms", "AES256"]}
    for name, table in resources("AWS::DynamoDB::Table").items():
        recovery = table["Properties"]["PointInTimeRecoverySpecification"]
        assert recovery == {"PointInTimeRecoveryEnabled": True}, name
        assert table["Properties"]["BillingMode"] == "PAY_PER_REQUEST", name
        _, own_key, amazons = table["Properties"]["SSESpecification"]["Fn::If"]
        assert own_key["KMSMasterKeyId"] == {"Ref": "KmsKeyArn"}, name
        assert amazons == {"Ref": "AWS::NoValue"}, name  # still encrypted
    for kept in (bucket, resources()["RoundsTable"]):
        # Retained when the stack is deleted, but not when its creation fails.
        assert (kept["DeletionPolicy"], kept["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    for name, queue in resources("AWS::SQS::Queue").items():
        assert queue["Properties"]["SqsManagedSseEnabled"] == {"Fn::If": ["HasKey", False, True]}, name


def test_no_role_has_a_policy_of_full_access() -> None:
    assert [
        word for word in words(resources()) if "FullAccess" in word or "AdministratorAccess" in word
    ] == []


def test_there_is_no_public_endpoint() -> None:
    kinds = {resource["Type"] for resource in resources().values()}
    open_to_all = (
        "ApiGateway",
        "Lambda::Url",
        "ElasticLoadBalancing",
        "Serverless::Api",
        "Serverless::HttpApi",
    )
    assert not [kind for kind in kinds for word in open_to_all if word in kind]
    for function in resources("AWS::Serverless::Function").values():
        assert "FunctionUrlConfig" not in function["Properties"]
        assert {event["Type"] for event in function["Properties"]["Events"].values()} <= {"SQS", "ScheduleV2"}


def test_the_bucket_is_closed_to_the_public() -> None:
    for bucket in resources("AWS::S3::Bucket").values():
        assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}


def test_a_device_may_use_only_its_own_topics_and_those_of_new_models() -> None:
    (policy,) = resources("AWS::IoT::Policy").values()
    for statement in statements(policy):
        for resource in many(statement["Resource"]):
            (text,) = words(resource)
            if text.endswith("/models/*"):
                assert not {"iot:Publish", "iot:Connect"} & set(many(statement["Action"])), text
                continue
            if many(statement["Action"]) == ["iot:AssumeRoleWithCertificate"]:
                assert text.endswith(":rolealias/fedgrass-${FleetName}"), text
                continue
            assert text.replace("${!", "${").count(DEVICE) == 1, text
            assert statement["Action"] == "iot:Connect" or "*" not in text, text


def test_a_device_may_write_nothing_but_its_own_updates_and_log_lines() -> None:
    documents = resources()["DeviceRole"]["Properties"]["Policies"]
    written = [
        word
        for statement in statements(documents)
        if "s3:PutObject" in many(statement["Action"])
        for word in words(statement["Resource"])
    ]
    assert [word.replace("${!", "${") for word in written] == [
        "${Bucket.Arn}/updates/${credentials-iot:ThingName}/*",
        "${Bucket.Arn}/logs/${credentials-iot:ThingName}/*",
    ]


def test_a_device_that_is_gone_and_updates_that_were_averaged_are_cleaned_up() -> None:
    for name in ("DevicesTable", "TurnaroundsTable"):
        table = resources()[name]["Properties"]
        assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    rules = resources()["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert [(rule["Prefix"], rule["Status"]) for rule in rules] == [
        ("updates/", "Enabled"),
        ("logs/", "Enabled"),
        ("drafts/", "Enabled"),
        ("", "Enabled"),
    ]
    assert all("NoncurrentVersionExpiration" in rule for rule in rules)
    assert all(rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1} for rule in rules)


def test_every_queue_keeps_what_could_not_be_processed() -> None:
    queues = resources("AWS::SQS::Queue")
    for name, queue in queues.items():
        target = queue["Properties"].get("RedrivePolicy", {}).get("deadLetterTargetArn")
        assert name == "DeadLetters" or target == {"Fn::GetAtt": ["DeadLetters", "Arn"]}, name


def test_every_function_has_a_time_out() -> None:
    for name, function in resources("AWS::Serverless::Function").items():
        assert "Timeout" in function["Properties"], name


def test_each_queue_is_read_by_the_function_that_understands_its_messages() -> None:
    read = {
        (name, many(event["Properties"]["Queue"]["Fn::GetAtt"])[0])
        for name, function in resources("AWS::Serverless::Function").items()
        for event in function["Properties"].get("Events", {}).values()
    }
    assert {(name, queue.split(".")[0]) for name, queue in read} == {
        ("Initiator", "Hellos"),
        ("Averager", "Replies"),
        ("Averager", "Jobs"),
        ("Averager", "Alarms"),
    }


def test_each_check_that_is_left_out_has_its_reason() -> None:
    skipped = [
        skip
        for resource in resources().values()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]
    assert skipped
    for skip in skipped:
        assert len(skip["comment"].split()) > 5, skip


def test_reserved_concurrency_is_a_choice_for_each_function() -> None:
    # Checked here and not in the embedded cloud, whose CloudFormation ignores it.
    for name in ("Initiator", "Averager"):
        reserved = resources()[name]["Properties"]["ReservedConcurrentExecutions"]
        chosen = {"Ref": f"{name}Concurrency"}
        assert reserved == {"Fn::If": [f"Has{name}Concurrency", chosen, {"Ref": "AWS::NoValue"}]}


def test_the_form_for_a_new_stack_asks_for_each_parameter_once() -> None:
    groups = template()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    asked = [name for group in groups for name in group["Parameters"]]
    assert sorted(asked) == sorted(template()["Parameters"])
