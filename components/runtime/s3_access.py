"""S3 access on a device: which credentials are used, and which errors are transient.

On a core device, credentials come only from the token exchange service: static keys in the environment, files
in the home of the component's user and instance metadata are ignored. On a device without Greengrass, the
trainer has prepared the environment (components/trainer/connection/device_file.py).
"""

import http.client
import json
import os
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, RefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, unrelated to the built-in one
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
)

from components.runtime.token_exchange_address import ADDRESS, FROM_NUCLEUS, TOKEN
from fedgrass.federation.aws_errors import Remedy, remedy, suggests_wrong_clock

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SERVICE = "the token exchange service"
_ANSWER_SECONDS = 15.0  # the nucleus may have to ask AWS first
_LARGEST_ANSWER = 64 * 1024  # bytes
# Errors of AWS's SDK; botocore raises RuntimeError for refreshed credentials that have already expired.
AWS_ERRORS = (BotoCoreError, ClientError, Boto3Error, RuntimeError)
# Sources of these settings of botocore's session: no file and no variable, only this default.
_NO_FILES = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
_TRANSIENT = (ConnectionError, HTTPClientError, IncompleteReadError)  # network errors
_STILL_EXPIRED = "refreshed credentials are still expired"


def make_s3_client(config: Config) -> "S3Client":
    """Return an S3 client with the device's credentials."""
    if FROM_NUCLEUS not in os.environ:
        return boto3.client("s3", config=config)
    session = botocore.session.Session(session_vars=_NO_FILES)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        session.set_config_variable("region", region)
    session.register_component("credential_provider", CredentialResolver([_TokenExchange()]))
    return boto3.Session(botocore_session=session).client("s3", config=config)


def remedy_of(error: Exception) -> Remedy:
    """Return what to do about an error of AWS's SDK: retry, renew credentials or give up."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        return remedy(code, error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if isinstance(error, CredentialRetrievalError) or _STILL_EXPIRED in str(error):
        return Remedy.RENEW_CREDENTIALS
    return Remedy.RETRY if isinstance(error, _TRANSIENT) else Remedy.GIVE_UP


def describe(error: Exception) -> str:
    """Return the text of an error, with a hint if a wrong clock may be the cause."""
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    clock = suggests_wrong_clock(str(code)) or _STILL_EXPIRED in str(error)
    return f"{error} (is this device's clock right?)" if clock else str(error)


class _TokenExchange(CredentialProvider):
    """Credentials of the token exchange service, requested for each client and before they expire."""

    METHOD = "greengrass-token-exchange"

    def load(self) -> RefreshableCredentials:
        """Return credentials that are refreshed automatically.

        Raises:
            CredentialRetrievalError: the service did not return credentials.
        """
        return RefreshableCredentials.create_from_metadata(
            _credentials(), refresh_using=_credentials, method=self.METHOD
        )


def _credentials() -> dict[str, str]:
    """Request credentials at the current address: a restarted service has another port."""
    address = os.environ.get(ADDRESS, "")
    if not address:
        reason = "its address is unknown: does the recipe depend on it, and is it running?"
        raise _refusal(reason)
    try:
        found = json.loads(_get(address))
        # Python 3.10 cannot parse "Z".
        expiry = datetime.fromisoformat(str(found["Expiration"]).replace("Z", "+00:00"))
        return {
            "access_key": str(found["AccessKeyId"]),
            "secret_key": str(found["SecretAccessKey"]),
            "token": str(found["Token"]),
            "expiry_time": (expiry if expiry.tzinfo else expiry.replace(tzinfo=timezone.utc)).isoformat(),
        }
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        reason = f"{address}: {error!r}"
        raise _refusal(reason) from error


def _get(address: str) -> bytes:
    """Return the body at a URL, ignoring proxies of the environment."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=_ANSWER_SECONDS)
    try:
        token = os.environ.get(TOKEN) or os.environ[FROM_NUCLEUS]
        connection.request("GET", url.path, headers={"Authorization": token, "Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(_LARGEST_ANSWER)
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        message = f"HTTP {response.status} {body[:200].decode(errors='replace')}"
        raise http.client.HTTPException(message)
    return body


def _refusal(reason: str) -> CredentialRetrievalError:
    return CredentialRetrievalError(provider=_SERVICE, error_msg=reason)
