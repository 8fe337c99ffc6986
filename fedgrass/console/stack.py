"""The deployed stack that the operator's commands work on: its outputs, and AWS's clients for it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeGuard

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.parsers import ResponseParserError

from fedgrass.federation.errors import FedgrassError

_CONFIG = Config(connect_timeout=10, read_timeout=70, retries={"mode": "standard", "total_max_attempts": 3})


class StackError(FedgrassError):
    """The stack cannot be reached, or is none of fedgrass."""


class ForeignAnswer(BotoCoreError):
    """Something other than AWS has answered: a proxy's page, a service that happens to listen there."""

    fmt = "{endpoint} answered {operation} with {what}, which is not an answer of AWS: is there a proxy?"


class _Checked:
    """Base of all clients: an answer that AWS cannot have given is an error of the request.

    botocore reads whatever comes with status 200, so that a proxy's page becomes a KeyError in its parser or
    in the code that uses the answer. Every service of AWS gives each answer a request id.
    """

    meta: Any

    def _make_api_call(self, operation: str, arguments: Any) -> Any:
        make: Any = super()
        try:
            answer = make._make_api_call(operation, arguments)  # noqa: SLF001  # botocore's hook for subclasses
        except (BotoCoreError, ClientError):
            raise
        except (
            ResponseParserError,
            LookupError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise self._foreign(operation, "something that cannot be read") from error
        if not answer.get("ResponseMetadata", {}).get("RequestId"):
            raise self._foreign(operation, "something that has no request id")
        return answer

    def _foreign(self, operation: str, what: str) -> ForeignAnswer:
        return ForeignAnswer(endpoint=self.meta.endpoint_url, operation=operation, what=what)


def _add_checks(base_classes: list[type], **_: Any) -> None:
    base_classes.insert(0, _Checked)


@contextmanager
def refusals() -> Iterator[None]:
    """Tell what AWS refuses, or that it cannot be reached, as a StackError with AWS's reason."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        if _is_unknown_here(error):
            message = f"the cloud on this machine ({os.environ['AWS_ENDPOINT_URL']}) knows no such call:"
            message += f" {error.operation_name}. It has no Greengrass and no role aliases:"
            message += (
                " use an AWS account, or `fedgrass demo` and `fedgrass core run` for devices on this machine"
            )
            raise StackError(message) from error
        message = f"AWS did not do it: {_reason(error)}"
        raise StackError(message) from error


def _is_unknown_here(error: BotoCoreError | ClientError) -> TypeGuard[ClientError]:
    """Return whether an emulator refuses a call that it does not have, mostly without a message."""
    if not isinstance(error, ClientError):
        return False
    missing = not error.response.get("Error", {}).get("Message") or error.operation_name.endswith("RoleAlias")
    return missing and bool(_hint(error))


@cache
def client(service: str) -> Any:
    """Return the client of an AWS service, with the credentials and region that the environment names."""
    try:
        # boto3 itself knows AWS_DEFAULT_REGION alone; all of AWS's other tools know this one, and prefer it.
        session: Any = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
        session.events.register("creating-client-class", _add_checks)
        return session.client(service, config=_CONFIG)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        reason = str(error).rstrip(".")
        advice = _hint(error) or " Set AWS_PROFILE, or AWS_REGION and credentials"
        message = f"AWS cannot be used: {reason}.{advice}"
        raise StackError(message) from error


def _reason(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, NoCredentialsError):
        return "it needs credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return f"{error}{_hint(error) or _doubt(error)}"


def _doubt(error: BotoCoreError | ClientError) -> str:
    """Return the likely cause if the one who refused was not AWS: its refusals have a request id too."""
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    if "HTTPHeaders" in metadata and not metadata.get("RequestId"):
        return " (the answer has no request id, so it is not from AWS: is there a proxy?)"
    return ""


def _hint(error: Exception) -> str:
    """Return what may be wrong if the environment names an endpoint of this machine."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if "//127.0.0.1:" not in endpoint:
        return ""
    if isinstance(error, ClientError):  # somebody has answered
        return f" (asked was not AWS but a demo's cloud: AWS_ENDPOINT_URL is {endpoint})"
    return f" (AWS_ENDPOINT_URL is {endpoint}, a demo's cloud: is that demo still up?)"


class _Outputs(dict[str, str]):
    """Outputs of a stack; one that is missing is an error of the stack, not of the program."""

    def __missing__(self, name: str) -> str:
        message = f"the stack has no output {name}: `fedgrass deploy cloud` brings it up to this version"
        raise StackError(message)


def outputs(stack: str) -> Mapping[str, str]:
    """Return the outputs of a deployed stack.

    Raises:
        StackError: there is no such stack, it has none of fedgrass's outputs, or AWS refused.
    """
    formation = client("cloudformation")
    try:
        described = formation.describe_stacks(StackName=stack)["Stacks"][0]
    except (BotoCoreError, ClientError) as error:
        # The wrong region, or another name, is the likeliest mistake: both are said.
        message = f"the stack {stack!r} in {formation.meta.region_name} cannot be read: {_reason(error)}"
        raise StackError(message) from error
    found = _Outputs({output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])})
    if "InitiatorName" not in found:
        message = f"the stack {stack!r} is none of fedgrass: it has no output InitiatorName"
        raise StackError(message)
    return found
