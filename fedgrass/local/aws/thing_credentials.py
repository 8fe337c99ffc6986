"""Temporary AWS credentials for the certificate of a thing: an emulated AWS IoT credentials provider.

The credentials are those of the device role, with the thing's name in place of the role's policy variables.
"""

import asyncio
import hashlib
import ipaddress
import json
import logging
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from greengrass_emulator.json_server import Answer, JsonServer

_HOST: Final = "localhost"
_VALID_DAYS: Final = 30
_NAMES: Final = {
    "AccessKeyId": "accessKeyId",
    "SecretAccessKey": "secretAccessKey",
    "Token": "sessionToken",
    "Expiration": "expiration",
}

Credentials = Callable[[], Mapping[str, str]]

if TYPE_CHECKING:
    from mypy_boto3_sts import STSClient
    from mypy_boto3_sts.type_defs import CredentialsTypeDef

_VARIABLE = "${credentials-iot:ThingName}"
_LONGEST_NAME = 64  # of a role, and of a session


class CredentialsProvider:
    """Serves ``GET /role-aliases/<alias>/credentials`` on a free port of 127.0.0.1.

    Args:
        alias: the only role alias.
        device_ca: file of the CA certificate of the things (PEM).
        folder: folder for the certificate of the server, ``server.pem``, which clients must trust.
        log: logger for failed requests.
    """

    def __init__(self, alias: str, device_ca: Path, folder: Path, log: logging.Logger) -> None:
        self._alias = alias
        self._device_ca = device_ca
        self.certificate = folder / "server.pem"
        self._key = folder / "server.key"
        self._log = log
        self._things: dict[str, tuple[str, Credentials]] = {}
        self._server = JsonServer("credentials provider", self._answer, log)
        self.endpoint = ""

    def register(self, thing: str, certificate: Path, credentials: Credentials) -> None:
        """Serve the result of ``credentials`` to the thing that presents this certificate (PEM file)."""
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text(encoding="ascii"))
        self._things[_fingerprint(der)] = (thing, credentials)

    async def start(self) -> None:
        """Start to listen, and set ``endpoint`` to the address (host:port)."""
        self.certificate.parent.mkdir(parents=True, exist_ok=True)
        _make_certificate(self.certificate, self._key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._device_ca))
        context.load_cert_chain(self.certificate, self._key)
        context.verify_mode = ssl.CERT_REQUIRED
        self.endpoint = f"{_HOST}:{await self._server.start(context)}"

    async def stop(self) -> None:
        """Stop listening and drop pending requests. May be called twice."""
        await self._server.stop()

    async def _answer(self, request: h11.Request, certificate: bytes) -> Answer:
        if request.method != b"GET":
            return 405, {"message": "only GET is answered"}
        if request.target != f"/role-aliases/{self._alias}/credentials".encode():
            return 404, {"message": "Role alias does not exist"}
        thing, credentials = self._things.get(_fingerprint(certificate), ("", dict))
        if not thing:
            return 403, {"message": "Access Denied"}
        named = dict(request.headers).get(b"x-amzn-iot-thingname", b"").decode("latin-1")
        # The name replaces ${credentials-iot:ThingName} in the policy of the role.
        if named != thing:
            return 400, {"message": "Invalid thing name passed"}
        try:
            found = await asyncio.to_thread(credentials)
        except Exception as error:  # noqa: BLE001 - the device gets a response for any error of the callable
            self._log.exception("no credentials for %s", thing)
            return 500, {"message": f"no credentials: {error}"}
        return 200, {"credentials": {name: found[key] for key, name in _NAMES.items()}}


def _fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def _make_certificate(certificate: Path, key: Path) -> None:
    """Write a self-signed certificate for localhost, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _HOST)])
    names = [x509.DNSName(_HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def assume(cloud: EmbeddedCloud, role_arn: str, thing: str) -> "CredentialsTypeDef":
    """Return temporary credentials of the device role for one thing."""
    policy = policy_of(cloud, role_arn, thing)
    session = thing[:_LONGEST_NAME]
    sts: STSClient = cloud.client("sts")
    if cloud.enforces:
        thing_role = _thing_role(cloud, thing, policy)
        response = sts.assume_role(RoleArn=thing_role, RoleSessionName=session)
    else:
        response = sts.assume_role(RoleArn=role_arn, RoleSessionName=session, Policy=policy)
    return response["Credentials"]


def policy_of(cloud: EmbeddedCloud, role_arn: str, thing: str) -> str:
    """Return the permissions of the role for a thing, as one policy document."""
    iam, role = cloud.client("iam"), role_arn.rsplit("/", 1)[-1]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    documents = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    statements = [statement for document in documents for statement in document["Statement"]]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}).replace(_VARIABLE, thing)


def _thing_role(cloud: EmbeddedCloud, thing: str, policy: str) -> str:
    """Create a role with this policy, which the account's owner may assume; return its ARN.

    Only the credentials provider may assume the device role itself, and its policy has no thing name.
    """
    iam, name = cloud.client("iam"), f"thing-{thing}"[:_LONGEST_NAME]
    owner = {"AWS": cloud.client("sts").get_caller_identity()["Arn"]}
    trust = {"Effect": "Allow", "Principal": owner, "Action": "sts:AssumeRole"}
    try:
        iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )
    except iam.exceptions.EntityAlreadyExistsException:
        # The role exists when credentials are renewed; it gets the present policy.
        iam.update_assume_role_policy(
            RoleName=name, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        )
    iam.put_role_policy(RoleName=name, PolicyName="thing", PolicyDocument=policy)
    arn: str = iam.get_role(RoleName=name)["Role"]["Arn"]
    return arn
