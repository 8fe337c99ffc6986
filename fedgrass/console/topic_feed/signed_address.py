"""Where AWS IoT Core serves MQTT over WebSockets, with a signature by the operator's credentials.

The embedded cloud serves the same at the port of its AWS API, and checks the signature as AWS does.
"""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from fedgrass.console import stack

_SERVICE = "iotdevicegateway"
_PATH = "/mqtt"
_VALID_SECONDS = 120  # of a signature: it is used at once, and each connection gets a new one
_HTTPS_PORT = 443


@dataclass(frozen=True)
class SignedAddress:
    """One connection's address; the signature in ``path`` expires within minutes."""

    host: str
    port: int
    has_tls: bool
    host_header: str
    """The name that was signed, which differs from ``host`` in the embedded cloud."""
    path: str


def signed_address(profile: str = "", region: str = "") -> SignedAddress:
    """Return the address of a stack's MQTT broker, signed now.

    Args:
        profile: profile of the AWS CLI with the credentials; empty: those of the environment.
        region: AWS region; empty: that of the environment or of the profile.

    Raises:
        StackError: there are no credentials.
        botocore's errors: AWS refused to name its endpoint, or could not be reached.
    """
    iot = stack.client("iot", profile, region)
    endpoint = iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"]
    gateway = urlsplit(iot.meta.endpoint_url)
    credentials = stack.credentials(profile, region)
    if gateway.scheme == "http":  # the embedded cloud: its API and its broker share a port
        path = sign(endpoint, credentials, iot.meta.region_name, has_tls=False)
        host, port = gateway.hostname or "", gateway.port or 80
        return SignedAddress(host, port, has_tls=False, host_header=endpoint, path=path)
    path = sign(endpoint, credentials, iot.meta.region_name)
    return SignedAddress(endpoint, _HTTPS_PORT, has_tls=True, host_header=endpoint, path=path)


def sign(host: str, credentials: ReadOnlyCredentials, region: str, *, has_tls: bool = True) -> str:
    """Return the path of a WebSocket upgrade with the query that authenticates it (Signature Version 4).

    AWS IoT expects the session token of temporary credentials after the signature, which does not cover it.
    """
    request = AWSRequest(method="GET", url=f"{'https' if has_tls else 'http'}://{host}{_PATH}")
    unnamed = ReadOnlyCredentials(credentials.access_key, credentials.secret_key, None)
    SigV4QueryAuth(unnamed, _SERVICE, region, expires=_VALID_SECONDS).add_auth(request)
    address = urlsplit(str(request.url))
    token = f"&X-Amz-Security-Token={quote(credentials.token, safe='')}" if credentials.token else ""
    return f"{address.path}?{address.query}{token}"
