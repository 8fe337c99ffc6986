"""Access to the deployed stack: its outputs, AWS clients, and AWS errors as one-line messages."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, TypeGuard, cast

import boto3
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from fedgrass.console.aws_clients import Clients
from fedgrass.federation.aws_errors import is_transient
from fedgrass.federation.errors import FedgrassError, SettingsError

_CONFIG = Config(connect_timeout=10, read_timeout=70, retries={"mode": "standard", "total_max_attempts": 3})

_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "ExpiredSignature"}
)
_INVALID = frozenset(
    {
        *("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "InvalidToken"),
        *("SignatureDoesNotMatch", "InvalidSignatureException", "AuthFailure"),
    }
)


class StackError(FedgrassError):
    """The stack cannot be reached, or was not deployed by fedgrass."""


class ForeignAnswer(BotoCoreError):
    """The response did not come from AWS, but from a proxy or another service at that address."""

    fmt = "{endpoint} returned {what} to {operation}, so it is not AWS: is there a proxy?"


class _Checked:
    """Base class of all clients: raise ForeignAnswer for a response that AWS cannot have sent.

    botocore parses any response with status 200, so that a proxy's page would become a KeyError in its parser
    or in the code that uses the response. Every response of an AWS service has a request id.
    """

    meta: Any

    def _make_api_call(self, operation: str, arguments: Any) -> Any:
        make: Any = super()
        try:
            answer = make._make_api_call(operation, arguments)  # noqa: SLF001 - botocore's hook for subclasses
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
            raise self._foreign(operation, "an unreadable response") from error
        if not answer.get("ResponseMetadata", {}).get("RequestId"):
            raise self._foreign(operation, "a response without a request id")
        return answer

    def _foreign(self, operation: str, what: str) -> ForeignAnswer:
        return ForeignAnswer(endpoint=self.meta.endpoint_url, operation=operation, what=what)


def _add_checks(base_classes: list[type], **_: Any) -> None:
    base_classes.insert(0, _Checked)


@contextmanager
def refusals() -> Iterator[None]:
    """Raise refusals of AWS and connection errors as StackError, with the reason that AWS gave."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        if _is_unknown_here(error):
            message = (
                f"the local cloud at {os.environ['AWS_ENDPOINT_URL']} does not support {error.operation_name}"
                " (it has neither Greengrass nor role aliases): use an AWS account, or `fedgrass demo` and"
                " `fedgrass core run` for devices on this machine"
            )
            raise StackError(message) from error
        message = f"AWS refused the request or could not be reached: {_reason(error)}"
        raise StackError(message) from error


def is_passing(error: BaseException) -> bool:
    """Return whether the same request to AWS may succeed later: no connection, or AWS is busy."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return is_transient(str(error.response.get("Error", {}).get("Code", "")), status)
    return isinstance(error, HTTPClientError | BotoConnectionError)


def is_missing(error: BaseException) -> bool:
    """Return whether AWS refused a request because what it names does not exist."""
    code = str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""
    return code == "404" or "NotFound" in code or code.startswith("NoSuch")


def is_aws_error(error: BaseException) -> bool:
    """Return whether AWS refused a request or could not be reached."""
    return isinstance(error, BotoCoreError | ClientError | StackError)


def _is_unknown_here(error: BotoCoreError | ClientError) -> TypeGuard[ClientError]:
    """Return whether a local cloud refused an unsupported call, which it does mostly without a message."""
    if not isinstance(error, ClientError):
        return False
    missing = not error.response.get("Error", {}).get("Message") or error.operation_name.endswith("RoleAlias")
    return missing and bool(_hint(error))


@cache
def client(service: str, profile: str = "", region: str = "") -> Any:
    """Return the boto3 client of an AWS service.

    Args:
        service: such as ``s3``.
        profile: profile of the AWS CLI with the credentials; empty: those of the environment.
        region: AWS region; empty: that of the environment or of the profile.
    """
    try:
        session = _session(profile, region)
        session.events.register("creating-client-class", _add_checks)
        return session.client(service, config=_CONFIG)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is not a URL
        reason = str(error).rstrip(".")
        advice = _hint(error) or (
            " Set AWS_PROFILE, or AWS_REGION and credentials; for the cloud of a demo, paste the export line"
            " that `fedgrass demo --keep` printed"
        )
        message = f"AWS cannot be used: {reason}.{advice}"
        raise StackError(message) from error


def _session(profile: str, region: str) -> Any:
    # boto3 reads AWS_DEFAULT_REGION only; all other AWS tools read AWS_REGION too, and prefer it.
    return boto3.Session(
        profile_name=profile or None, region_name=region or os.environ.get("AWS_REGION") or None
    )


def credentials(profile: str = "", region: str = "") -> ReadOnlyCredentials:
    """Return the operator's current credentials, to sign what boto3 has no client for.

    Args:
        profile: profile of the AWS CLI; empty: the credentials of the environment.
        region: AWS region, to which a profile's role may be asked for credentials.

    Raises:
        StackError: there are none.
    """
    try:
        found = _session(profile, region).get_credentials()
        if found is None:
            raise NoCredentialsError
        return found.get_frozen_credentials()  # type: ignore[no-any-return]
    except BotoCoreError as error:
        message = f"AWS cannot be used: {_reason(error)}"
        raise StackError(message) from error


def clients_of(profile: str, region: str) -> Clients:
    """Return the clients for a profile and a region, where one process uses several stacks."""
    return cast("Clients", partial(client, profile=profile, region=region))


def _reason(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, NoCredentialsError):
        return "it needs credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return f"{error}{_renewal(error) or _hint(error) or _doubt(error)}"


def _renewal(error: BotoCoreError | ClientError) -> str:
    """Return how to renew credentials if they have expired, or are not (or no longer) valid."""
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    if code in _EXPIRED or isinstance(error, TokenRetrievalError | UnauthorizedSSOTokenError):
        return ": the credentials have expired: log in again (`aws sso login`), or set new ones"
    if code in _INVALID and "//127.0.0.1:" not in os.environ.get("AWS_ENDPOINT_URL", ""):
        return ": the credentials are not valid: choose others by --profile or AWS_PROFILE"
    return ""


def _doubt(error: BotoCoreError | ClientError) -> str:
    """Return a hint if the refusal did not come from AWS, whose refusals have a request id."""
    metadata = error.response.get("ResponseMetadata", {}) if isinstance(error, ClientError) else {}
    if "HTTPHeaders" in metadata and not metadata.get("RequestId"):
        return " (the response has no request id, so it is not from AWS: is there a proxy?)"
    return ""


def _hint(error: Exception) -> str:
    """Return a hint if AWS_ENDPOINT_URL is set to a demo's cloud on this machine."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if "//127.0.0.1:" not in endpoint:
        return ""
    if isinstance(error, ClientError) and "security token" not in str(error):  # the endpoint responded
        return f" (AWS_ENDPOINT_URL is {endpoint}, the cloud of a demo, not AWS)"
    return (
        f" (AWS_ENDPOINT_URL is {endpoint}, the cloud of a demo: is it still running? One that was started"
        " again has printed a new export line)"
    )


def caller(clients: Clients, expected: str = "") -> tuple[str, str]:
    """Return the account and the ARN of the credentials.

    Args:
        clients: returns the boto3 client of a service.
        expected: the account that they should belong to; empty: any.

    Raises:
        SettingsError: they belong to another account.
    """
    identity = clients("sts").get_caller_identity()
    account, arn = identity["Account"], identity["Arn"]
    if expected and expected != account:
        message = f"the credentials belong to account {account} ({arn}), and --account is {expected}: choose"
        message += " other credentials by AWS_PROFILE"
        raise SettingsError(message)
    return account, arn


class _Outputs(dict[str, str]):
    """Outputs of a stack; raises StackError for one that is missing."""

    def __missing__(self, name: str) -> str:
        message = f"the stack has no output {name}: update it with `fedgrass deploy cloud`"
        raise StackError(message)


def outputs(stack: str, clients: Clients | None = None) -> Mapping[str, str]:
    """Return the outputs of a deployed stack.

    Args:
        stack: its name.
        clients: returns the boto3 client of a service (those of the environment).

    Raises:
        StackError: the stack does not exist, was not deployed by fedgrass, or AWS refused the request.
    """
    formation = (clients or client)("cloudformation")
    try:
        described = formation.describe_stacks(StackName=stack)["Stacks"][0]
    except (BotoCoreError, ClientError) as error:
        # The likeliest mistakes are a wrong region and a wrong name, so the message has both.
        message = f"the stack {stack!r} in {formation.meta.region_name} cannot be read: {_reason(error)}"
        if isinstance(error, ClientError) and "does not exist" in str(error):
            message += (
                "; name it by --stack and its region by --region, or deploy it: `fedgrass deploy cloud`"
            )
        raise StackError(message) from error
    found = outputs_of(described)
    if "InitiatorName" not in found:
        message = f"the stack {stack!r} was not deployed by fedgrass: it has no output InitiatorName"
        raise StackError(message)
    return found


def outputs_of(described: Mapping[str, Any]) -> dict[str, str]:
    """Return the outputs of a stack as CloudFormation describes it; a missing one raises StackError."""
    return _Outputs({output["OutputKey"]: output["OutputValue"] for output in described.get("Outputs", [])})
