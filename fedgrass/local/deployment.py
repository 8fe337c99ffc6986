"""Deploys a SAM template with CloudFormation, as `sam package` and `sam deploy` would.

Nothing here knows that the cloud is an emulator: local files are uploaded to a bucket, the template is
rewritten to point at them, CloudFormation does the rest.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError
from samtranslator.yaml_helper import yaml_parse

from fedgrass.local.errors import DeploymentError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import (
        OperationEventTypeDef,
        StackEventTypeDef,
        StackTypeDef,
    )
    from mypy_boto3_s3 import S3Client

POLL_SECONDS = 0.1
# CloudFormation reports these of every resource that it gave up because another one had failed.
CONSEQUENCES = ("Resource creation cancelled", "Resource creation canceled")


@dataclass(frozen=True)
class Deployment:
    """Deploys templates; what they refer to is uploaded to `bucket`, which is made if it does not exist."""

    s3: S3Client
    cloudformation: CloudFormationClient
    endpoint_url: str
    bucket: str

    def deploy(
        self, stack: str, template: Path, lambda_zip: Path, parameters: Mapping[str, str], timeout: float
    ) -> dict[str, str]:
        """Create `stack` and return its outputs by key.

        Every function whose CodeUri is local gets the code of `lambda_zip`; every local `AWS::Include` is
        uploaded. Raises DeploymentError: unreadable file, refused template, failed resource, or not finished
        after `timeout` seconds.
        """
        try:
            self.s3.create_bucket(Bucket=self.bucket)
            packaged = self._package(template, lambda_zip)
            self.cloudformation.create_stack(
                StackName=stack,
                TemplateURL=f"{self.endpoint_url}/{self.bucket}/{packaged}",
                Parameters=[{"ParameterKey": key, "ParameterValue": parameters[key]} for key in parameters],
                Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
            )
            finished = self._wait(stack, timeout)
        except (ClientError, BotoCoreError) as exc:
            message = f"stack {stack!r} from {template} was refused: {exc}"
            raise DeploymentError(message) from exc
        return {output["OutputKey"]: output["OutputValue"] for output in finished.get("Outputs", [])}

    def _package(self, template: Path, lambda_zip: Path) -> str:
        """Upload what the template refers to, then the template; return the template's key."""
        document = read_template(template)
        code = f"s3://{self.bucket}/{self._upload(lambda_zip, 'the Lambda zip (built by package.py)')}"
        for properties in _function_properties(document):
            if _is_local(properties.get("CodeUri")):
                properties["CodeUri"] = code
        for include in _includes(document):
            if _is_local(include.get("Location")):
                snippet = template.parent / include["Location"]
                key = self._upload(snippet, f"included by {template}")
                include["Location"] = f"s3://{self.bucket}/{key}"
        return self._put(json.dumps(document, default=str).encode(), ".template.json")

    def _upload(self, path: Path, role: str) -> str:
        try:
            return self._put(path.read_bytes(), path.suffix)
        except OSError as exc:
            message = f"{path}: {role}, cannot be read: {exc.strerror}"
            raise DeploymentError(message) from exc

    def _put(self, body: bytes, suffix: str) -> str:
        """Store `body` under its own hash, so that the same file is never uploaded under two names."""
        key = hashlib.sha256(body).hexdigest() + suffix
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        return key

    def _wait(self, stack: str, timeout: float) -> StackTypeDef:
        """Return the finished stack; boto3's waiter would ask every 30 s."""
        deadline = time.monotonic() + timeout
        while True:
            description = self.cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
            status = description["StackStatus"]
            if status == "CREATE_COMPLETE":
                return description
            if status.endswith(("_FAILED", "ROLLBACK_COMPLETE")):
                message = f"stack {stack!r} failed ({status}): {self._first_failure(stack)}"
                raise DeploymentError(message)
            if time.monotonic() > deadline:
                message = f"stack {stack!r} is still {status} after {timeout:g} s"
                raise DeploymentError(message)
            time.sleep(POLL_SECONDS)

    def _first_failure(self, stack: str) -> str:
        """Name the resource that failed first and its reason: later failures are mostly consequences."""
        # CloudFormation tells what it finds before it creates anything through another call than the rest.
        checks = self.cloudformation.get_paginator("describe_events").paginate(StackName=stack)
        for check in (event for page in checks for event in page["OperationEvents"]):
            if check.get("ValidationStatus") == "FAILED":
                return _told(check, check.get("ValidationStatusReason"))
        pages = self.cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
        newest_first = [event for page in pages for event in page["StackEvents"]]
        for event in reversed(newest_first):
            reason = event.get("ResourceStatusReason", "")
            if event.get("ResourceStatus", "").endswith("_FAILED") and reason not in CONSEQUENCES:
                return _told(event, reason)
        return "the stack's events name no failed resource"


def _told(event: OperationEventTypeDef | StackEventTypeDef, reason: str | None) -> str:
    resource = f"{event.get('LogicalResourceId')} ({event.get('ResourceType')})"
    return f"{resource}: {reason or 'no reason given'}"


def read_template(template: Path) -> dict[str, Any]:
    """Read a CloudFormation template, its short forms (`!Sub`) spelled out. Raises DeploymentError."""
    try:
        document = yaml_parse(template.read_text(encoding="utf-8"))
    except OSError as exc:
        message = f"{template}: the template cannot be read: {exc.strerror}"
        raise DeploymentError(message) from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        message = f"{template}: the template is not valid YAML: {exc}"
        raise DeploymentError(message) from exc
    if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
        message = f"{template}: the template has no Resources"
        raise DeploymentError(message)
    return document


def _function_properties(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the properties of every function, and those that Globals gives to all."""
    functions = [
        resource.setdefault("Properties", {})
        for resource in document["Resources"].values()
        if isinstance(resource, dict) and resource.get("Type") == "AWS::Serverless::Function"
    ]
    shared = (document.get("Globals") or {}).get("Function")
    return [*functions, shared] if isinstance(shared, dict) else functions


def _includes(node: object) -> list[dict[str, Any]]:
    """Return the parameters of every `Fn::Transform: {Name: AWS::Include}` below `node`."""
    if isinstance(node, list):
        return [found for item in node for found in _includes(item)]
    if not isinstance(node, dict):
        return []
    found = [include for value in node.values() for include in _includes(value)]
    transform = node.get("Fn::Transform")
    if isinstance(transform, dict) and transform.get("Name") == "AWS::Include":
        found.append(transform.setdefault("Parameters", {}))
    return found


def _is_local(location: object) -> bool:
    return isinstance(location, str) and not location.startswith(("s3://", "https://"))
