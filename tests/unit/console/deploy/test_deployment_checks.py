"""Errors that AWS would report only after minutes are found before a stack is deployed."""

from pathlib import Path
from typing import Any

import pytest

import package
from fedgrass.console.deploy.deploy_package import read_template
from fedgrass.console.deploy.deploy_stack import Stack
from fedgrass.console.deploy.deployment_checks import (
    check_concurrency,
    check_policy_sizes,
    most_concurrent,
    policy_sizes,
)
from fedgrass.federation.errors import SettingsError
from tests.fakes.stubbed_aws import StubbedAws

LONG = "f" * 32


def values(fleet: str, region: str, partition: str = "aws") -> dict[str, str]:
    return {
        "FleetName": fleet,
        "AWS::Region": region,
        "AWS::Partition": partition,
        "AWS::AccountId": "1" * 12,
    }


def account(aws: StubbedAws, most: int, free: int) -> None:
    limits = {"ConcurrentExecutions": most, "UnreservedConcurrentExecutions": free}
    aws.expect("lambda", "get_account_settings", {"AccountLimit": limits})


def test_a_new_account_s_quota_is_reported_with_the_way_to_a_larger_one() -> None:
    aws, said = StubbedAws(), list[str]()
    account(aws, 10, 10)
    check_concurrency(aws.client, 0, 26, said.append)
    (line,) = said
    assert "quota is 10 concurrent functions, and this stack starts up to 26" in line
    assert "Service Quotas" in line


def test_a_usual_quota_is_no_matter() -> None:
    aws, said = StubbedAws(), list[str]()
    account(aws, 1000, 900)
    check_concurrency(aws.client, 25, 26, said.append)
    assert said == []


@pytest.mark.parametrize(("most", "free", "reserved"), [(10, 10, 3), (1000, 120, 22), (100, 100, 1)])
def test_what_cannot_be_reserved_is_refused(most: int, free: int, reserved: int) -> None:
    aws = StubbedAws()
    account(aws, most, free)
    with pytest.raises(
        SettingsError,
        match=rf"InitiatorConcurrency.* reserve {reserved} concurrent.* only {free} are unreserved",
    ):
        check_concurrency(aws.client, reserved, 26, print)


def test_credentials_that_may_not_read_the_quota_get_a_note() -> None:
    aws, said = StubbedAws(), list[str]()
    aws.refuse("lambda", "get_account_settings", "AccessDeniedException")
    check_concurrency(aws.client, 0, 26, said.append)
    assert said == ["note: these credentials may not read the account's quota of concurrent functions"]


def test_the_functions_that_the_queues_start_are_counted_with_the_parameters_of_the_template() -> None:
    template = read_template(package.ROOT / "template.yaml")
    defaults = {name: str(one.get("Default", "")) for name, one in template["Parameters"].items()}
    assert most_concurrent(template, defaults) == 2 + 2 + 2 + 20
    assert most_concurrent(template, {**defaults, "ReplyConcurrency": "10"}) == 34


@pytest.mark.parametrize(
    ("fleet", "region", "partition", "fits"),
    [
        ("fedgrass", "us-east-1", "aws", True),
        ("fedgrass", "us-gov-west-1", "aws-us-gov", True),
        (LONG, "us-east-1", "aws", True),
        (LONG, "ap-southeast-1", "aws", False),
        (LONG, "us-gov-west-1", "aws-us-gov", False),
    ],
)
def test_a_long_fleet_name_in_a_long_region_is_refused(
    fleet: str,
    region: str,
    partition: str,
    fits: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    template = read_template(package.ROOT / "template.yaml")
    chosen = values(fleet, region, partition)
    (size,) = [size for name, size in policy_sizes(template, chosen) if name == "DevicePolicy"]
    assert (size <= 2048) == fits
    if fits:
        check_policy_sizes(template, chosen)
        return
    with pytest.raises(
        SettingsError, match=rf"DevicePolicy would have .* in {region}, .* a shorter FleetName"
    ):
        check_policy_sizes(template, chosen)


def test_a_policy_is_counted_with_its_variables_filled_in_and_those_of_iot_kept(tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(
        "Resources:\n  P:\n    Type: AWS::IoT::Policy\n    Properties:\n      PolicyDocument:\n"
        '        - !Sub "${AWS::Region}/${!iot:Thing}"\n        - !Ref FleetName\n'
    )
    found = dict(policy_sizes(read_template(file), values("garden", "eu-west-1")))
    assert found == {"P": len('["eu-west-1/${iot:Thing}","garden"]')}


class CloudFormation:
    """A stack that exists, and a change set of two pages."""

    def __init__(self, *, changes: bool) -> None:
        self.deleted: list[str] = []
        self._changes = changes

    def describe_stacks(self, **_: Any) -> dict[str, Any]:
        return {"Stacks": [{"StackStatus": "UPDATE_COMPLETE"}]}

    def create_change_set(self, **wanted: Any) -> dict[str, str]:
        assert wanted["ChangeSetType"] == "UPDATE"
        return {"Id": "set", "StackId": "stack"}

    def describe_change_set(self, ChangeSetName: str, NextToken: str = "") -> dict[str, Any]:  # noqa: N803 - the names of boto3
        assert ChangeSetName == "set"
        if not self._changes:
            return {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}
        change = {
            "Action": "Modify",
            "LogicalResourceId": f"P{NextToken}",
            "ResourceType": "T",
            "Replacement": "True",
        }
        more = {} if NextToken else {"NextToken": "2"}
        return {"Status": "CREATE_COMPLETE", "Changes": [{"ResourceChange": change}], **more}

    def delete_change_set(self, StackName: str, ChangeSetName: str) -> None:  # noqa: N803 - the names of boto3
        self.deleted.append(f"{StackName} {ChangeSetName}")


def test_a_preview_lists_every_change_and_leaves_no_change_set() -> None:
    cloudformation: Any = CloudFormation(changes=True)
    lines = Stack(cloudformation, "fedgrass", print, 0).preview("https://template", [], 5)
    assert lines == ["  modify  P (T), replaced", "  modify  P2 (T), replaced"]
    assert len(cloudformation.deleted) == 1


def test_a_preview_of_no_changes_is_empty() -> None:
    cloudformation: Any = CloudFormation(changes=False)
    assert Stack(cloudformation, "fedgrass", print, 0).preview("https://template", [], 5) == []
    assert len(cloudformation.deleted) == 1
