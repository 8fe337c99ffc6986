"""List the resources of a stack, including those that outlive it, and delete them."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from fedgrass.console import stack
from fedgrass.console.aws_clients import Clients
from fedgrass.console.deploy.deploy_cloud import MARK, TIMEOUT_SECONDS
from fedgrass.console.deploy.deploy_package import Artifacts
from fedgrass.console.deploy.deploy_stack import Report, Stack
from fedgrass.console.results import reported_steps
from fedgrass.console.stack import StackError, outputs_of
from fedgrass.console.terminal import prompt, say
from fedgrass.federation.errors import SettingsError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

_BUCKET, _TABLE, _IOT_POLICY = "AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::IoT::Policy"
# Resources that the template retains when the stack is deleted: they hold models and history.
_KEPT = frozenset({"Bucket", "BucketPolicy", "RoundsTable"})
_DELETE_BATCH = 1000  # keys per request, the maximum of S3
_GONE = frozenset({"404", "NoSuchBucket", "ResourceNotFoundException"})


@dataclass(frozen=True)
class Part:
    """One resource of a stack."""

    name: str
    kind: str
    id: str


@dataclass(frozen=True)
class Inventory:
    """The resources of a stack, and those that it left behind."""

    status: str
    parts: tuple[Part, ...]
    data: tuple[Part, ...]  # the bucket and the table that outlive the stack
    artifacts: tuple[str, ...]
    logs: tuple[str, ...]
    certificates: tuple[tuple[str, str], ...]  # (device policy, certificate it is attached to)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to delete."""
        return not (self.status or self.data or self.artifacts or self.logs)


class Removal:
    """Lists and deletes the resources of one stack.

    Args:
        clients: returns the boto3 client of a service.
        account: the account (12 digits).
        stack: name of the stack.
        report: called with a line per step.
        artifact_bucket: bucket of its artifacts, if the operator chose one.
        poll_seconds: interval of requests for the state of the stack.
    """

    def __init__(  # noqa: PLR0913 - one argument per option of the command
        self,
        clients: Clients,
        account: str,
        stack: str,
        report: Report,
        *,
        artifact_bucket: str = "",
        poll_seconds: float = 2.0,
    ) -> None:
        self._clients = clients
        self._report = report
        self._stack = Stack(clients("cloudformation"), stack, report, poll_seconds)
        self._artifacts = Artifacts(clients("s3"), account, stack, artifact_bucket)

    def inventory(self) -> Inventory:
        """Return the resources. Raises StackError if the stack was not deployed by fedgrass."""
        described = self._stack.describe()
        status = described.get("StackStatus", "")
        status = "" if status == "DELETE_COMPLETE" else status
        if (
            status.endswith("_COMPLETE")
            and status != "ROLLBACK_COMPLETE"
            and MARK not in outputs_of(described)
        ):
            message = f"the stack {self._stack.name!r} was not deployed by fedgrass, and is not removed"
            raise StackError(message)
        parts = tuple(self._parts()) if status else ()
        left = [part for part in parts if part.name in _KEPT] or list(self._left_by_deleted_stacks())
        return Inventory(
            status=status,
            parts=parts,
            data=tuple(part for part in left if part.kind in {_BUCKET, _TABLE} and self._exists(part)),
            artifacts=tuple(self._artifacts.keys()),
            logs=tuple(self._log_groups()),
            certificates=tuple(self._attached(parts)),
        )

    def describe(self, found: Inventory) -> Iterator[str]:
        """Yield a line per resource."""
        if found.status:
            yield f"the stack {self._stack.name!r} ({found.status}), {len(found.parts)} resources:"
            yield from (f"    {part.name} ({part.kind})  {part.id}" for part in found.parts)
        for _, target in found.certificates:
            yield f"the device policy is detached from {target}"
        for part in found.data:
            yield f"data: {self._size(part)}"
        if found.artifacts:
            yield f"artifacts: {len(found.artifacts)} files in s3://{self._artifacts.bucket}/{self._artifacts.prefix}"
        yield from (f"logs: {name}" for name in found.logs if name not in {part.id for part in found.parts})

    def remove(self, found: Inventory, *, data: bool, timeout: float = TIMEOUT_SECONDS) -> None:
        """Delete the resources, and the data only if ``data`` is set.

        May be called again after an interruption: retained resources are found by the events of deleted
        stacks.
        """
        for policy, target in found.certificates:
            self._clients("iot").detach_policy(policyName=policy, target=target)
            self._report(f"detached  {policy} from {target}")
        if found.status:
            self._stack.delete(timeout)
        for part in found.data if data else ():
            self._remove_data(part)
        bucket_deleted = self._artifacts.remove()
        if found.artifacts or bucket_deleted:
            self._report(
                f" deleted  {len(found.artifacts)} artifacts{' and their bucket' if bucket_deleted else ''}"
            )
        for name in self._log_groups():
            self._clients("logs").delete_log_group(logGroupName=name)
            self._report(f" deleted  logs {name}")

    def _parts(self) -> Iterator[Part]:
        cloudformation = self._clients("cloudformation")
        for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=self._stack.name):
            for one in page["StackResourceSummaries"]:
                if one.get("PhysicalResourceId") and one["ResourceStatus"] != "DELETE_COMPLETE":
                    yield Part(one["LogicalResourceId"], one["ResourceType"], one["PhysicalResourceId"])

    def _left_by_deleted_stacks(self) -> Iterator[Part]:
        """Yield the resources that deleted stacks of this name retained; CloudFormation lists 90 days."""
        cloudformation = self._clients("cloudformation")
        deleted = cloudformation.get_paginator("list_stacks").paginate(StackStatusFilter=["DELETE_COMPLETE"])
        stacks = [one for page in deleted for one in page["StackSummaries"]]
        for arn in (one["StackId"] for one in stacks if one["StackName"] == self._stack.name):
            pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=arn)
            for event in (event for page in pages for event in page["StackEvents"]):
                if event["ResourceStatus"] == "DELETE_SKIPPED" and event["LogicalResourceId"] in _KEPT:
                    yield Part(event["LogicalResourceId"], event["ResourceType"], event["PhysicalResourceId"])

    def _exists(self, part: Part) -> bool:
        try:
            if part.kind == _BUCKET:
                self._clients("s3").head_bucket(Bucket=part.id)
            else:
                self._clients("dynamodb").describe_table(TableName=part.id)
        except ClientError as error:
            if error.response["Error"]["Code"] in _GONE:
                return False
            raise
        return True

    def _size(self, part: Part) -> str:
        if part.kind == _TABLE:
            table = self._clients("dynamodb").describe_table(TableName=part.id)["Table"]
            return f"table {part.id}, about {table['ItemCount']} rows: every run and round"
        pages = self._clients("s3").get_paginator("list_objects_v2").paginate(Bucket=part.id)
        sizes = [entry["Size"] for page in pages for entry in page.get("Contents", [])]
        return (
            f"bucket {part.id}, {len(sizes)} objects of {sum(sizes) / 1e6:,.1f} MB: models, rounds, updates"
        )

    def _remove_data(self, part: Part) -> None:
        if part.kind == _TABLE:
            self._clients("dynamodb").delete_table(TableName=part.id)
        else:
            empty_bucket(self._clients("s3"), part.id)
            self._clients("s3").delete_bucket(Bucket=part.id)
        self._report(f" deleted  {part.name} ({part.kind})  {part.id}")

    def _log_groups(self) -> list[str]:
        prefix = f"/fedgrass/{self._stack.name}/"
        pages = self._clients("logs").get_paginator("describe_log_groups").paginate(logGroupNamePrefix=prefix)
        return [group["logGroupName"] for page in pages for group in page["logGroups"]]

    def _attached(self, parts: tuple[Part, ...]) -> Iterator[tuple[str, str]]:
        """Yield the attachments of device policies: CloudFormation cannot delete a policy in use."""
        for policy in (part.id for part in parts if part.kind == _IOT_POLICY):
            listed: Mapping[str, Any] = {"nextMarker": ""}
            while "nextMarker" in listed:
                marker = {"marker": listed["nextMarker"]} if listed["nextMarker"] else {}
                listed = self._clients("iot").list_targets_for_policy(policyName=policy, **marker)
                yield from ((policy, target) for target in listed["targets"])


def empty_bucket(s3: "S3Client", bucket: str) -> None:
    """Delete every version of every object, and every incomplete upload. Raises StackError."""
    for uploads in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in uploads.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3.get_paginator("list_object_versions").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": _DELETE_BATCH}
    ):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        versions: list[ObjectIdentifierTypeDef] = [
            {"Key": one["Key"], "VersionId": one["VersionId"]} for one in found
        ]
        if not versions:
            continue
        response = s3.delete_objects(Bucket=bucket, Delete={"Objects": versions, "Quiet": True})
        for error in response.get("Errors", []):
            message = f"{error['Key']} in the bucket {bucket} cannot be deleted: {error.get('Message', '')}"
            raise StackError(message)


@stack.refusals()
def down_command(  # noqa: PLR0913 - the options of the command
    *,
    stack_name: str,
    dry_run: bool,
    confirmed: bool,
    delete_data: bool,
    timeout_minutes: float,
    account: str,
    artifact_bucket: str,
    output: str,
) -> None:
    """List the resources of a stack and, after confirmation, delete them."""
    with reported_steps(output, dry_run=dry_run):
        account, _ = stack.caller(stack.client, account)
        removal = Removal(stack.client, account, stack_name, say, artifact_bucket=artifact_bucket)
        found = removal.inventory()
        if found.empty:
            say(f"there are no resources of a stack {stack_name!r} in account {account}")
            return
        for line in removal.describe(found):
            say(line)
        if dry_run:
            say("nothing was removed (--dry-run)")
            return
        if not confirmed:
            _confirm(stack_name, deletes_data=delete_data and bool(found.data))
        removal.remove(found, data=delete_data, timeout=timeout_minutes * 60)
        if found.data and not delete_data:
            say("the data were kept, and S3 and DynamoDB charge for them; to delete them as well:")
            say(f"    fedgrass deploy down --stack {stack_name} --delete-data")
        else:
            say(f"all resources of the stack {stack_name!r} were removed")


def _confirm(stack_name: str, *, deletes_data: bool) -> None:
    """Ask the operator to type the stack's name. Raises SettingsError for any other answer."""
    if not sys.stdin.isatty():
        message = "nothing was removed: there is no terminal to ask for confirmation; add --yes to remove"
        message += " what is listed"
        raise SettingsError(message)
    data = " AND ITS DATA, which cannot be restored," if deletes_data else ""
    if prompt(f"type {stack_name} to remove it{data} for good:") != stack_name:
        message = f"nothing was removed: that is not {stack_name!r}"
        raise SettingsError(message)
