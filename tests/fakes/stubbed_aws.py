"""AWS clients with scripted responses, checked against the service model by botocore's Stubber.

For the services that the embedded cloud does not have (GreengrassV2), or has not in this state.
"""

from collections.abc import Mapping
from typing import Any

import boto3
import botocore.session
from botocore.loaders import Loader
from botocore.stub import Stubber

ACCOUNT = "123456789012"
REGION = "eu-west-1"
# The service models are megabytes of JSON: a shared loader reads each once.
MODELS = Loader()
NOBODY = "arn:aws:iam::123456789012:user/operator"


class StubbedAws:
    """Clients whose calls must have the order and the arguments that a test expects."""

    def __init__(self) -> None:
        session = botocore.session.get_session()
        session.register_component("data_loader", MODELS)
        self._session = boto3.Session(
            botocore_session=session,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",  # noqa: S106 - no request is sent
            region_name=REGION,
        )
        self._clients: dict[str, Any] = {}
        self._stubbers: dict[str, Stubber] = {}

    def client(self, service: str) -> Any:
        """Return the stubbed client of a service."""
        if service not in self._clients:
            make: Any = self._session.client
            self._clients[service] = make(service)
            self._stubbers[service] = Stubber(self._clients[service])
            self._stubbers[service].activate()
        return self._clients[service]

    def expect(self, service: str, operation: str, answer: Mapping[str, Any], **arguments: Any) -> None:
        """Expect a call; ``botocore.stub.ANY`` matches any argument."""
        self.client(service)
        self._stubbers[service].add_response(operation, dict(answer), arguments or None)

    def refuse(self, service: str, operation: str, code: str, message: str = "no", **arguments: Any) -> None:
        """Expect a call, and answer it with an error."""
        self.client(service)
        self._stubbers[service].add_client_error(operation, code, message, expected_params=arguments or None)

    def expect_account(self, account: str = ACCOUNT) -> None:
        """Expect a call for the caller's identity."""
        identity = {"Account": account, "Arn": f"arn:aws:iam::{account}:user/operator", "UserId": "U"}
        self.expect("sts", "get_caller_identity", identity)

    def all_came(self) -> None:
        """Check that every expected call was made."""
        for stubber in self._stubbers.values():
            stubber.assert_no_pending_responses()
