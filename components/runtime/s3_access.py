"""S3 access on a device: which credentials are used, and which errors are transient.

On a core device credentials come from the token exchange service only: static keys in the environment,
files in the home of the component's user and a server's metadata are ignored. On a device without
Greengrass the trainer has prepared the environment (components/trainer/connection/device_file.py).
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
    ConnectionError,  # noqa: A004  # botocore's own, which is no OSError
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
)

from components.runtime.token_exchange_address import ADDRESS, FROM_NUCLEUS, TOKEN
from fedgrass.federation.aws_errors import Remedy, remedy, suggests_wrong_clock

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SERVICE = "the token exchange service"
ANSWER_SECONDS = 15.0  # the nucleus may have to ask AWS first
LARGEST_ANSWER = 64 * 1024  # bytes
# What a call of AWS's SDK may raise; RuntimeError is botocore's for credentials that ended before they came.
AWS_ERRORS = (BotoCoreError, ClientError, Boto3Error, RuntimeError)
# Where botocore's session finds these settings: in no file, in no variable, only as this default.
_NO_FILES = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
_TRANSIENT = (ConnectionError, HTTPClientError, IncompleteReadError)  # of the way to AWS
_STILL_EXPIRED = "refreshed credentials are still expired"


def make_s3_client(config: Config) -> "S3Client":
    """Return a client of S3 with the device's own credentials."""
    if FROM_NUCLEUS not in os.environ:
        return boto3.client("s3", config=config)
    session = botocore.session.Session(session_vars=_NO_FILES)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        session.set_config_variable("region", region)
    session.register_component("credential_provider", CredentialResolver([_TokenExchange()]))
    return boto3.Session(botocore_session=session).client("s3", config=config)


def remedy_of(error: Exception) -> Remedy:
    """Return what helps against an error that a call of AWS's SDK raised."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        return remedy(code, error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if isinstance(error, CredentialRetrievalError) or _STILL_EXPIRED in str(error):
        return Remedy.RENEW_CREDENTIALS
    return Remedy.RETRY if isinstance(error, _TRANSIENT) else Remedy.GIVE_UP


def describe(error: Exception) -> str:
    """Return an error's text, with a hint where a clock that is wrong may be the reason."""
    code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
    clock = suggests_wrong_clock(str(code)) or _STILL_EXPIRED in str(error)
    return f"{error} (is this device's clock right?)" if clock else str(error)


class _TokenExchange(CredentialProvider):
    """The token exchange service, asked anew before credentials end and at each new client."""

    METHOD = "greengrass-token-exchange"

    def load(self) -> RefreshableCredentials:
        """Return credentials that renew themselves; raises CredentialRetrievalError."""
        return RefreshableCredentials.create_from_metadata(
            _credentials(), refresh_using=_credentials, method=self.METHOD
        )


def _credentials() -> dict[str, str]:
    """Ask for credentials, at the address that holds now: a service that was restarted has another port."""
    address = os.environ.get(ADDRESS, "")
    if not address:
        reason = "its address is not known yet: does the recipe depend on it, and does it run?"
        raise _refusal(reason)
    try:
        found = json.loads(_get(address))
        # Python 3.10 reads no "Z".
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
    """Return the body at a URL; no proxy is asked, whatever the environment names."""
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=ANSWER_SECONDS)
    try:
        token = os.environ.get(TOKEN) or os.environ[FROM_NUCLEUS]
        connection.request("GET", url.path, headers={"Authorization": token, "Accept": "application/json"})
        response = connection.getresponse()
        body = response.read(LARGEST_ANSWER)
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        message = f"HTTP {response.status} {body[:200].decode(errors='replace')}"
        raise http.client.HTTPException(message)
    return body


def _refusal(reason: str) -> CredentialRetrievalError:
    return CredentialRetrievalError(provider=SERVICE, error_msg=reason)
