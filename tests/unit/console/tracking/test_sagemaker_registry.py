"""SageMaker Model Registry, by botocore's stubs, which check requests against the description of the API."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from fedgrass.console.tracking.sagemaker_registry import SageMakerRegistry
from tests.fakes.small_fleet import RUN
from tests.fakes.tracked_fleet import TrackedFleet

GROUP = "garden-digits"
ARN = "arn:aws:sagemaker:eu-central-1:123456789012:model-package/garden-digits/1"


@pytest.fixture
def stubbed() -> Iterator[tuple[Any, Stubber]]:
    client = boto3.client(
        "sagemaker",
        region_name="eu-central-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",  # noqa: S106 - the stub sends nothing
    )
    with Stubber(client) as stubber:
        yield (lambda _service: client), stubber
        stubber.assert_no_pending_responses()


def ended(rounds: int = 1) -> TrackedFleet:
    fleet = TrackedFleet(devices=2, rounds=rounds)
    fleet.start()
    fleet.train(rounds)
    return fleet


def groups(stubber: Stubber, *names: str) -> None:
    found = [
        {
            "ModelPackageGroupName": name,
            "ModelPackageGroupArn": ARN,
            "CreationTime": 0,
            "ModelPackageGroupStatus": "Completed",
        }
        for name in names
    ]
    stubber.add_response(
        "list_model_package_groups", {"ModelPackageGroupSummaryList": found}, {"NameContains": GROUP}
    )


def packages(stubber: Stubber, *descriptions: str) -> None:
    found = [
        {
            "ModelPackageArn": ARN,
            "CreationTime": 0,
            "ModelPackageStatus": "Completed",
            "ModelPackageDescription": description,
        }
        for description in descriptions
    ]
    stubber.add_response(
        "list_model_packages", {"ModelPackageSummaryList": found}, {"ModelPackageGroupName": GROUP}
    )


def created(stubber: Stubber, fleet: TrackedFleet, number: int) -> None:
    made = fleet.rounds.round(RUN, number, 1)
    assert made is not None
    started = fleet.run().started_at
    stubber.add_response(
        "create_model_package",
        {"ModelPackageArn": ARN},
        {
            "ModelPackageGroupName": GROUP,
            "ModelPackageDescription": f"fedgrass model {number} of bucket/{RUN}/{started}",
            "ModelApprovalStatus": "PendingManualApproval",
            "SourceUri": f"s3://bucket/models/{RUN}/{number}.safetensors",
            "CustomerMetadataProperties": {
                "fedgrass.id": f"bucket/{RUN}/{started}",
                "fedgrass.fleet": "garden",
                "fedgrass.stack": "fedgrass",
                "fedgrass.task": "digits",
                "fedgrass.run": RUN,
                "fedgrass.round": str(number),
                "fedgrass.attempt": "1",
                "fedgrass.parent": f"{RUN}/{number - 1}",
                "fedgrass.replies": "2",
                "fedgrass.sha256": made.model_sha256,
                "fedgrass.bytes": str(made.model_bytes),
                "fedgrass.made_at": str(made.closed_at),
            },
            "ClientToken": ANY,
        },
    )


def test_the_last_model_becomes_a_package_of_a_new_group(stubbed: tuple[Any, Stubber]) -> None:
    clients, stubber = stubbed
    fleet = ended(2)
    groups(stubber, "garden-digits-2")  # another one, whose name contains this one's
    groups(stubber)
    stubber.add_response(
        "create_model_package_group",
        {"ModelPackageGroupArn": ARN},
        {"ModelPackageGroupName": GROUP, "ModelPackageGroupDescription": ANY},
    )
    created(stubber, fleet, 2)
    report = fleet.track(SageMakerRegistry("", clients))
    assert (report.sinks[0].models, report.sinks[0].error) == (1, "")


def test_a_model_that_the_group_has_is_not_registered_again(stubbed: tuple[Any, Stubber]) -> None:
    clients, stubber = stubbed
    fleet = ended(2)
    started = fleet.run().started_at
    groups(stubber, GROUP)
    packages(
        stubber, "by hand", f"fedgrass model 1 of bucket/{RUN}/{started}", f"fedgrass model 2 of b/{RUN}/1"
    )
    groups(stubber, GROUP)
    created(stubber, fleet, 2)
    report = fleet.track(SageMakerRegistry(GROUP, clients), models="all")
    assert report.sinks[0].models == 1


def test_expired_credentials_are_one_line_and_nothing_else(stubbed: tuple[Any, Stubber]) -> None:
    clients, stubber = stubbed
    stubber.add_client_error("list_model_package_groups", "ExpiredTokenException", "The token is expired")
    warnings: list[str] = []
    ended().track(SageMakerRegistry(GROUP, clients), warnings=warnings)
    assert len(warnings) == 1
    assert "ExpiredTokenException" in warnings[0]
