"""Greengrass in an AWS account: thing groups, component versions, deployments and their progress."""

from collections.abc import Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError
from msgspec import Struct

from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.federation.conversion import nearest
from fedgrass.federation.errors import FedgrassError, SettingsError

_FAILED = frozenset({"FAILED", "TIMED_OUT", "REJECTED", "CANCELED"})  # states of a device's job execution


class DeploymentError(FedgrassError):
    """Greengrass refused a deployment or a component; the message names it and the reason."""


class Progress(Struct, frozen=True, kw_only=True):
    """Progress of a deployment, as numbers of devices."""

    status: str
    queued: int = 0
    in_progress: int = 0
    succeeded: int = 0
    failed: int = 0  # including timed out, rejected and canceled

    @property
    def over(self) -> bool:
        """Whether no device is queued or in progress."""
        known = self.queued + self.in_progress + self.succeeded + self.failed
        return self.status != "ACTIVE" or (known > 0 and self.queued + self.in_progress == 0)

    def __str__(self) -> str:
        return (
            f"{self.succeeded} succeeded, {self.failed} failed, {self.in_progress} in progress,"
            f" {self.queued} queued"
        )


class DeviceState(Struct, frozen=True, kw_only=True):
    """State of one device in a deployment."""

    thing: str
    status: str  # of AWS IoT Jobs: QUEUED, IN_PROGRESS, SUCCEEDED, FAILED, TIMED_OUT, ...
    reason: str = ""  # why it failed, as the device reported

    @property
    def failed(self) -> bool:
        """Whether the deployment failed on the device, which will not retry."""
        return self.status in _FAILED

    def __str__(self) -> str:
        return f"{self.status:11} {self.thing}" + (f": {self.reason}" if self.reason else "")


def code_of(error: ClientError) -> str:
    """Return the AWS error code, such as ``ResourceNotFoundException``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


class Account:
    """The account of the credentials, and the region.

    Raises:
        SettingsError: it is not the account that the operator expects.
    """

    def __init__(self, clients: Clients, expected: str = "") -> None:
        self.region: str = clients("greengrassv2").meta.region_name
        self.number, arn = stack.caller(clients, expected)
        self.partition = arn.split(":")[1]

    def component(self, name: str) -> str:
        """Return the ARN of a component; names of AWS components begin with ``aws.``."""
        owner = "aws" if name.startswith("aws.") else self.number
        return f"arn:{self.partition}:greengrass:{self.region}:{owner}:components:{name}"

    def component_version(self, name: str, version: str) -> str:
        """Return the ARN of a component's version."""
        return f"{self.component(name)}:versions:{version}"

    def thing(self, name: str) -> str:
        """Return the ARN of a thing."""
        return f"arn:{self.partition}:iot:{self.region}:{self.number}:thing/{name}"


class GreengrassCloud:
    """Thing groups, component versions and deployments of one account and region.

    Args:
        clients: returns the boto3 client of a service.
        account: the account of these clients.
    """

    def __init__(self, clients: Clients, account: Account) -> None:
        self._greengrass = clients("greengrassv2")
        self._iot = clients("iot")
        self.account = account

    def group(self, name: str) -> str:
        """Return the ARN of a thing group.

        Raises:
            SettingsError: the group does not exist; the message suggests the nearest name.
        """
        try:
            return str(self._iot.describe_thing_group(thingGroupName=name)["thingGroupArn"])
        except ClientError as error:
            if code_of(error) != "ResourceNotFoundException":
                raise
        pages = self._iot.get_paginator("list_thing_groups").paginate()
        known = sorted(group["groupName"] for page in pages for group in page["thingGroups"])
        message = (
            f"there is no thing group {name!r} in account {self.account.number}, region"
            f" {self.account.region}: {_sentence(nearest(name, known))} Create it by"
            f" `aws iot create-thing-group --thing-group-name {name}` or `fedgrass fleet provision`"
        )
        raise SettingsError(message)

    def things(self, group: str) -> int:
        """Return the number of things in a group."""
        pages = self._iot.get_paginator("list_things_in_thing_group").paginate(thingGroupName=group)
        return sum(len(page["things"]) for page in pages)

    def members(self, group: str) -> set[str]:
        """Return the names of the things in a group and in the groups below it."""
        pages = self._iot.get_paginator("list_things_in_thing_group").paginate(
            thingGroupName=group, recursive=True
        )
        return {thing for page in pages for thing in page["things"]}

    def groups_of(self, thing: str) -> dict[str, str] | None:
        """Return the ARN of each group of a thing, parents included, by name; None without such a thing."""
        pages = self._iot.get_paginator("list_thing_groups_for_thing").paginate(thingName=thing)
        try:
            found = {group["groupName"]: group["groupArn"] for page in pages for group in page["thingGroups"]}
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return None
            raise
        for name in [*found]:
            described = self._iot.describe_thing_group(thingGroupName=name)
            for parent in described.get("thingGroupMetadata", {}).get("rootToParentThingGroups", []):
                found[parent["groupName"]] = parent["groupArn"]
        return found

    def versions(self, component: str) -> list[str]:
        """Return the versions of a component, latest first; empty if it was never published."""
        pages = self._greengrass.get_paginator("list_component_versions").paginate(
            arn=self.account.component(component)
        )
        try:
            return [entry["componentVersion"] for page in pages for entry in page["componentVersions"]]
        except ClientError as error:
            if code_of(error) == "ResourceNotFoundException":
                return []
            raise

    def latest_deployment(self, target: str) -> Mapping[str, Any]:
        """Return the latest deployment of a target, as GetDeployment returns it; empty if there is none."""
        listed = self._greengrass.list_deployments(targetArn=target, historyFilter="LATEST_ONLY")
        for summary in listed["deployments"]:
            found: Mapping[str, Any] = self._greengrass.get_deployment(deploymentId=summary["deploymentId"])
            return found
        return {}

    def deployment(self, deployment: str) -> Mapping[str, Any]:
        """Return a deployment, as GetDeployment returns it."""
        found: Mapping[str, Any] = self._greengrass.get_deployment(deploymentId=deployment)
        return found

    def latest_deployments(self) -> Iterator[Mapping[str, Any]]:
        """Yield the summary of the latest deployment to each target of the account."""
        pages = self._greengrass.get_paginator("list_deployments").paginate(historyFilter="LATEST_ONLY")
        for page in pages:
            yield from page["deployments"]

    def deploy(self, arguments: Mapping[str, Any]) -> str:
        """Create a deployment, or a revision of one; return its id.

        Raises:
            DeploymentError: Greengrass refused it, for example because a component version does not exist.
        """
        try:
            return str(self._greengrass.create_deployment(**arguments)["deploymentId"])
        except ClientError as error:
            if code_of(error) in {"ValidationException", "ResourceNotFoundException", "ConflictException"}:
                message = f"Greengrass refused the deployment, and nothing was changed: {_reason(error)}"
                raise DeploymentError(message) from error
            raise

    def progress(self, deployment: str) -> Progress:
        """Return the progress of a deployment."""
        return self.progress_of(self.deployment(deployment))

    def progress_of(self, found: Mapping[str, Any]) -> Progress:
        """Return the progress of a deployment that was read already."""
        if "iotJobId" not in found:
            return Progress(status=found["deploymentStatus"])
        job = self._iot.describe_job(jobId=found["iotJobId"])["job"]
        counts: Mapping[str, Any] = job.get("jobProcessDetails", {})
        failures = ("Failed", "TimedOut", "Rejected", "Canceled")
        return Progress(
            status=found["deploymentStatus"],
            queued=counts.get("numberOfQueuedThings", 0),
            in_progress=counts.get("numberOfInProgressThings", 0),
            succeeded=counts.get("numberOfSucceededThings", 0),
            failed=sum(counts.get(f"numberOf{kind}Things", 0) for kind in failures),
        )

    def lite_devices(self, target: str) -> int:
        """Return the number of core devices of a thing group that have reported to run Nucleus Lite."""
        pages = self._greengrass.get_paginator("list_core_devices").paginate(
            thingGroupArn=target, runtime="aws_nucleus_lite"
        )
        return sum(len(page["coreDevices"]) for page in pages)

    def states(self, deployment: str, most_reasons: int = 5) -> Iterator[DeviceState]:
        """Yield the state of each device; the first ``most_reasons`` failed ones with the reported reason."""
        job = self._greengrass.get_deployment(deploymentId=deployment).get("iotJobId")
        if job is None:
            return
        pages = self._iot.get_paginator("list_job_executions_for_job").paginate(jobId=job)
        for execution in (one for page in pages for one in page["executionSummaries"]):
            thing = execution["thingArn"].rpartition("/")[2]
            status = execution.get("jobExecutionSummary", {}).get("status", "unknown")
            reason = ""
            if status in _FAILED and most_reasons > 0:
                most_reasons -= 1
                reason = self._reason_on(thing, deployment)
            yield DeviceState(thing=thing, status=status, reason=reason)

    def _reason_on(self, thing: str, deployment: str) -> str:
        listed = self._greengrass.list_effective_deployments(coreDeviceThingName=thing)
        for found in listed["effectiveDeployments"]:
            if found["deploymentId"] == deployment:
                stack = found.get("statusDetails", {}).get("errorStack", [])
                return ", ".join(filter(None, [found.get("reason", ""), *stack])) or "no reason given"
        return "the device reported no reason"


def _reason(error: ClientError) -> str:
    """Return the reason of an AWS error, with the invalid fields that it lists."""
    response: Mapping[str, Any] = error.response
    fields = response.get("fields", [])  # only in ValidationException
    details = [f"{field.get('name')}: {field.get('message')}" for field in fields]
    return "; ".join([str(response.get("Error", {}).get("Message", error)), *details])
