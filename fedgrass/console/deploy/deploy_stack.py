"""Creates, changes and deletes a CloudFormation stack, and tells what happens to each resource."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from fedgrass.console.stack import StackError

Say = Callable[[str], None]
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
# No operation goes on in these, and the next one may begin.
ABSENT = frozenset({"", "DELETE_COMPLETE", "REVIEW_IN_PROGRESS"})
WHOLE = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"})
_OVER = WHOLE | {
    "DELETE_COMPLETE",
    "DELETE_FAILED",
    "ROLLBACK_FAILED",
    "UPDATE_FAILED",
    "UPDATE_ROLLBACK_FAILED",
}
_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
# CloudFormation reports these of every resource that it gave up because another one had failed.
_CONSEQUENCES = ("Resource creation cancelled", "Resource creation canceled", "Resource update cancelled")
_WAYS_OUT = {
    "UPDATE_ROLLBACK_FAILED": "`aws cloudformation continue-update-rollback --stack-name {}` brings it back",
    "UPDATE_FAILED": "`aws cloudformation rollback-stack --stack-name {}` brings it back",
}


class Stack:
    """One stack, by its name.

    Args:
        cloudformation: the boto3 client.
        name: of the stack.
        say: told of each resource as it is done.
        poll_seconds: between two looks at an operation.
    """

    def __init__(self, cloudformation: Any, name: str, say: Say, poll_seconds: float = 2.0) -> None:
        self._cloudformation = cloudformation
        self.name = name
        self._say = say
        self._poll_seconds = poll_seconds

    def describe(self, name: str = "") -> Mapping[str, Any]:
        """Return what CloudFormation says of the stack, or of another; empty if there is none."""
        try:
            found = self._cloudformation.describe_stacks(StackName=name or self.name)["Stacks"]
        except ClientError as error:
            if "does not exist" in str(error):
                return {}
            raise
        return dict(found[0])

    def check(self) -> str:
        """Return whether the stack is to be created, ``CREATE``, or changed, ``UPDATE``.

        Raises:
            StackError: it is half-deployed, or an operation is under way; the text has the way out.
        """
        status: str = self.describe().get("StackStatus", "")
        if status in ABSENT:
            return "CREATE"
        if status in WHOLE:
            return "UPDATE"
        if status.endswith("_IN_PROGRESS"):
            way_out = "another operation is under way: try again when it has ended"
        else:
            down = "an attempt has failed and left it half-made; `fedgrass deploy down --stack {}` removes it"
            way_out = _WAYS_OUT.get(status, down).format(self.name)
        message = f"the stack {self.name!r} is {status}: {way_out}"
        raise StackError(message)

    def is_under_way(self) -> bool:
        """Return whether AWS is changing the stack."""
        status: str = self.describe().get("StackStatus", "")
        return status.endswith("_IN_PROGRESS") and status not in ABSENT

    def apply(self, template_url: str, parameters: Sequence[Mapping[str, Any]], timeout: float) -> bool:
        """Create or change the stack; return False if there was nothing to change.

        What cannot be created is removed again, what cannot be changed is brought back.

        Raises:
            StackError: it was refused, or failed (the text names the resource and its reason), or is not
                done after ``timeout`` seconds.
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
        left = {
            "DELETE_COMPLETE": "nothing of it is left",
            "UPDATE_ROLLBACK_COMPLETE": "it is as it was before",
        }.get(status, f"it is {status} now: `fedgrass deploy down --stack {self.name}` removes it")
        message = f"stack {self.name!r} failed, and {left}. {self._first_failure(stack, seen)}"
        raise StackError(message)

    def preview(
        self, template_url: str, parameters: Sequence[Mapping[str, Any]], timeout: float
    ) -> list[str]:
        """Return a line per resource that ``apply`` would add, modify or remove; changes nothing.

        Raises:
            StackError: the changes were refused, or are not known after ``timeout`` seconds.
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
        self, change_set: str, template_url: str, parameters: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, str]:
        kind = self.check()
        wanted = {"TemplateURL": template_url, "Parameters": list(parameters), "Capabilities": CAPABILITIES}
        if kind == "CREATE":
            wanted["OnStackFailure"] = "DELETE"
        made: Mapping[str, str] = self._cloudformation.create_change_set(
            StackName=self.name, ChangeSetName=change_set, ChangeSetType=kind, **wanted
        )
        return made

    def _changes(self, change_set: str) -> Iterator[Mapping[str, Any]]:
        token: Mapping[str, str] | None = {}
        while token is not None:
            page = self._cloudformation.describe_change_set(ChangeSetName=change_set, **token)
            yield from page["Changes"]
            token = {"NextToken": page["NextToken"]} if page.get("NextToken") else None

    def delete(self, timeout: float) -> None:
        """Delete the stack. Raises StackError, which names the resources that could not be deleted."""
        stack = self.describe()["StackId"]
        seen = self._events(stack)
        self._cloudformation.delete_stack(StackName=self.name)
        status = self._follow(stack, {event["EventId"] for event in seen}, timeout)
        if status != "DELETE_COMPLETE":
            message = f"the stack {self.name!r} is {status}: {self._first_failure(stack, seen)}; mend that"
            message += " and run the same command again"
            raise StackError(message)

    def _has_changes(self, change_set: str, stack: str, timeout: float) -> bool:
        """Wait for a change set; return whether it changes anything. Raises StackError if it is refused."""
        deadline = time.monotonic() + timeout
        while (found := self._cloudformation.describe_change_set(ChangeSetName=change_set))[
            "Status"
        ] != "FAILED":
            if found["Status"] == "CREATE_COMPLETE":
                return True
            self._pause(deadline, f"the changes of stack {self.name!r} are still {found['Status']}", timeout)
        reason = found.get("StatusReason", "")
        if any(words in reason for words in _NO_CHANGES):
            return False
        why = self._failed_check(stack) or reason or "no reason given"
        message = f"the stack {self.name!r} was refused, and nothing is changed: {why}"
        raise StackError(message)

    def _follow(self, stack: str, seen: set[str], timeout: float) -> str:
        """Tell of each resource until the operation is over; return the stack's status then."""
        deadline = time.monotonic() + timeout
        while True:
            status: str = self.describe(stack)["StackStatus"]
            for event in reversed(self._events(stack)):
                if event["EventId"] not in seen:
                    seen.add(event["EventId"])
                    self._tell(event)
            if status in _OVER:
                return status
            self._pause(deadline, f"stack {self.name!r} is still {status}", timeout)

    def _pause(self, deadline: float, state: str, timeout: float) -> None:
        if time.monotonic() > deadline:
            message = f"{state} after {timeout:g} s; AWS goes on with it: look again by `aws cloudformation"
            message += f" describe-stacks --stack-name {self.name}`"
            raise StackError(message)
        time.sleep(self._poll_seconds)

    def _tell(self, event: Mapping[str, Any]) -> None:
        status = event.get("ResourceStatus", "")
        if not status.endswith("_IN_PROGRESS"):
            words = status.removesuffix("_COMPLETE").lower().replace("_", " ")
            reason = event.get("ResourceStatusReason", "") if status.endswith("_FAILED") else ""
            line = f"{words:>8}  {event['LogicalResourceId']} ({event['ResourceType']})  {reason}"
            self._say(line.rstrip())

    def _discard(self, change_set: str) -> None:
        """Remove a change set that was not executed, and the empty stack that CloudFormation made for it."""
        with suppress(ClientError):
            self._cloudformation.delete_change_set(StackName=self.name, ChangeSetName=change_set)
        with suppress(ClientError):
            if self.describe().get("StackStatus") != "REVIEW_IN_PROGRESS":
                return
            others = self._cloudformation.list_change_sets(StackName=self.name)["Summaries"]
            if not [one for one in others if one["ChangeSetName"] != change_set]:  # somebody else's, just now
                self._cloudformation.delete_stack(StackName=self.name)

    def _events(self, stack: str) -> list[Mapping[str, Any]]:
        """Return the stack's events, the newest first."""
        pages = self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
        return [event for page in pages for event in page["StackEvents"]]

    def _failed_check(self, stack: str) -> str:
        """Return what CloudFormation found before it did anything: it tells so through a call of its own."""
        with suppress(ClientError):
            pages = self._cloudformation.get_paginator("describe_events").paginate(StackName=stack)
            for check in (event for page in pages for event in page["OperationEvents"]):
                if check.get("ValidationStatus") == "FAILED":
                    return _told(check, check.get("ValidationStatusReason"))
        return ""

    def _first_failure(self, stack: str, before: Sequence[Mapping[str, Any]]) -> str:
        """Name the resource that failed first and its reason: later failures are mostly consequences."""
        old = {event["EventId"] for event in before}
        failed = [
            _told(event, event.get("ResourceStatusReason", ""))
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


def _told(event: Mapping[str, Any], reason: str | None) -> str:
    resource = f"{event.get('LogicalResourceId')} ({event.get('ResourceType')})"
    return f"{resource}: {reason or 'no reason given'}"
