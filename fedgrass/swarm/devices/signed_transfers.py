"""S3 for thousands of devices: one HTTP client, each request signed with its device's own credentials.

A boto3 session per device would take megabytes and milliseconds each; botocore's signer alone takes a third
of a millisecond. The credentials come from the AWS IoT credentials provider, by the device's certificate.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from yarl import URL

from fedgrass.swarm.swarm_errors import TransferError
from fedgrass.swarm.swarm_spec import CloudAddress

_RENEW_BEFORE: Final = timedelta(minutes=5)
_SECONDS: Final = 60.0  # of a request
_CONNECTIONS: Final = 64  # to S3
_AT_ONCE: Final = 16  # requests for credentials, each with a TLS handshake
_LONGEST_SHOWN: Final = 200  # characters of a refusal


@dataclass
class DeviceCredentials:
    """The temporary credentials of one device."""

    keys: Credentials
    expires: datetime

    @property
    def usable(self) -> bool:
        """Whether they are valid for some more minutes."""
        return datetime.now(UTC) < self.expires - _RENEW_BEFORE


class Transfers:
    """The HTTP client of one process; a context manager.

    Args:
        address: of the cloud.
    """

    def __init__(self, address: CloudAddress) -> None:
        self._address = address
        self._http: Any = None
        self._providers: Any = None
        self._asking = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        """Open the client."""
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS), timeout=timeout, trust_env=False
        )
        # Each certificate needs a separate connection, which is not used again.
        self._providers = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=timeout, trust_env=False
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client."""
        await self._http.close()
        await self._providers.close()

    async def credentials(self, thing: str, tls: ssl.SSLContext) -> DeviceCredentials:
        """Return new credentials for the thing whose certificate ``tls`` presents. Raises TransferError."""
        address = self._address
        url = f"https://{address.credentials_endpoint}/role-aliases/{address.role_alias}/credentials"
        headers = {"x-amzn-iot-thingname": thing}
        try:
            async with self._asking, self._providers.get(url, headers=headers, ssl=tls) as answer:
                body = await answer.read()
                if answer.status != HTTPStatus.OK:
                    raise TransferError(
                        _refusal(f"{url} refuses credentials to {thing}", answer.status, body)
                    )
                return _read_credentials(await answer.json(content_type=None), url)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            message = f"{url} gives {thing} no credentials: {error or type(error).__name__}"
            raise TransferError(message) from error

    async def put(self, bucket: str, key: str, body: bytes, keys: Credentials) -> None:
        """Upload an object. Raises TransferError."""
        await self._request("PUT", bucket, key, body, keys)

    async def get(self, bucket: str, key: str, keys: Credentials) -> bytes:
        """Download an object. Raises TransferError."""
        return await self._request("GET", bucket, key, b"", keys)

    async def _request(self, method: str, bucket: str, key: str, body: bytes, keys: Credentials) -> bytes:
        url = object_url(self._address, bucket, key)
        headers = signed_headers(method, url, body, keys, self._address.region)
        try:
            async with self._http.request(
                method, URL(url, encoded=True), data=body or None, headers=headers
            ) as answer:
                found: bytes = await answer.read()
                if answer.status != HTTPStatus.OK:
                    raise TransferError(_refusal(f"S3 refuses {method} of {key}", answer.status, found))
                return found
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"{method} of {key} failed: {error or type(error).__name__}"
            raise TransferError(message) from error


def object_url(address: CloudAddress, bucket: str, key: str) -> str:
    """Return the URL of an object, percent-encoded as the signature needs it."""
    path = quote(key, safe="/-_.~")
    if address.s3_url:
        return f"{address.s3_url}/{bucket}/{path}"
    ending = "amazonaws.com.cn" if address.region.startswith("cn-") else "amazonaws.com"
    return f"https://{bucket}.s3.{address.region}.{ending}/{path}"


def signed_headers(method: str, url: str, body: bytes, keys: Credentials, region: str) -> dict[str, str]:
    """Return the headers of a request to S3 with its signature (Signature Version 4)."""
    request = AWSRequest(method, url, data=body or None)
    S3SigV4Auth(keys, "s3", region).add_auth(request)
    return {str(name): str(value) for name, value in request.headers.items()}


def _read_credentials(answer: Mapping[str, Any], url: str) -> DeviceCredentials:
    try:
        found = answer["credentials"]
        keys = Credentials(found["accessKeyId"], found["secretAccessKey"], found["sessionToken"])
        return DeviceCredentials(keys, datetime.fromisoformat(found["expiration"]).astimezone(UTC))
    except (KeyError, TypeError, ValueError) as error:
        message = f"the answer of {url} has no credentials: {error!r}"
        raise TransferError(message) from error


def _refusal(what: str, status: int, body: bytes) -> str:
    return f"{what}: HTTP {status} {body[:_LONGEST_SHOWN].decode(errors='replace')}".strip()
