"""The AWS IoT credentials provider's stand-in: temporary AWS credentials for a thing's certificate.

On AWS it is an endpoint of its own, which asks for the device's certificate by mutual TLS and assumes the
role behind a role alias (docs.aws.amazon.com/iot/latest/developerguide/authorizing-direct-aws.html).
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedgrass.local.http_messages import Answer
from fedgrass.local.json_server import JsonServer

HOST: Final = "localhost"
VALID_DAYS: Final = 30
NAMES: Final = {
    "AccessKeyId": "accessKeyId",
    "SecretAccessKey": "secretAccessKey",
    "Token": "sessionToken",
    "Expiration": "expiration",
}

Credentials = Callable[[], Mapping[str, str]]


class CredentialsProvider:
    """Answers ``GET /role-aliases/<alias>/credentials`` on a free port of 127.0.0.1.

    Args:
        alias: the one role alias that there is.
        device_ca: the authority that signed the things' certificates (PEM).
        folder: gets the server's own certificate, ``server.pem``, which clients have to trust.
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

    def know(self, thing: str, certificate: Path, credentials: Credentials) -> None:
        """From now on give a thing that shows this certificate (PEM) what ``credentials`` returns."""
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text(encoding="ascii"))
        self._things[_fingerprint(der)] = (thing, credentials)

    async def start(self) -> None:
        """Listen; `endpoint` says where, as host:port."""
        self.certificate.parent.mkdir(parents=True, exist_ok=True)
        _make_certificate(self.certificate, self._key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._device_ca))
        context.load_cert_chain(self.certificate, self._key)
        context.verify_mode = ssl.CERT_REQUIRED
        self.endpoint = f"{HOST}:{await self._server.start(context)}"

    async def stop(self) -> None:
        """Stop listening and drop the requests under way. May be called again."""
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
        # Without the thing's name the role's policy has nothing to put in for ${credentials-iot:ThingName}.
        if named != thing:
            return 400, {"message": "Invalid thing name passed"}
        try:
            found = await asyncio.to_thread(credentials)
        except Exception as exc:  # noqa: BLE001 - the callable is not ours: whatever it raises, the device gets an answer
            self._log.exception("no credentials for %s", thing)
            return 500, {"message": f"no credentials: {exc}"}
        return 200, {"credentials": {name: found[key] for key, name in NAMES.items()}}


def _fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def _make_certificate(certificate: Path, key: Path) -> None:
    """Write a certificate for localhost that signed itself, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
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
