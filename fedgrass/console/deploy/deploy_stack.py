"""Create, update and delete a CloudFormation stack, and report the progress of each resource."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from fedgrass.console.stack import StackError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import (
        CreateChangeSetInputTypeDef,
        CreateChangeSetOutputTypeDef,
        DescribeChangeSetInputTypeDef,
        ParameterTypeDef,
    )

Report = Callable[[str], None]
# States in which a stack can be created.
_ABSENT = frozenset({"", "DELETE_COMPLETE", "REVIEW_IN_PROGRESS"})
# States in which a stack can be updated.
_COMPLETE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"})
_OVER = _COMPLETE | {
    "DELETE_COMPLETE",
    "DELETE_FAILED",
    "ROLLBACK_FAILED",
    "UPDATE_FAILED",
    "UPDATE_ROLLBACK_FAILED",
}
_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
# Reasons of resources that CloudFormation cancelled because another resource had failed.
_CONSEQUENCES = ("Resource creation cancelled", "Resource creation canceled", "Resource update cancelled")
_WAYS_OUT = {
    "UPDATE_ROLLBACK_FAILED": "`aws cloudformation continue-update-rollback --stack-name {}` restores it",
    "UPDATE_FAILED": "`aws cloudformation rollback-stack --stack-name {}` restores it",
}


class Stack:
    """One stack, by its name.

    Args:
        cloudformation: the boto3 client.
        name: name of the stack.
        report: called with a line for each resource that is done.
        poll_seconds: interval of requests for the state of an operation.
    """

    def __init__(
        self, cloudformation: "CloudFormationClient", name: str, report: Report, poll_seconds: float = 2.0
    ) -> None:
        self._cloudformation = cloudformation
        self.name = name
        self._report = report
        self._poll_seconds = poll_seconds

    def describe(self, name: str = "") -> Mapping[str, Any]:
        """Return the description of the stack, or of the one named; empty if it does not exist."""
        try:
            found = self._cloudformation.describe_stacks(StackName=name or self.name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return {}
            raise
        return dict(found[0])

    def check(self) -> Literal["CREATE", "UPDATE"]:
        """Return ``CREATE`` if the stack does not exist, ``UPDATE`` if it does.

        Raises:
            StackError: a deployment failed halfway, or an operation is in progress; the message has the way
                out.
        """
        status: str = self.describe().get("StackStatus", "")
        if status in _ABSENT:
            return "CREATE"
        if status in _COMPLETE:
            return "UPDATE"
        if status.endswith("_IN_PROGRESS"):
            way_out = "another operation is in progress: try again when it is complete"
        else:
            down = "an earlier operation failed; remove the stack by `fedgrass deploy down --stack {}`"
            way_out = _WAYS_OUT.get(status, down).format(self.name)
        message = f"the stack {self.name!r} is {status}: {way_out}"
        raise StackError(message)

    def is_in_progress(self) -> bool:
        """Return whether an operation on the stack is in progress."""
        status: str = self.describe().get("StackStatus", "")
        return status.endswith("_IN_PROGRESS") and status not in _ABSENT

    def apply(self, template_url: str, parameters: "Sequence[ParameterTypeDef]", timeout: float) -> bool:
        """Create or update the stack; return False if there was nothing to change.

        CloudFormation deletes a stack whose creation fails and rolls back an update that fails.

        Raises:
            StackError: the operation was refused, failed (the message names the resource and its reason), or
                is not complete after ``timeout`` seconds.
        """
        change_set = f"fedgrass-{uuid.uuid4().hex[:12]}"
        try:
            made = self._create_change_set(change_set, template_url, parameters)
            stack = made["StackId"]
            if not self._has_changes(made["Id"], stack, timeout):
                self._discard(change_set)
                return False
            seen = self._events(stack)
        except BaseException:
            self._discard(change_set)
            raise
        self._cloudformation.execute_change_set(ChangeSetName=made["Id"])
        status = self._follow(stack, {event["EventId"] for event in seen}, timeout)
        if status in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
            return True
        outcome = {
            "DELETE_COMPLETE": "its resources were deleted",
            "UPDATE_ROLLBACK_COMPLETE": "it was rolled back",
        }.get(status, f"it is {status} now: remove it by `fedgrass deploy down --stack {self.name}`")
        message = f"stack {self.name!r} failed, and {outcome}. {self._first_failure(stack, seen)}"
        raise StackError(message)

    def preview(
        self, template_url: str, parameters: "Sequence[ParameterTypeDef]", timeout: float
    ) -> list[str]:
        """Return a line per resource that ``apply`` would add, modify or remove, without any change.

        Raises:
            StackError: the changes were refused, or not computed within ``timeout`` seconds.
        """
        change_set = f"fedgrass-{uuid.uuid4().hex[:12]}"
        try:
            made = self._create_change_set(change_set, template_url, parameters)
            if not self._has_changes(made["Id"], made["StackId"], timeout):
                return []
            return [_change(one["ResourceChange"]) for one in self._changes(made["Id"])]
        finally:
            self._discard(change_set)

    def _create_change_set(
        self, change_set: str, template_url: str, parameters: "Sequence[ParameterTypeDef]"
    ) -> "CreateChangeSetOutputTypeDef":
        kind = self.check()
        request: CreateChangeSetInputTypeDef = {
            "StackName": self.name,
            "ChangeSetName": change_set,
            "ChangeSetType": kind,
            "TemplateURL": template_url,
            "Parameters": parameters,
            "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        }
        if kind == "CREATE":
            request["OnStackFailure"] = "DELETE"
        return self._cloudformation.create_change_set(**request)

    def _changes(self, change_set: str) -> Iterator[Mapping[str, Any]]:
        request: DescribeChangeSetInputTypeDef = {"ChangeSetName": change_set}
        while True:
            page = self._cloudformation.describe_change_set(**request)
            yield from page["Changes"]
            if not page.get("NextToken"):
                return
            request["NextToken"] = page["NextToken"]

    def delete(self, timeout: float) -> None:
        """Delete the stack. Raises StackError, which names the resource that could not be deleted."""
        stack = self.describe()["StackId"]
        seen = self._events(stack)
        self._cloudformation.delete_stack(StackName=self.name)
        status = self._follow(stack, {event["EventId"] for event in seen}, timeout)
        if status != "DELETE_COMPLETE":
            message = f"the stack {self.name!r} is {status}: {self._first_failure(stack, seen)}; fix that"
            message += " and repeat the command"
            raise StackError(message)

    def _has_changes(self, change_set: str, stack: str, timeout: float) -> bool:
        """Wait for a change set; return whether it has changes. Raises StackError if it is refused."""
        deadline = time.monotonic() + timeout
        while True:
            found = self._cloudformation.describe_change_set(ChangeSetName=change_set)
            if found["Status"] == "CREATE_COMPLETE":
                return True
            if found["Status"] == "FAILED":
                break
            self._pause(deadline, f"the changes of stack {self.name!r} are still {found['Status']}", timeout)
        reason = found.get("StatusReason", "")
        if any(words in reason for words in _NO_CHANGES):
            return False
        why = self._failed_check(stack) or reason or "no reason given"
        message = f"the stack {self.name!r} was refused, and nothing was changed: {why}"
        raise StackError(message)

    def _follow(self, stack: str, seen: set[str], timeout: float) -> str:
        """Report each resource until the operation is over; return the final status of the stack."""
        deadline = time.monotonic() + timeout
        while True:
            status: str = self.describe(stack)["StackStatus"]
            for event in reversed(self._events(stack)):
                if event["EventId"] not in seen:
                    seen.add(event["EventId"])
                    self._report_event(event)
            if status in _OVER:
                return status
            self._pause(deadline, f"stack {self.name!r} is still {status}", timeout)

    def _pause(self, deadline: float, state: str, timeout: float) -> None:
        if time.monotonic() > deadline:
            message = f"{state} after {timeout:g} s, and AWS continues: check it by `aws cloudformation"
            message += f" describe-stacks --stack-name {self.name}`"
            raise StackError(message)
        time.sleep(self._poll_seconds)

    def _report_event(self, event: Mapping[str, Any]) -> None:
        status = event.get("ResourceStatus", "")
        if not status.endswith("_IN_PROGRESS"):
            words = status.removesuffix("_COMPLETE").lower().replace("_", " ")
            reason = event.get("ResourceStatusReason", "") if status.endswith("_FAILED") else ""
            line = f"{words:>8}  {event['LogicalResourceId']} ({event['ResourceType']})  {reason}"
            self._report(line.rstrip())

    def _discard(self, change_set: str) -> None:
        """Delete a change set that was not executed, and the empty stack that was created for it."""
        with suppress(ClientError):
            self._cloudformation.delete_change_set(StackName=self.name, ChangeSetName=change_set)
        with suppress(ClientError):
            if self.describe().get("StackStatus") != "REVIEW_IN_PROGRESS":
                return
            others = self._cloudformation.list_change_sets(StackName=self.name)["Summaries"]
            # Another operator may have created a change set in the meantime.
            if not [one for one in others if one["ChangeSetName"] != change_set]:
                self._cloudformation.delete_stack(StackName=self.name)

    def _events(self, stack: str) -> list[Mapping[str, Any]]:
        """Return the stack's events, latest first."""
        pages = self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
        return [event for page in pages for event in page["StackEvents"]]

    def _failed_check(self, stack: str) -> str:
        """Return the failed validation that precedes an operation, which only DescribeEvents returns."""
        with suppress(ClientError):
            pages = self._cloudformation.get_paginator("describe_events").paginate(StackName=stack)
            for check in (event for page in pages for event in page["OperationEvents"]):
                if check.get("ValidationStatus") == "FAILED":
                    return _describe(check, check.get("ValidationStatusReason"))
        return ""

    def _first_failure(self, stack: str, before: Sequence[Mapping[str, Any]]) -> str:
        """Return the resource that failed first and its reason; later failures are mostly consequences."""
        old = {event["EventId"] for event in before}
        failed = [
            _describe(event, event.get("ResourceStatusReason", ""))
            for event in reversed(self._events(stack))
            if event.get("ResourceStatus", "").endswith("_FAILED")
            and event["EventId"] not in old
            and event["ResourceType"] != "AWS::CloudFormation::Stack"
            and event.get("ResourceStatusReason", "") not in _CONSEQUENCES
        ]
        return next(iter(failed), "") or self._failed_check(stack) or self._reason(stack)

    def _reason(self, stack: str) -> str:
        return str(self.describe(stack).get("StackStatusReason") or "its events name no failed resource")


def _change(change: Mapping[str, Any]) -> str:
    action = change["Action"].lower()
    replaced = ", replaced" if change.get("Replacement") == "True" else ""
    return f"{action:>8}  {change['LogicalResourceId']} ({change['ResourceType']}){replaced}"


def _describe(event: Mapping[str, Any], reason: str | None) -> str:
    resource = f"{event.get('LogicalResourceId')} ({event.get('ResourceType')})"
    return f"{resource}: {reason or 'no reason given'}"
