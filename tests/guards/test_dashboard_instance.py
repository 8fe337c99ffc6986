"""provisioning/dashboard.yaml: the instance may read one fleet, and act only with ReadOnly=false."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import cfnlint.decode
import pytest

from fedgrass.console.main import parse
from tests.guards.cloud_files import PROJECT

PATH = PROJECT / "provisioning" / "dashboard.yaml"
TEMPLATE, _ = cfnlint.decode.decode(str(PATH))
RESOURCES: Mapping[str, Any] = TEMPLATE["Resources"]
# What the page reads: see dashboard/fleet_reads.py, fleet_alarms.py, stack_models.py and topic_feed/.
READS = {
    "cloudformation:DescribeStacks",
    "cloudwatch:DescribeAlarms",
    "dynamodb:GetItem",
    "dynamodb:Query",
    "dynamodb:Scan",
    "iot:Connect",
    "iot:DescribeEndpoint",
    "iot:Receive",
    "iot:Subscribe",
    "s3:GetObject",
    "s3:ListBucket",
    "sqs:ChangeMessageVisibility",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
}


def statements(name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the statements of a policy of the role."""
    for policy in RESOURCES["Role"]["Properties"]["Policies"]:
        found = policy["Fn::If"][1] if "Fn::If" in policy else policy
        if found["PolicyName"] == name:
            yield from found["PolicyDocument"]["Statement"]


def actions(statement: Mapping[str, Any]) -> list[str]:
    found = statement["Action"]
    return list(found) if isinstance(found, list) else [found]


def test_the_role_reads_and_nothing_else() -> None:
    assert {action for one in statements("reads") for action in actions(one)} == READS


def test_every_resource_is_named_but_of_calls_that_have_none() -> None:
    wide = [actions(one) for one in statements("reads") if one["Resource"] == "*"]
    assert wide == [["iot:DescribeEndpoint", "cloudwatch:DescribeAlarms"]]


def test_the_initiator_may_be_invoked_only_if_the_page_may_act() -> None:
    (acts,) = statements("acts")
    assert actions(acts) == ["lambda:InvokeFunction"]
    (conditional,) = [one for one in RESOURCES["Role"]["Properties"]["Policies"] if "acts" in str(one)]
    assert conditional["Fn::If"][0] == "MayAct"
    assert TEMPLATE["Parameters"]["ReadOnly"]["Default"] == "true"


def test_nobody_can_connect_to_the_instance() -> None:
    group = RESOURCES["SecurityGroup"]["Properties"]
    assert "SecurityGroupIngress" not in group
    assert [rule["FromPort"] for rule in group["SecurityGroupEgress"]] == [443]
    assert RESOURCES["Instance"]["Properties"]["MetadataOptions"]["HttpTokens"] == "required"


@pytest.mark.parametrize("option", ["", " --read-only"])
def test_the_service_starts_a_command_that_exists(option: str) -> None:
    text, values = RESOURCES["Instance"]["Properties"]["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert option in values["Option"]["Fn::If"]
    found = re.search(r"ExecStart=\S+/fedgrass (.+)", text)
    assert found
    words = found[1].replace("${StackName}", "fedgrass").replace("${Option}", option).split()
    chosen = parse(words).bound.arguments
    assert chosen["port"] == 8321
    assert chosen.get("read_only", False) is bool(option)
    assert "host" not in chosen  # 127.0.0.1: only SSM's agent on the instance reaches it
